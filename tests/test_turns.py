"""A turn without LOCK: which process comes in so, and how another one ends that.

Between two brokers of this process, which share nothing but the files; and between processes
that are stopped, killed, or forked in the midst of a turn.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeClock, QuickDisk, open_on

import mq
from mq.storage import barrier, bias, shared
from mq.storage import disk as disk_module
from mq.storage import locks as locks_module
from mq.storage.bias import RUN
from mq.storage.real_disk import HAVE_BYTE_LOCKS, RealDisk
from mq.storage.window import Window

pytestmark = pytest.mark.skipif(
    not (HAVE_BYTE_LOCKS and barrier.heed()), reason="this system has no barrier: every turn takes LOCK"
)


class Watching(QuickDisk):
    """Counts how often each file's lock is asked for, by descriptor; and does something inside a write."""

    def __init__(self) -> None:
        super().__init__()
        self.locks: Counter[int] = Counter()
        self.at_write: Callable[[], object] | None = None

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        self.locks[fd] += 1
        return super().lock(fd, shared=shared)

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:
        if do := self.at_write:
            self.at_write = None
            written = os.pwrite(fd, data[: len(data) // 2], offset)
            do()
            os.pwrite(fd, data[written:], offset + written)
            return len(data)
        return os.pwrite(fd, data, offset)

    def window(self, fd: int, offset: int, size: int) -> Any:
        window = super().window(fd, offset, size)
        return window and WatchedWindow(self, window)


class WatchedWindow:
    """What is copied there is written, too."""

    def __init__(self, disk: Watching, window: Window) -> None:
        self._disk, self._window = disk, window
        self.ready, self.close = window.ready, window.close

    def __getitem__(self, part: slice) -> bytes:
        return self._window[part]

    def __setitem__(self, part: slice, data: bytes) -> None:
        middle = part.start
        if do := self._disk.at_write:
            self._disk.at_write = None
            middle += len(data) // 2
            self._window[part.start : middle] = data[: middle - part.start]
            do()
        self._window[middle : part.stop] = data[middle - part.start :]


def opened(path: Path, **options: Any) -> tuple[mq.Broker, Watching]:
    disk = Watching()
    return open_on(disk, path, sync="never", background=False, **options), disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def one(path: Path) -> Iterator[mq.Broker]:
    broker, _ = opened(path)
    broker.queue("mail")
    yield broker
    broker.close()


@pytest.fixture
def other(one: mq.Broker, path: Path) -> Iterator[mq.Broker]:
    broker, _ = opened(path)
    yield broker
    broker.close()


def run(broker: mq.Broker, turns: int = RUN + 1) -> list[int]:
    """So many turns; how often each asked for LOCK."""
    asked, queue = [], broker.queue("mail")
    for _ in range(turns):
        before = locks(broker)
        queue.publish("x")
        asked.append(locks(broker) - before)
    return asked


def locks(broker: mq.Broker) -> int:
    disk = broker._store.disk
    assert isinstance(disk, Watching)
    return disk.locks[broker._store.turn.locks.fd]


def owner(broker: mq.Broker) -> int:
    return broker._store.turn.mark[shared.BIAS]


def count(broker: mq.Broker) -> int:
    return broker.queue("mail").stats().ready


# ── which process owns ─────────────────────────────────────────────────────────────


def test_a_process_that_had_some_turns_in_a_row_asks_for_no_lock_any_more(one):
    asked = run(one, 3 * RUN)
    assert all(asked[: RUN - 2]) and not any(asked[RUN:])
    before = locks(one)
    queue = one.queue("mail")
    for message in queue.receive_many(3):
        message.ack()
    queue.receive().nack(delay=0)
    queue.publish_many(["y", "z"])
    assert queue.stats().ready == 3 * RUN - 1
    assert locks(one) == before


def test_the_turn_of_another_process_ends_that_and_the_count_begins_anew(one, other):
    run(one)
    assert owner(one) == one._store.turn.bias.token
    assert count(other) == RUN + 1
    assert owner(one) == 0
    asked = run(one)
    assert asked[: RUN - 1] == [1] * (RUN - 1)
    assert asked[-1] == 0
    assert count(other) == 2 * (RUN + 1)


def test_processes_that_take_turns_own_nothing(one, other):
    for _ in range(2 * RUN):
        run(one, 1)
        run(other, 1)
    assert owner(one) == 0
    assert count(one) == count(other) == 4 * RUN


def test_two_owners_have_two_slots(one, other):
    run(one)
    first = owner(one)
    run(other)
    assert 0 != owner(one) != first
    run(one)
    assert owner(one) == first


def test_beside_a_process_that_waits_for_the_lock_none_becomes_the_owner(one, monkeypatch):
    run(one, RUN - 2)
    monkeypatch.setattr(one._store.turn, "step_aside", lambda: None)
    one._store.turn.mark[shared.WAITING] = 1
    assert 0 not in run(one, 5)
    one._store.turn.mark[shared.WAITING] = 0
    assert run(one, 2)[-1] == 0


def test_a_process_that_has_the_store_for_itself_owns_nothing(path):
    broker, _ = opened(path, exclusive=True)
    with broker:
        assert run(broker) == [0] * (RUN + 1)
        assert owner(broker) == 0


def test_without_a_slot_a_process_takes_lock(one, monkeypatch):
    taken = []
    monkeypatch.setattr(one._store.disk, "lock_byte", lambda fd, at: taken.append(at))
    assert 0 not in run(one, 2 * RUN)
    assert taken == list(range(shared.SLOTS)), "it is not looked for at each turn"


@pytest.mark.parametrize("joins", [True, False], ids=["another", "this one"])
def test_beside_a_process_that_can_make_no_barrier_each_turn_takes_lock(path, joins, monkeypatch):
    """Whichever of the two it is.  The owner that there was is given time to be seen."""
    one, _ = opened(path)
    run(one)
    assert owner(one) != 0
    pauses: list[float] = []
    disk = Watching()
    monkeypatch.setattr(disk, "pause", pauses.append)
    monkeypatch.setattr(disk, "barrier", lambda: False)
    if joins:
        monkeypatch.setattr(disk, "heed_barriers", lambda: False)
    other = open_on(disk, path, sync="never", background=False)
    assert max(pauses) == bias.BARRIER_SECONDS
    assert 0 not in [*run(one), *run(other), *run(one)]
    other.close()
    one.close()
    with opened(path)[0] as again:
        assert run(again)[-1] == 0


def test_closing_and_maintenance_take_lock(one):
    run(one)
    before = locks(one)
    one._store.maintenance.run(1)
    assert locks(one) > before
    assert run(one)[-1] == 0
    one.close()
    assert owner(one) == 0


def test_a_process_that_is_the_owner_closes_beside_another(one, other, path):
    run(one)
    one.close()
    run(other)
    assert owner(other) != 0
    assert not other._store.disk.byte_is_locked(other._store.turn.page_fd, 0)


def test_an_owner_whose_pipes_were_deleted_is_waited_for_all_the_same(one, other, path):
    """It is no pipe that says that it lives."""
    run(one)
    assert one.queue("empty").receive(timeout=0.001) is None
    shutil.rmtree(path / "wake", ignore_errors=True)
    run(one)
    seen = []
    one._store.disk.at_write = lambda: seen.append(refused(other))
    one.queue("mail").publish("last")
    assert seen == [os.getpid()]
    assert count(other) == 2 * (RUN + 1) + 1


def refused(broker: mq.Broker) -> int | None:
    """Who is in the way: another process that is in the midst of a turn."""
    with pytest.MonkeyPatch.context() as patches:
        for module in (bias, locks_module):
            patches.setattr(module, "LOCK_SECONDS", 0.01)
        with pytest.raises(mq.StoreLocked) as raised:
            broker.queue("mail").publish("refused")
    return raised.value.pid


def test_a_time_out_leaves_the_owner_asked(one, other):
    """It ends what it is in the midst of, and asks for LOCK then; the next one need not wait."""
    run(one)
    seen = []
    one._store.disk.at_write = lambda: seen.append(refused(other))
    one.queue("mail").publish("last")
    assert owner(one) == one._store.turn.bias.token | shared.ASKED
    assert run(one, 1) == [1]
    assert owner(one) == 0
    assert count(other) == RUN + 3


def test_where_the_machine_stood_still_the_owner_gets_time_to_leave(one, other, monkeypatch):
    """It stood still inside, and the process that waits for it is the first to go on."""
    run(one)
    mark, word = one._store.turn.mark, one._store.turn.bias.word
    mark[word] = 1
    clock, naps = FakeClock(), itertools.count()

    def pause(seconds: float) -> None:
        nap = next(naps)
        clock.advance(seconds if nap else 3600.0)
        if nap == 2:
            mark[word] = 0

    monkeypatch.setattr(disk_module, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(other._store.disk, "pause", pause)
    run(other, 1)
    assert count(one) == RUN + 2


def test_an_owner_looks_whether_the_store_has_failed(one, other):
    run(one)
    one._store.turn.mark[shared.FAILED] = 1
    with pytest.raises(mq.StoreFailed):
        one.queue("mail").publish("x")


@pytest.mark.parametrize("name", ["LOCK", "mark"])
def test_an_owner_whose_descriptor_the_program_closed_lets_go_of_the_turn(path, tmp_path, name):
    """Within a second it is told; the file that has the number now is not locked, and nobody waits for it."""
    clock = FakeClock()
    one, _ = opened(path, clock=clock)
    other, _ = opened(path, clock=clock)
    run(one)
    store = one._store
    fd = store.turn.locks.fd if name == "LOCK" else store.turn.page_fd
    (tmp_path / "theirs").write_bytes(b"theirs")
    os.close(fd)
    theirs = os.open(tmp_path / "theirs", os.O_RDWR)
    assert theirs == fd
    clock.advance(2)
    with pytest.raises(mq.StoreFailed, match=f"{name}.*closed descriptor"):
        run(one)
    assert not any(other._store.turn.mark[shared.INSIDE + slot] for slot in range(shared.SLOTS))
    with pytest.raises(mq.StoreFailed):
        run(other, 1)
    for broker in (other, one):
        broker.close()
    assert RealDisk().lock(theirs)
    os.close(theirs)
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


@pytest.fixture
def closing(path: Path) -> Iterator[tuple[mq.Broker, mq.Broker]]:
    """An owner whose program closes the page's descriptor, and another process; the time stands still."""
    clock = FakeClock()
    one, other = opened(path, clock=clock)[0], opened(path, clock=clock)[0]
    run(one)
    assert owner(one) != 0
    yield one, other
    clock.advance(2)
    for broker in (one, other):
        with suppress(mq.StoreFailed):
            broker.close()


def close_page(broker: mq.Broker) -> None:
    os.close(broker._store.turn.page_fd)


def test_an_owner_inside_whose_descriptor_the_program_closed_does_not_pass_for_dead(closing, monkeypatch):
    """It has lost its sign of life, and what it is in the midst of must not meet what others do."""
    one, other = closing
    waits, is_out = threading.Event(), threading.Event()

    def other_comes() -> None:
        try:
            run(other, 1)
        finally:
            waits.set()  # if it did not wait

    def pause(seconds: float) -> None:
        waits.set()
        is_out.wait()

    def come() -> None:
        close_page(one)
        thread.start()
        waits.wait()

    thread = threading.Thread(target=other_comes)
    monkeypatch.setattr(other._store.disk, "pause", pause)
    one._store.disk.at_write = come
    one.queue("mail").publish("one's" * 50)
    is_out.set()
    thread.join()
    assert [message.body for message in other.queue("mail").peek(100)][RUN + 1 :] == ["one's" * 50, "x"]


def test_whether_an_owner_lives_is_not_asked_of_another_file(closing, tmp_path):
    """The program that asks has closed the page's descriptor, and got the number for a file of its own."""
    one, other = closing
    turn, fd, seen = one._store.turn, other._store.turn.page_fd, []

    def come() -> None:
        close_page(other)
        theirs = os.open(tmp_path, os.O_RDONLY)
        assert theirs == fd
        with pytest.raises(mq.StorageError, match="closed descriptor"):
            other.queue("mail").publish("x")
        seen.append(turn.mark[turn.bias.word])
        os.close(theirs)

    one._store.disk.at_write = come
    one.queue("mail").publish("last")
    assert seen == [1], "it does not pass for dead"


def test_a_process_that_has_lost_its_slot_is_the_owner_no_more(closing):
    one, other = closing
    close_page(one)
    run(other, 1)
    assert 0 not in run(one, 2 * RUN)


def test_the_slot_of_an_owner_that_was_had_out_is_not_taken(closing):
    """It may have lost it, and not know; both would come in by one word."""
    one, other = closing
    close_page(one)
    run(other)
    assert owner(other) not in (0, one._store.turn.bias.token)
    assert run(one, 1) == [1]
    assert count(other) == 2 * (RUN + 1) + 1


# ── processes ──────────────────────────────────────────────────────────────────────


def in_child(path: Path, work: Callable[[mq.Broker, Watching], object]) -> int:
    """A process that opens the store, is the owner, and does that; its number."""
    pid = os.fork()
    if pid == 0:
        try:
            broker, disk = opened(path)
            run(broker)
            assert owner(broker) != 0
            work(broker, disk)
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def publish_and(do: Callable[[], object]) -> Callable[[mq.Broker, Watching], object]:
    """In the middle of the write, in a turn without LOCK."""

    def work(broker: mq.Broker, disk: Watching) -> None:
        disk.at_write = do
        broker.queue("mail").publish("child's" * 50)

    return work


def waited_for(pid: int, options: int = 0) -> int:
    return os.waitpid(pid, options)[1]


def test_an_owner_that_is_stopped_inside_is_named_and_goes_on_later(one, path):
    pid = in_child(path, publish_and(stop))
    assert os.WIFSTOPPED(waited_for(pid, os.WUNTRACED))
    assert refused(one) == pid
    os.kill(pid, signal.SIGCONT)
    assert waited_for(pid) == 0
    assert count(one) == RUN + 2
    assert one.queue("mail").peek(100)[-1].body == "child's" * 50


def test_a_process_that_waits_for_the_lock_is_told_of_the_owner_and_not_of_the_one_that_waits_for_it(
    one, other, path, monkeypatch
):
    pid = in_child(path, publish_and(stop))
    assert os.WIFSTOPPED(waited_for(pid, os.WUNTRACED))
    told = []

    def third_comes(seconds: float) -> None:
        monkeypatch.undo()
        told.append(refused(other))

    monkeypatch.setattr(one._store.disk, "pause", third_comes)
    assert refused(one) == pid
    os.kill(pid, signal.SIGCONT)
    assert waited_for(pid) == 0
    assert told == [pid]


def test_an_owner_that_is_stopped_between_two_operations_is_not_waited_for(one, path, monkeypatch):
    pid = in_child(path, lambda broker, disk: (stop(), run(broker, 3)))
    assert os.WIFSTOPPED(waited_for(pid, os.WUNTRACED))
    monkeypatch.setattr(one._store.disk, "pause", lambda seconds: pytest.fail("it waits"))
    run(one, 2)
    monkeypatch.undo()
    os.kill(pid, signal.SIGCONT)
    assert waited_for(pid) == 0
    assert count(one) == RUN + 1 + 2 + 3


def test_an_owner_that_is_killed_inside_its_write_leaves_nothing(one, path):
    pid = in_child(path, publish_and(die))
    assert os.WIFSIGNALED(waited_for(pid))
    assert owner(one) != 0
    assert count(one) == RUN + 1
    assert run(one)[-1] == 0
    assert count(one) == 2 * (RUN + 1)
    one.close()
    with mq.open(path) as again:
        assert again.queue("mail").stats().ready == 2 * (RUN + 1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("killed", [False, True], ids=["the parent goes on", "the parent is killed"])
def test_a_child_of_a_fork_inside_a_turn_touches_nothing_of_its_parent(one, path, killed):
    """Nor does it keep the parent alive, or inside."""
    reader, writer = os.pipe()

    def fork_inside(broker: mq.Broker, disk: Watching) -> None:
        def fork() -> None:
            if os.fork() == 0:
                os.read(reader, 1)  # until it is told to go on
            elif killed:
                die()

        disk.at_write = fork
        parent, mail = os.getpid(), broker.queue("mail")
        try:
            mail.publish("parent's")
        except mq.StoreFailed:  # in the child: what it was in the midst of is the parent's
            assert os.getpid() != parent
            mail.publish("child's")
            broker.close()
            os._exit(0)

    pid = in_child(path, fork_inside)
    status = waited_for(pid)
    assert os.WIFSIGNALED(status) if killed else status == 0
    before = count(one)
    assert before == RUN + 1 + (not killed)
    run(one)
    assert owner(one) != 0
    os.close(reader)
    os.write(writer, b"!")
    os.close(writer)
    mail = one.queue("mail")
    while not any(message.body == "child's" for message in mail.peek(200)):
        one._store.disk.pause(0.001)
    assert count(one) == before + RUN + 2
