"""Ctrl-C, no memory, a worker's time limit: an exception at any bytecode of an operation.

It leaks no lock, loses nothing that returned, and delivers nothing twice inside its
visibility timeout.  Somebody else on the same store sees that at once: a second broker,
which shares nothing with the first but the files.

`strike` raises at the nth bytecode in mq, or where a signal may come in the standard library, as far
as mq calls it: what waits there may be interrupted on its way out, too.  CPython itself
delivers what comes from outside (signals, PyThreadState_SetAsyncExc) only where a function
begins, where a call returns, and where a loop jumps back; MemoryError comes wherever something is made.  So
every other bytecode is struck as well, with one exception: the way out of an operation.
There nothing may come, and with CPython nothing can:

    finally:
        store.turn.leave()        loads, and one call of C that lets go of the lock: what comes
                             in it is raised behind it, when the lock is free
    with mutex:              loads, and one call of C that gives the mutex back
    finally:
        busy.discard(me)     the same for what says that this thread is inside an operation
    finally:
        self._leading = False  loads and one store, for who leads a sync

From the first bytecode of that `finally`, or of the `with` block's exit, to the return of
the call nothing is raised here.
"""

from __future__ import annotations

import dis
import functools
import gc
import itertools
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest import mock

import pytest
from bytecodes import HERE, at_each_bytecode, by_code
from fakes import FakeClock, QuickDisk, open_on, threads_alive

import mq
from mq.delivery.agenda import Agenda
from mq.storage import barrier, bias, shared
from mq.storage.real_disk import HAVE_BYTE_LOCKS

SECONDS = 30.0  # the visibility timeout
MOVES = {"NOP", "CACHE", "POP_TOP", "COPY", "SWAP", "PRECALL", "KW_NAMES", "EXTENDED_ARG", "PUSH_NULL",
         "LOAD_FAST", "STORE_FAST", "LOAD_CONST", "LOAD_GLOBAL", "RETURN_VALUE", "RETURN_CONST",
         "LOAD_FAST_LOAD_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST", "LOAD_FAST_AND_CLEAR",
         "PUSH_EXC_INFO", "POP_EXCEPT", "RERAISE", "JUMP_FORWARD", "IS_OP", "UNPACK_SEQUENCE",
         "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE", "POP_JUMP_FORWARD_IF_FALSE",
         "POP_JUMP_FORWARD_IF_TRUE", "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE", "POP_JUMP_IF_FALSE",
         "POP_JUMP_IF_TRUE", "TO_BOOL"}  # fmt: skip
HAVE_OWNERS = HAVE_BYTE_LOCKS and barrier.heed()  # of a turn without LOCK
ERRORS = (KeyboardInterrupt, MemoryError, TimeoutError)
STRIKES_OF_A_STORE = 25  # then a new one: whoever was struck reads all of it again


@by_code
def way_out(code: CodeType) -> frozenset[int]:
    """The bytecodes between the beginning of a way out and the return of the call that goes it, and moves."""
    listing = list(dis.get_instructions(code))
    quiet = {each.offset for each in listing if each.opname in MOVES}
    quiet |= {each.offset for each in listing if each.opname == "STORE_ATTR" and each.argval == "_leading"}
    return frozenset(quiet.union(*(each[:-1] for each in ways_out(code))))


@by_code
def ways_out(code: CodeType) -> tuple[tuple[int, ...], ...]:
    """The bytecodes of each way out, and the one behind it."""
    listing = list(dis.get_instructions(code))
    found = []
    for index, each in enumerate(listing):
        called = each.opname == "CALL" and names_leave(listing, index)
        if called or leaves_with(listing, index):
            start = index
            while start and not begins(listing[start]):
                start -= 1
            found.append(tuple(each.offset for each in listing[start : index + 2]))
    return tuple(found)


def names_leave(listing: list[dis.Instruction], index: int) -> bool:
    """Whether the call at *index* is one that lets go: `leave()`, `unlock()`, `busy.discard(me)`."""
    before = [each.argval for each in listing[max(0, index - 3) : index] if isinstance(each.argval, str)]
    return bool(before) and (before[-1] in ("leave", "_unlock_sync", "unlock") or "discard" in before)


def leaves_with(listing: list[dis.Instruction], index: int) -> bool:
    """Whether the call at *index* is `__exit__(None, None, None)`, or that of an exception."""
    each = listing[index]
    if each.opname == "WITH_EXCEPT_START":
        return True
    nones = [
        one for one in listing[max(0, index - 4) : index] if one.opname == "LOAD_CONST" and one.argval is None
    ]
    return each.opname == "CALL" and each.argval == 2 and len(nones) == 3


def begins(each: dis.Instruction) -> bool:
    """Whether the line, or the handler, of a way out begins here."""
    return bool(each.starts_line) or each.opname == "PUSH_EXC_INFO"


@by_code
def between_calls(code: CodeType) -> frozenset[int]:
    """Where CPython looks for signals: where a function begins, behind a call, where a loop goes back."""
    listing = list(dis.get_instructions(code))
    found = {each.offset for each in listing if each.opname in ("RESUME", "JUMP_BACKWARD")}
    found.update(behind.offset for each, behind in pairwise(listing) if each.opname.startswith("CALL"))
    return frozenset(found)


@by_code
def struck(code: CodeType) -> frozenset[int]:
    """In mq any bytecode that is not on a way out; in the standard library those where a signal may come."""
    if code.co_filename.startswith(HERE):
        return frozenset(range(0, len(code.co_code), 2)) - way_out(code)
    return between_calls(code)


def at_any_bytecode(frame: FrameType, _before: str) -> bool:
    return frame.f_lasti in struck(frame.f_code)


@by_code
def where_signals_come(code: CodeType) -> frozenset[int]:
    """Where a signal may come, but for ways out, and behind them, where what came in there is raised."""
    return between_calls(code).difference(*ways_out(code))


def strike(
    work: Callable[[], object], at: int, error: type[BaseException],
    may_come: Callable[[FrameType, str], bool] = at_any_bytecode,
) -> bool:  # fmt: skip
    """Run *work*, and raise *error* at bytecode number *at* of mq where it *may_come*; whether there is one.

    That is told the frame, and the event before.
    """
    left = at

    def look(frame: FrameType, before: str) -> None:
        nonlocal left
        if left > 0 and may_come(frame, before):
            left -= 1
            if not left:
                raise error

    with (
        mock.patch.object(sys, "unraisablehook", lambda _: None),  # in the callback of a weak reference
        suppress(error),
        at_each_bytecode(look),
    ):
        work()
    return left <= 0


class Scene:
    """A store with messages that wait and one that is held; and somebody else who has it open."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock()
        self.broker = self._open(path)
        self.queue = self.broker.queue("mail", visibility_timeout=SECONDS)
        self.other = self._open(path)
        self.others = self.other.queue("mail")

    def _open(self, path: Path) -> mq.Broker:
        return open_on(QuickDisk(), path, sync="never", clock=self.clock, background=False)

    def close(self) -> None:
        self.broker.close()
        self.other.close()


def everything(queue: mq.Queue[Any]) -> list[Any]:
    return [
        (message.id, message.body, message.attempts, message.state, message.due_at)
        for state in ("ready", "delayed", "in_flight")
        for message in queue.peek(10**6, state=state)
    ]


class Run:
    """What one operation was told, before it was struck."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.taken: list[mq.Delivery[Any]] = []
        self.returned = False


Prepare = Callable[[Scene], "list[mq.Delivery[Any]]"]
Operation = Callable[[Scene, "list[mq.Delivery[Any]]", Run], None]


def publish(scene: Scene, held: list[mq.Delivery[Any]], run: Run) -> None:
    run.ids.append(scene.queue.publish("new"))


def publish_many(scene: Scene, held: list[mq.Delivery[Any]], run: Run) -> None:
    run.ids.extend(scene.queue.publish_many(["new", "newer", "newest"]))


def receive(scene: Scene, held: list[mq.Delivery[Any]], run: Run) -> None:
    message = scene.queue.receive(timeout=0)
    run.taken.append(message)


def receive_many(scene: Scene, held: list[mq.Delivery[Any]], run: Run) -> None:
    run.taken.extend(scene.queue.receive_many(2, timeout=0))


def receive_from(scene: Scene, held: list[mq.Delivery[Any]], run: Run) -> None:
    empty = scene.broker.queue("empty")
    message = scene.broker.receive([empty, scene.queue, empty], timeout=0)
    run.taken.append(message)


def ack(scene: Scene, held: list[mq.Delivery[Any]], run: Run) -> None:
    held[0].ack()
    run.returned = True


def ack_many(scene: Scene, held: list[mq.Delivery[Any]], run: Run) -> None:
    scene.queue.ack_many(held)
    run.returned = True


def nack(scene: Scene, held: list[mq.Delivery[Any]], run: Run) -> None:
    held[0].nack(delay=0)
    run.returned = True


def release(scene: Scene, held: list[mq.Delivery[Any]], run: Run) -> None:
    held[0].release()
    run.returned = True


def extend(scene: Scene, held: list[mq.Delivery[Any]], run: Run) -> None:
    held[0].extend(SECONDS)
    run.returned = True


OPERATIONS = (
    publish,
    publish_many,
    receive,
    receive_many,
    receive_from,
    ack,
    ack_many,
    nack,
    release,
    extend,
)


@pytest.mark.usefixtures("no_backoff_after_timeouts")
@pytest.mark.parametrize(
    "operation, behind",
    [
        *(pytest.param(each, False, id=each.__name__) for each in OPERATIONS),
        *(
            pytest.param(each, True, id=f"{each.__name__}, behind the other one")
            for each in (publish, receive, ack)
        ),
    ],
)
def test_an_operation_struck_at_any_bytecode(tmp_path, monkeypatch, places, operation, behind):
    """The lock is free, the two agree, and what is told is so.

    It comes in without LOCK; behind the other one, it takes LOCK, revokes the other one's turn, and
    makes itself the owner.
    """
    monkeypatch.setattr(bias, "RUN", 1 if behind else 2)
    scene = Scene(tmp_path / "0")
    for done, (at, error) in enumerate(zip(places(5), itertools.cycle(ERRORS))):
        if done % STRIKES_OF_A_STORE == STRIKES_OF_A_STORE - 1:
            scene.close()
            scene = Scene(tmp_path / str(at))
        held, run = prepare(scene, behind), Run()
        owns = scene.broker._store.turn.bias.token == scene.other._store.turn.mark[shared.BIAS] != 0
        assert owns == (HAVE_OWNERS and not behind)
        before = {row[0]: row for row in everything(scene.others if behind else scene.queue)}
        struck = strike(functools.partial(operation, scene, held, run), at, error)
        check(scene, before, held[0], run, operation)
        if not struck:
            break
    scene.close()
    assert at > 50, "nothing was struck"
    assert run.ids or run.taken or run.returned


def prepare(scene: Scene, behind: bool) -> list[mq.Delivery[Any]]:
    """An empty queue, but for one message that is held here and three that wait."""
    for message in scene.queue.receive_many(100, timeout=0):
        message.ack()
    scene.queue.publish_many(["held", "a", "b", "c"])
    held = scene.queue.receive(timeout=0)
    if behind:
        scene.others.publish("d")
    return [held]


def check(
    scene: Scene, before: dict[int, tuple[Any, ...]], held: mq.Delivery[Any], run: Run, operation: Operation
) -> None:
    # The lock is free: the other one comes in, and so does this one.
    [id] = scene.others.publish_many(["witness"])
    assert_free(scene.broker)
    assert everything(scene.queue) == everything(scene.others)
    after = {row[0]: row for row in everything(scene.queue)}
    assert after.pop(id)[1] == "witness"

    # Nothing that returned is lost, and nothing is there in part.
    new = [row[1] for row in after.values() if row[0] not in before]
    wanted = {publish: ["new"], publish_many: ["new", "newer", "newest"]}.get(operation, [])
    assert new == wanted or (new == [] and not run.ids)
    gone = before.keys() - after.keys()
    acks = operation in (ack, ack_many)
    assert gone <= ({held.id} if acks else set())
    if run.returned and acks:
        assert gone == {held.id}

    # Nothing is delivered twice inside its timeout, and what was taken comes back after it.
    flying = {message.id for message in scene.queue.peek(100, state="in_flight")}
    taken = Counter(message.id for message in run.taken)
    assert set(taken) <= flying
    rest = scene.others.receive_many(100, timeout=0)
    assert flying.isdisjoint(message.id for message in rest)
    scene.others.ack_many(rest)
    scene.clock.advance(SECONDS + 1)
    late = scene.queue.receive_many(100, timeout=0)
    assert {message.id for message in late} == flying
    scene.queue.ack_many(late)
    assert scene.others.stats()[:3] == (0, 0, 0)


def assert_free(broker: mq.Broker) -> None:
    """Another thread gets in, so this one has left the mutex behind."""
    assert not broker._store.turn.mutex._is_owned()


@pytest.mark.parametrize("operation", [receive, receive_many, receive_from])
def test_a_signal_that_keeps_a_delivery_from_the_caller_gives_it_back(tmp_path, operation):
    """At once, and not when its visibility timeout is over."""
    scene = Scene(tmp_path)

    def may_come(frame: FrameType, before: str) -> bool:
        # CPython does not look when one function comes back to another.
        return before != "return" and frame.f_lasti in where_signals_come(frame.f_code)

    for at, error in zip(itertools.count(1), itertools.cycle(ERRORS)):
        held, run = prepare(scene, behind=False), Run()
        struck = strike(functools.partial(operation, scene, held, run), at, error, may_come)
        taken = [held[0], *run.taken]
        flying = {message.id for message in scene.others.peek(100, state="in_flight")}
        assert flying == {message.id for message in taken}, at
        scene.queue.ack_many(taken)
        if not struck:
            break
    scene.close()
    assert at > 8, "nothing was struck"
    assert run.taken


def test_what_falls_due_struck_at_any_bytecode_stays_with_its_time():
    """Questions take the earliest out, and no log says that again."""
    for at in itertools.count(1):
        agenda = Agenda([(1, 10), (2, 20)])
        struck = strike(lambda agenda=agenda: [agenda.pop(), agenda.pop()], at, KeyboardInterrupt)
        while agenda.first():
            agenda.pop()
        agenda.add_run(3, [30, 31])
        agenda.add(4, 40)
        assert list(agenda.ascending()) == [(3, 30), (3, 31), (4, 40)], at
        if not struck:
            break
    assert at > 10, "nothing was struck"


# ── many segments, and the end ─────────────────────────────────────────────────────


def test_a_rotation_struck_at_any_bytecode(tmp_path, places):
    """The record that does not fit is there, once, or was never published."""
    clock = FakeClock()
    with open_on(
        QuickDisk(), tmp_path, sync="never", segment_bytes=1 << 10, clock=clock, background=False
    ) as other:
        others = other.queue("mail")
        others.publish("first")
        for at in places(10):
            broker = open_on(
                QuickDisk(), tmp_path, sync="never", segment_bytes=1 << 10, clock=clock, background=False
            )
            queue, store = broker.queue("mail"), broker._store
            while store.replica.log.end + 600 < store.replica.log.segments[-1].limit:
                queue.publish(bytes(100))
            name = b"%d" % at
            struck = strike(
                lambda queue=queue, name=name: queue.publish(bytes(600) + name), at, KeyboardInterrupt
            )
            others.publish("witness")
            assert everything(queue) == everything(others)
            found = [
                message.raw
                for message in queue.peek(10**6)
                if message.raw.endswith(name) and len(message.raw) > 600
            ]
            assert len(found) <= 1 if struck else len(found) == 1
            broker.close()
            other_ids = others.receive_many(10**6, timeout=0)
            others.ack_many(other_ids)
            other._store.maintenance.run()
            if not struck:
                break
    assert at > 200, "nothing was struck"


def test_maintenance_that_is_struck_holds_no_lock_while_its_error_is_kept(tmp_path):
    """A handler raises where a context manager is left; in the `except` block its frames are still there."""

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if event == "call" and frame.f_code.co_filename.endswith("contextlib.py"):
            left -= 1
            if not left:
                raise KeyboardInterrupt

    for at in itertools.count(1):
        scene, kept, left = Scene(tmp_path / str(at)), None, at
        scene.queue.publish_many([bytes(100)] * 9)
        scene.queue.ack_many(scene.queue.receive_many(5))
        store, before = scene.broker._store, sys.gettrace()
        try:
            sys.settrace(interrupt)
            store.maintenance.compact()
        except KeyboardInterrupt as error:
            kept = error
        finally:
            sys.settrace(before)
        assert_free(scene.broker)
        assert not store.busy, at
        scene.others.publish("after")
        if kept is None:
            break
        del kept
        scene.close()
    assert at > 10, "nothing was struck"


def test_a_close_struck_at_any_bytecode(tmp_path, places):
    """Called once more, it is closed; the other one goes on, and is alone then."""
    for at in places(25):
        scene = Scene(tmp_path / str(at))
        scene.queue.publish("one")
        struck = strike(scene.broker.close, at, KeyboardInterrupt)
        scene.others.publish("two")
        scene.broker.close()
        assert_free(scene.broker)
        assert [message.body for message in scene.others.receive_many(9, timeout=0)] == ["one", "two"]
        scene.other.close()
        open_on(QuickDisk(), scene.broker.path, exclusive=True, background=False).close()
        if not struck:
            break
    assert at > 50, "nothing was struck"


def test_a_close_struck_where_signals_come_leaves_nothing_and_touches_no_file_of_the_program(
    tmp_path, places, caplog
):
    """Its numbers may be other files' by the time that it is called again."""

    def may_come(frame: FrameType, _before: str) -> bool:
        return frame.f_lasti in where_signals_come(frame.f_code)

    (tmp_path / "mine").touch()
    mine, others = (tmp_path / "mine").stat().st_ino, threads_alive()
    gc.collect()  # else that may come below, and close what other tests have left
    for at in places(15):
        before = os.listdir("/dev/fd")
        broker = open_on(QuickDisk(), tmp_path / str(at), sync=1000.0)
        broker.queue("mail").publish("one")
        assert broker.queue("empty").receive(timeout=0.0001) is None  # so that a thread listens
        struck = strike(broker.close, at, KeyboardInterrupt, may_come)
        own = [os.open(tmp_path / "mine", os.O_RDONLY) for _ in range(16)]
        broker.close()
        for fd in own:
            assert os.fstat(fd).st_ino == mine, at
            os.close(fd)
        give_up = time.monotonic() + SECONDS
        while [each for each in threads_alive() if each not in others]:  # until its last lines
            assert time.monotonic() < give_up, at
        assert set(os.listdir("/dev/fd")) <= set(before), at
        if not struck:
            break
    assert at > 50, "nothing was struck"
    assert not caplog.records


@pytest.mark.usefixtures("no_power_fails")
def test_an_opening_struck_where_signals_come_keeps_no_other_one_out(tmp_path):
    """At its end it was open, and no program had a broker to close."""

    def may_come(frame: FrameType, _before: str) -> bool:
        nonlocal came
        came += frame.f_lasti in where_signals_come(frame.f_code)
        return frame.f_lasti in where_signals_come(frame.f_code)

    def open_struck(at: int) -> bool:
        nonlocal came
        came = 0
        return strike(lambda: mq.open(tmp_path, sync="never").close(), at, KeyboardInterrupt, may_come)

    came = 0
    mq.open(tmp_path).close()
    broker: list[mq.Broker] = []
    strike(lambda: broker.append(mq.open(tmp_path, sync="never")), 1 << 30, KeyboardInterrupt, may_come)
    broker.pop().close()
    assert came > 500, "nothing would be struck"
    for at in [*range(1, came, 30), *range(came - 60, came + 1)]:
        assert open_struck(at)
        mq.open(tmp_path, exclusive=True).close()


@pytest.mark.usefixtures("no_backoff_after_timeouts")
@pytest.mark.parametrize("act", ["arm", "arm elsewhere", "close", "publish", "receive"])
def test_what_is_struck_at_any_bytecode_keeps_no_message_from_a_watch(tmp_path, places, act):
    """One was told of a message, and another one stands in the line: it is told within a second."""
    scene = Scene(tmp_path / "0")
    for done, (at, error) in enumerate(zip(places(5), itertools.cycle(ERRORS))):
        if done % STRIKES_OF_A_STORE == STRIKES_OF_A_STORE - 1:
            scene.close()
            scene = Scene(tmp_path / str(at))
        store, queue, told = scene.broker._store, scene.queue, []
        watches = [scene.broker.watch(functools.partial(told.append, number)) for number in range(2)]
        for watch in watches:
            assert watch.arm([queue]) == math.inf
        if act != "publish":
            queue.publish("x")
        do = {
            "arm": lambda: watches[0].arm([queue]),  # noqa: B023  done in this round
            "arm elsewhere": lambda: watches[0].arm([scene.broker.queue("empty")]),  # noqa: B023
            "close": lambda: watches[0].close(),  # noqa: B023
            "publish": lambda: queue.publish("x"),  # noqa: B023
            "receive": lambda: queue.receive(timeout=0).release(),  # noqa: B023
        }[act]
        struck = strike(do, at, error)
        assert_free(scene.broker)
        for _ in range(2):
            if store.waiters.asleep:
                store.hear()
            store.notifier.call_all()
        if queue.stats().ready:
            assert 1 in told or (act == "publish" and told)
        scene.clock.advance(SECONDS + 1)
        for _ in range(2):
            for message in queue.receive_many(100, timeout=0):
                message.ack()
        told.clear()
        for watch in watches:
            assert watch.arm([queue]) == math.inf
        queue.publish("y")
        store.notifier.call_all()
        assert told == [0]
        queue.receive(timeout=0).ack()
        for watch in watches:
            watch.close()
        assert not store.waiters.asleep and not store.waiters.armed
        if not struck:
            break
    scene.close()
    assert at > 50, "nothing was struck"


def test_a_rename_struck_at_any_bytecode(tmp_path, places):
    """The queue has one of the two names, and the handles have it too."""
    scene = Scene(tmp_path / "s")
    for at, error in zip(places(16), itertools.cycle(ERRORS)):
        name = scene.queue.name
        struck = strike(functools.partial(scene.queue.rename, f"mail {at}"), at, error)
        assert scene.others.publish(at)  # the lock is free
        assert_free(scene.broker)
        names = scene.broker.queues()
        assert names == scene.other.queues()
        assert names in ([name], [f"mail {at}"])
        assert [scene.queue.name, scene.others.name] == names * 2, at
        scene.queue.publish_many(["x", "y"], priority=1)
        assert scene.queue.purge() == 3
        if not struck:
            break
    scene.close()
    assert at > 50, "nothing was struck"
