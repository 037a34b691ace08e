"""A turn without LOCK: its owner, and a process that revokes it, step by step.

    a   had some turns in a row, and comes in without LOCK now: it is the owner
    b   has the store open, too; when it comes in, it revokes
    c   comes after whatever happened to the two

`at_each_call` sets a stage for each call of an operation, the loads and the stores of the page
among them: a process is about to make that call, and another process comes by, or it dies.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from itertools import count
from unittest import mock

from mq.engine import replica
from mq.errors import StoreLocked
from mq.storage.bias import Bias
from mq.storage.shared import BIAS, END, HOLDER, INSIDE

from .actor import Actor
from .disk import SHORT
from .driver import Wrong
from .interleavings import LOCK, SEGMENT, on_stage
from .kernel import RUN, Here
from .stage import Stage

TIMES_OUT = 300  # pauses, and the lock of a process that is stopped has been waited for long enough
LONG = 700  # of a body: half of it, torn, is longer than all that is written over it
FEW = 2  # power cuts at each of many stages


def own(stage: Stage, name: str) -> None:
    """Have that process come in without LOCK from now on."""
    for _ in range(RUN + 1):
        stage.do(name, Actor.publish, "q")
    if not _bias(stage, name).token:
        raise Wrong(f"{name} takes LOCK for each operation")


def _bias(stage: Stage, name: str) -> Bias:
    return stage[name]._broker()._store.turn.bias


def owner_and_other(stage: Stage, others: str = "b") -> None:
    for name in "a" + others:
        stage.do(name, Actor.open, "never")
    own(stage, "a")


def at_each_call(
    here: Here, name: str, before: Callable[[Stage], None], work: Callable[[Actor], None],
    begin: Callable[[Stage], None] = lambda _: None, last: str = "", kind: str = "",
) -> Iterator[Stage]:  # fmt: skip
    """A stage for each call that *work* of one process makes, from where *begin* has led it to.

    *last*: not beyond the first store of that word of the page.  *kind*: only calls of that kind.
    """
    for nth in count(1):
        stage = Stage(here, "abc")
        try:
            before(stage)
            stage.begin(name, work)
            begin(stage)
            process = stage[name].process
            seen = 0
            while seen < nth and process.go(lambda call: kind in ("", call.kind)):
                seen += 1
            if seen < nth:
                if nth < 5:
                    raise Wrong("it made no calls")
                return
            is_last = process.call == ("store", last)
            yield stage
            if is_last:
                return
        except Wrong as wrong:
            lines = [f"{wrong}, at call {nth} of {name}: {stage[name].process.call}", *stage.lines()]
            raise Wrong("\n".join(lines)) from wrong
        finally:
            stage.shut_down()


def publish_one(actor: Actor) -> None:
    actor.publish("q", size=60)


def publish_two(actor: Actor) -> None:
    """The first as long as what another one publishes."""
    actor.publish("q", 2, size=40)


def begin_a_segment(actor: Actor) -> None:
    for _ in range(2):
        actor.publish("q", size=LONG)


def come_by(stage: Stage, name: str, *others: str) -> None:
    """That process publishes, while the others go on whenever it waits; then it takes all."""
    stage.begin(name, Actor.publish, "q", size=40)
    stage.finish(name, *others)
    stage.do(name, Actor.take, "q", 9)


@on_stage("a")
def another_comes_at_each_step_of_the_owner(stage: Stage) -> None:
    for work in (publish_one, publish_two):
        for each in at_each_call(stage.here, "a", owner_and_other, work):
            come_by(each, "b", "a")
            each.do("a", Actor.publish, "q")
            each.end(cuts=FEW)


@on_stage("a")
def the_owner_is_killed_at_each_step(stage: Stage) -> None:
    for work in (publish_one, publish_two, begin_a_segment):
        for each in at_each_call(stage.here, "a", owner_and_other, work):
            each.kill("a")
            each.look(cuts=FEW)
            come_by(each, "b")
            each.end(cuts=FEW)


def the_owner_dies_inside_its_write(stage: Stage) -> None:
    owner_and_other(stage, "bc")
    stage.begin("a", Actor.publish, "q", size=LONG)
    stage.until("a", "copy", SEGMENT)
    stage.kill("a", inside=SHORT)


@on_stage()
def killed_inside_the_write_of_a_turn_without_lock(stage: Stage) -> None:
    """What is there in part is void, though nothing announced it."""
    the_owner_dies_inside_its_write(stage)
    stage.look()
    come_by(stage, "b")
    stage.end()


@on_stage("a")
def the_process_that_revokes_a_dead_owner_is_killed_at_each_step(stage: Stage) -> None:
    """After ASKED, after DIRTY, after INSIDE = 0, …: the next one does it again."""
    for each in at_each_call(stage.here, "b", the_owner_dies_inside_its_write, publish_one, last=str(HOLDER)):
        each.kill("b")
        come_by(each, "c")
        each.end(cuts=FEW)


def the_owner_is_inside(stage: Stage) -> None:
    """It has written, and not said so yet."""
    owner_and_other(stage, "bc")
    stage.begin("a", Actor.publish, "q", size=60)
    stage.until("a", "store", str(END))


@on_stage("a")
def the_process_that_revokes_an_owner_inside_is_killed_at_each_step(stage: Stage) -> None:
    """The third one waits for the owner, too."""
    for each in at_each_call(stage.here, "b", the_owner_is_inside, publish_one, until_it_naps):
        each.kill("b")
        come_by(each, "c", "a")
        each.end(cuts=FEW)


def until_it_naps(stage: Stage) -> None:
    """b waits for the owner: from there the owner goes on to its end, and b with it."""
    waits_for_the_owner(stage, "b")
    stage.finish("a")


@on_stage()
def a_process_dies_while_it_waits_for_the_owner(stage: Stage) -> None:
    """The third one waits for the owner, too: that is inside still."""
    the_owner_is_inside(stage)
    for name in "bc":
        stage.begin(name, Actor.publish, "q")
        waits_for_the_owner(stage, name)
        stage.kill("b")
    stage.finish("c", "a")
    come_by(stage, "c", "a")
    stage.end()


def waits_for_the_owner(stage: Stage, name: str) -> None:
    stage.as_far_as_it_gets(name, waits=3)
    if stage[name].process.idle:
        raise Wrong("P1: it did not wait for the owner, which is inside")


@on_stage()
def the_owner_is_inside_and_its_processor_has_not_told_anyone(stage: Stage) -> None:
    """It has seen that no process asks, and what it stored before is not to be seen without a barrier."""
    owner_and_other(stage)
    stage.begin("a", Actor.publish, "q", size=60)
    stage.until("a", "store", str(INSIDE))
    stage.until("a", "load", str(BIAS))
    stage["a"].process.go(lambda call: call.kind != "load")
    stage.begin("b", Actor.publish, "q")
    waits_for_the_owner(stage, "b")
    stage.finish("a", "b")
    stage.end()


@on_stage()
def a_former_owner_comes_in_while_another_one_owns(stage: Stage) -> None:
    """It says that it is inside, sees that it may not, and says that it is not: all in its own word."""
    owner_and_other(stage)
    own(stage, "b")
    stage.begin("b", Actor.publish, "q", size=60)
    stage.until("b", "store", str(END))
    stage.begin("a", Actor.publish, "q", size=60)
    stage.as_far_as_it_gets("a")
    stage.finish("b", "a")
    come_by(stage, "a")
    stage.end()


@on_stage()
def the_owner_is_stopped_inside(stage: Stage) -> None:
    """Another one gives up, and a third; when the owner goes on, it asks for LOCK like any process."""
    the_owner_is_inside(stage)
    for name in "bc":
        stage.begin(name, is_refused)
        for _ in range(TIMES_OUT):
            stage.as_far_as_it_gets(name)
        if not stage[name].process.idle:
            raise Wrong("P12: a stopped owner is waited for without an end")
    stage.begin("c", Actor.publish, "q")
    stage.as_far_as_it_gets("c")
    stage.finish("a")
    stage.begin("a", Actor.publish, "q")
    stage.as_far_as_it_gets("a")
    stage.finish("c", "a")
    come_by(stage, "b")
    stage.end()


def is_refused(actor: Actor) -> None:
    try:
        actor._broker().queue("q").publish(b"refused")
    except StoreLocked:
        return
    raise Wrong("P1: it did not wait for the owner, which is inside")


@on_stage()
def the_owner_is_stopped_between_two_operations(stage: Stage) -> None:
    """No process waits for it."""
    owner_and_other(stage)
    stage.begin("b", Actor.publish, "q")
    stage.as_far_as_it_gets("b")
    if not stage["b"].process.idle:
        raise Wrong("P12: an owner that does nothing is waited for")
    come_by(stage, "a")
    stage.end()


@on_stage()
def the_owner_is_interrupted_between_the_write_and_its_end(stage: Stage) -> None:
    """What another process writes then is shorter: the rest of it must not stay behind the end."""
    owner_and_other(stage)
    stage.begin("a", Actor.publish, "q", size=LONG)
    stage.until("a", "store", str(END))
    stage["a"].process.interrupt()
    stage.finish("a")
    stage.do("b", Actor.publish, "q", size=10)
    come_by(stage, "a")
    stage.end()


@on_stage()
def the_owner_of_a_group_is_interrupted_between_the_write_and_its_end(stage: Stage) -> None:
    """The next one publishes a group of the same size."""
    owner_and_other(stage)
    stage.begin("a", publish_two)
    stage.until("a", "store", str(END))
    stage["a"].process.interrupt()
    stage.finish("a")
    stage.do("b", publish_two)
    stage.do("a", Actor.publish, "q")
    come_by(stage, "b")
    stage.end()


@on_stage("a")
def the_owner_closes_while_another_one_comes(stage: Stage) -> None:
    """At each call with which it may let that in, or keep it out."""

    def before(each: Stage) -> None:
        each.do("a", Actor.open, "never")
        own(each, "a")

    for each in at_each_call(stage.here, "a", before, Actor.close):
        call = each["a"].process.call
        if call and call.kind in ("store", "lock", "unlock", "barrier"):
            each.begin("c", Actor.open, "never")
            each.finish("c", "a")
            come_by(each, "c")
            each.end(cuts=FEW)


@on_stage()
def another_one_owns_while_a_process_follows_without_lock(stage: Stage) -> None:
    """When it has LOCK again, it revokes again."""
    with mock.patch.multiple(replica, FOLLOW_BYTES=100, KEEP_UP_BYTES=100):
        stage.do("a", Actor.open, "never")
        stage.do("b", Actor.open, "never")
        stage.do("a", Actor.publish, "q", 8, size=60)
        stage.begin("b", Actor.publish, "q")
        stage.past("b", "unlock", LOCK)
        own(stage, "a")
        stage.begin("a", Actor.publish, "q", size=60)
        stage.until("a", "store", str(END))
        stage.as_far_as_it_gets("b")
        stage.finish("a", "b")
        come_by(stage, "a", "b")
    stage.end()


@on_stage()
def a_process_without_a_barrier_comes_while_the_owner_is_inside(stage: Stage) -> None:
    """It waits for so long that the owner is seen."""
    owner_and_other(stage)
    stage.begin("a", Actor.publish, "q", size=60)
    stage.until("a", "load", str(BIAS))
    stage["a"].process.go(lambda call: call.kind != "load")
    stage["c"].process.has_barrier = False
    stage.begin("c", Actor.open, "never")
    waits_for_the_owner(stage, "c")
    stage.finish("a", "c")
    come_by(stage, "c")
    stage.end()


@on_stage()
def a_process_without_a_barrier_comes_before_there_is_an_owner(stage: Stage) -> None:
    """From then on every process takes LOCK."""
    stage.do("a", Actor.open, "never")
    stage["c"].process.has_barrier = False
    stage.do("c", Actor.open, "never")
    for _ in range(2 * RUN):
        stage.do("a", Actor.publish, "q")
    if _bias(stage, "a").token:
        raise Wrong("P1: a process comes in without LOCK beside one that cannot revoke that")
    come_by(stage, "c")
    stage.end()


@on_stage()
def a_sync_fails_while_the_owner_is_inside(stage: Stage) -> None:
    """It is in the midst of a group, which says that it is not dirty any more; then it appends nothing."""
    owner_and_other(stage)
    stage.do("b", Actor.publish, "q")
    own(stage, "a")
    stage.begin("b", Actor.flush)
    stage.until("b", "sync", SEGMENT)
    own(stage, "a")
    stage.begin("a", publish_two)
    stage.until("a", "store", str(END))
    stage.kernel.disk.strike(errno.EIO)
    stage.finish("b")
    stage.finish("a")
    stage.do("a", Actor.publish, "q")
    if not stage["a"].failed:
        raise Wrong("P9: the store has failed, and the owner goes on")
