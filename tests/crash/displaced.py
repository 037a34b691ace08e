"""An administrator, or a cleaner of old files, takes away what a process has open, at each of its calls.

    a ── publishes, begins a segment, closes …      about to make a call that changes something
    the administrator ── moves the store, or deletes a file of it
    b ── opens what has the name now, and works
    a ── goes on

Nothing that a process was told is done may be lost, wherever it is now, and nothing of a store
that b has made may be touched.  Within a second a is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from mq.api.broker import Broker
from mq.delivery import records
from mq.delivery.decode import refusals
from mq.engine.store import Store
from mq.errors import StorageError, StoreLocked
from mq.storage import repair

from .actor import Actor
from .disk import SimulatedDisk
from .driver import PATH, Wrong
from .explorer import CRASHES
from .fate import nothing_but_the_platter
from .interleavings import INTERLEAVINGS
from .kernel import READING, Call, Here
from .stage import Stage
from .view import view

OLD = PATH + ".old"
SECOND = 1.1
QUIET = READING - {"open", "exists", "names", "inode"}  # at these nothing is decided by a name
SIZE = 700  # of a body, so that each second one begins a segment


def everywhere(
    play: Callable[[Stage], None], work: Callable[[Actor], None], *, may_own: bool = True
) -> Callable[[Here], None]:  # fmt: skip
    """*play* with a stage for each call that *work* of a makes: it is about to make that.

    *may_own*: it may come in without LOCK.
    """

    def run(here: Here) -> None:
        for nth in count(1):
            stage = Stage(here, "abc")
            try:
                stage["a"].process.has_barrier = may_own
                stage.do("a", Actor.open)
                stage.do("a", Actor.publish, "q", size=SIZE)
                stage.begin("a", work)
                if not come_to(stage, nth):
                    break
                stage.kernel.disk.fired = 1  # it may well be told that the store has failed
                play(stage)
            except Wrong as wrong:
                raise Wrong("\n".join([f"{wrong}, at call {nth}", *stage.lines()])) from wrong
            finally:
                stage.shut_down()
        if nth < 4:
            raise Wrong("it made no calls")

    return run


def come_to(stage: Stage, nth: int) -> bool:
    """Whether a comes to its *nth* call that changes something, or goes by a name."""
    seen = 0

    def stop(call: Call) -> bool:
        nonlocal seen
        seen += call.kind not in QUIET
        return seen == nth

    return stage["a"].process.go(stop) is not None


def publish_two(actor: Actor) -> None:
    actor.publish("q", size=SIZE)
    actor.publish("q", size=SIZE)


def the_store_is_moved_and_another_made_there(stage: Stage) -> None:
    disk = stage.kernel.disk
    disk.rename(PATH, OLD)
    stage.do("b", Actor.open)
    for _ in range(3):
        stage.do("b", Actor.publish, "q", size=SIZE)
    before = files(disk, PATH)
    stage.finish("a")
    stage.kernel.seconds += SECOND
    if stage["a"].broker:
        stage.do("a", Actor.publish, "q")
    if stage["a"].broker:
        raise Wrong("P1: publishes go on where no reader looks, and it is not told")
    if files(disk, PATH) != before:
        raise Wrong("P1: files of another store were changed")
    for power, survivor in (False, disk.after_kill()), (True, disk.after_power(nothing_but_the_platter())):
        for path, name in (PATH, "b"), (OLD, "a"):
            expect(stage, survivor, path, name, power=power)


def a_file_is_deleted(name: str) -> Callable[[Stage], None]:
    def play(stage: Stage) -> None:
        stage.kernel.disk.unlink(f"{PATH}/{name}")
        stage.do("b", Actor.open, excuse=(StorageError,))
        stage.do("b", Actor.publish, "q", size=SIZE)
        stage.finish("a")
        stage.kernel.seconds += SECOND
        stage.do("a", Actor.publish, "q")
        if stage["a"].broker:
            raise Wrong("P12: others can come in beside it, and it is not told")
        for each in "bc":
            if stage[each].broker is None:
                stage.do(each, Actor.open)
            stage.do(each, Actor.publish, "q", size=SIZE)
        stage.end(cuts=1)

    return play


def a_repair_comes_when_format_is_gone(stage: Stage) -> None:
    def mend(actor: Actor) -> None:
        try:
            repair.repair(actor.process.disk, PATH, records.NEW, records.message_of, refusals)
        except StoreLocked:
            return
        if stage["a"].broker:
            raise Wrong("P10: repaired beside a live process")

    stage.kernel.disk.unlink(f"{PATH}/FORMAT")
    stage.begin("b", mend)
    waits = 0
    while stage["b"].process.go(lambda call: call.kind == "pause") and waits < 100:
        stage["a"].process.go(lambda call: call.kind == "pause")
        waits += 1
    stage.finish("a", "b")


# ── what is there then ─────────────────────────────────────────────────────────────


def files(disk: SimulatedDisk, path: str) -> dict[str, bytes]:
    """All but the page, which processes that join look at, too."""
    return {
        name: data
        for name, data in disk.content().items()
        if name.startswith(path + "/") and not name.endswith("/mark")
    }


def expect(stage: Stage, disk: SimulatedDisk, path: str, name: str, *, power: bool) -> None:
    """In the store at *path* is what *name* published, and nothing else."""
    published = {body: op for body, op in stage.witness.published.items() if op.who == name}
    where = f"{path} after {'a power cut' if power else 'all are killed'}"
    try:
        store = Store(
            path, sync="always", read_only=False, segment_bytes=1024, clock=None, disk=disk, background=False
        )
        found = {each.body for each in view(Broker(store)).messages}
    except CRASHES as error:
        raise Wrong(f"P9: {where} does not open: {error!r}") from error
    if not found <= published.keys():
        raise Wrong(f"P3: {where} has what was published elsewhere")
    if lost := [op for body, op in published.items() if op.returned and body not in found]:
        raise Wrong(f"P1: {where} has lost {lost[0]}")


def scenes() -> Iterator[tuple[str, Callable[[Here], None]]]:
    yield (
        "the_store_is_moved_while_one_publishes",
        everywhere(the_store_is_moved_and_another_made_there, publish_two),
    )
    yield (
        "the_store_is_moved_while_one_closes",
        everywhere(the_store_is_moved_and_another_made_there, Actor.close),
    )
    yield (
        "LOCK_is_deleted_while_one_publishes",
        everywhere(a_file_is_deleted("LOCK"), publish_two, may_own=False),
    )
    yield "mark_is_deleted_while_one_publishes", everywhere(a_file_is_deleted("mark"), publish_two)
    yield "a_repair_comes_when_format_is_gone", everywhere(a_repair_comes_when_format_is_gone, publish_two)


INTERLEAVINGS.update(scenes())
