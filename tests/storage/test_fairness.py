"""Nobody waits for ever: a process that follows, waits for the lock, or opens, beside others that never rest.

Two stores on one disk, in one thread: what the others do happens at chosen places, and what is
counted is how often they may go on before the one that waits is served.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from opened import bodies, open_on
from test_sharing import Shared, two, with_garbage

import mq.engine.replica
from mq.api.broker import Broker
from mq.delivery import backlog
from mq.engine.loading import Loader
from mq.engine.replica import READS_MAX
from mq.engine.store import Store
from mq.engine.turn import STEP_ASIDE_SECONDS, STEPS_ASIDE_MAX, VOID
from mq.storage import bias, locks, shared

BATCH = [b"." * 100] * 500
TURNS_MAX = 12  # of the others, before the one that waits is served


class Impatient(AssertionError):
    """The others had more turns than can be called fair."""


def between(store: Store, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> list[int]:
    """The others *do* that whenever *store* lets go of the lock to catch up; how often they did."""
    turns: list[int] = []
    plain = store.turn.without_lock

    def let_others_in(then: Callable[[], Any]) -> Any:
        def and_then() -> Any:
            found = then()
            turns.append(1)
            if len(turns) > TURNS_MAX:
                raise Impatient
            do()
            store.turn.mark[shared.WAITING] = 1  # and they would go on
            return found

        return plain(and_then)

    monkeypatch.setattr(store.turn, "without_lock", let_others_in)
    return turns


# ── following ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("void", [False, True], ids=["far behind", "reads anew"])
def test_a_follower_arrives_although_others_append_whenever_it_lets_go_of_the_lock(monkeypatch, void):
    one, other = two(Shared(), segment_bytes=1 << 20)
    queue, store = one.queue("a"), other._store
    queue.publish_many(BATCH)
    turns = between(store, monkeypatch, lambda: [queue.publish_many(BATCH) for _ in range(5)])
    if void:
        store.replica.applied = VOID
    assert other.queue("b").receive(timeout=0) is None
    assert turns
    turns.clear()
    assert other.queue("a").stats().ready == queue.stats().ready
    assert not turns


def test_what_is_followed_with_the_lock_held_comes_in_parts_that_double(monkeypatch):
    """A few milliseconds at first; others that wait get a turn in between."""
    one, other = two(Shared(), segment_bytes=1 << 20)
    queue, store = one.queue("a"), other._store
    queue.publish_many(BATCH)
    followed, plain = [], store.replica._apply

    def note(upto: int, enough: int = shared.NO_LIMIT) -> None:
        begin = store.replica.log.end
        plain(upto, enough)
        if enough >= mq.engine.replica.HOLD_BYTES:
            followed.append((enough, store.replica.log.end - begin))

    monkeypatch.setattr(store.replica, "_apply", note)
    between(store, monkeypatch, lambda: [queue.publish_many(BATCH) for _ in range(20)])
    other.queue("b").receive(timeout=0)
    asked = [enough for enough, _ in followed]
    assert asked == [mq.engine.replica.HOLD_BYTES << n for n in range(len(asked))] and len(asked) > 2
    assert all(got >= enough for enough, got in followed[:-1])
    assert followed[0][1] < 2 * mq.engine.replica.HOLD_BYTES


def test_a_follower_that_is_far_behind_a_slower_writer_does_not_stop_it(monkeypatch):
    one, other = two(Shared(), segment_bytes=1 << 20)
    queue, store = one.queue("a"), other._store
    left = [16, 4, 1]
    for _ in range(64):
        queue.publish_many(BATCH)
    held: list[int] = []
    plain, follow = store.replica._apply, store.replica._follow_without_lock

    def note(upto: int, enough: int = shared.NO_LIMIT) -> None:
        if enough >= mq.engine.replica.HOLD_BYTES:
            held.append(enough)
        plain(upto, enough)

    monkeypatch.setattr(store.replica, "_apply", note)
    monkeypatch.setattr(store.replica, "_follow_without_lock", lambda upto: held.append(0) or follow(upto))
    between(
        store, monkeypatch, lambda: [queue.publish_many(BATCH) for _ in range(left.pop(0) if left else 0)]
    )
    other.queue("b").receive(timeout=0)
    assert held == [0] * 3 + [mq.engine.replica.HOLD_BYTES]


@pytest.mark.parametrize("enough", [1, 1000, 30_000, 100_000])
def test_a_part_that_is_followed_ends_with_a_group(enough):
    one, other = two(Shared(), segment_bytes=32 << 10)
    queue, log = one.queue("a"), other._store.replica.log
    ends = set()
    for n in range(60):
        queue.publish_many([b"%d" % n * 100] * (1 + n % 40))
        ends.add(one._store.replica.log.end)
    upto, parts = one._store.replica.log.end, 0
    while log.end < upto:
        begin = log.end
        other._store.replica._apply(upto, enough)
        assert log.end in ends or log.end == log.segments[-1].base + 56  # behind a fence
        assert log.end >= min(upto, begin + enough) or log.end == log.segments[-1].limit
        parts += 1
    assert bodies(other) == bodies(one)
    assert parts > 1


# ── the lock ───────────────────────────────────────────────────────────────────────────

OPERATIONS: dict[str, Callable[[Broker], object]] = {
    "publish": lambda broker: broker.queue("a").publish(b"new"),
    "publish_many": lambda broker: broker.queue("a").publish_many([b"new", b"new"]),
    "publish with options": lambda broker: broker.queue("a").publish(b"new", priority=3),
    "declare": lambda broker: broker.queue("a", max_attempts=7),
    "receive": lambda broker: broker.queue("a").receive(timeout=0),
    "receive nothing": lambda broker: broker.queue("none").receive(timeout=0),
    "receive_many": lambda broker: broker.queue("a").receive_many(9, timeout=0),
    "receive_many, nothing": lambda broker: broker.queue("none").receive_many(9, timeout=0),
    "peek": lambda broker: broker.queue("a").peek(),
    "get": lambda broker: broker.queue("a").get(7),
    "stats": lambda broker: broker.queue("a").stats(),
    "stats of all": lambda broker: broker.stats(),
    "options": lambda broker: broker.queue("a").options(),
    "queues": lambda broker: broker.queues(),
    "purge": lambda broker: broker.queue("a").purge(),
    "cancel": lambda broker: broker.queue("a").cancel(7),
    "replay": lambda broker: broker.queue("a").replay(),
    "pause": lambda broker: broker.queue("a").pause(),
    "delete": lambda broker: broker.queue("a").delete(),
    "flush": lambda broker: broker.flush(),
    "maintenance": lambda broker: broker._store.maintenance.run(),
    "close": lambda broker: broker.close(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_process_that_had_the_last_turn_steps_aside_whatever_it_does(monkeypatch, name):
    disk = Shared()
    one, other = two(disk)
    store, lock = one._store, other._store.turn.locks.fd
    one.queue("a").stats()  # the last turn
    store.turn.mark[shared.WAITING] = 1
    served: list[bool] = []

    def serve(seconds: float) -> None:
        """The other process looks again: it gets the lock, and has its turn."""
        served.append(disk.lock(lock))
        disk.unlocker(lock)()
        store.turn.mark[shared.WAITING] = 0

    monkeypatch.setattr(disk, "pause", serve)
    OPERATIONS[name](one)
    assert served == [True]


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "close"])
def test_beside_a_process_that_never_rests_each_turn_that_is_waited_for_is_the_next_one(monkeypatch, name):
    """It does the same again and again: polls an empty queue, looks, purges."""
    disk = Shared()
    one, other = two(disk)
    mark, lock, served = one._store.turn.mark, other._store.turn.locks.fd, 0

    def serve(seconds: float) -> None:
        """The other process has its turn, as short as one can be."""
        nonlocal served
        assert disk.lock(lock), "the lock is not free while one steps aside"
        disk.unlocker(lock)()
        served += 1
        mark[shared.WAITING] = 0

    monkeypatch.setattr(disk, "pause", serve)
    for waited in range(1, 6):
        OPERATIONS[name](one)
        mark[shared.WAITING] = 1
        OPERATIONS[name](one)
        assert served == waited


def test_settling_steps_aside_too(monkeypatch):
    disk = Shared()
    one, _ = two(disk)
    message = one.queue("a").receive(timeout=0)
    one._store.turn.mark[shared.WAITING] = 1
    served = []

    def serve(seconds: float) -> None:
        served.append(seconds)
        one._store.turn.mark[shared.WAITING] = 0

    monkeypatch.setattr(disk, "pause", serve)
    message.ack()
    assert len(served) == 1


def test_a_process_that_waited_for_another_does_not_step_aside(monkeypatch):
    """The last turn was not its own, so it is one of those that wait."""
    disk = Shared()
    one, other = two(disk)
    other.queue("a").stats()
    one._store.turn.mark[shared.HOLDER] = one._store.turn.pid + 1
    one._store.turn.mark[shared.WAITING] = 1
    monkeypatch.setattr(disk, "pause", lambda seconds: pytest.fail("it waits for nothing"))
    one.queue("a").stats()


class Owned(Shared):
    """One on which a process may come in without the lock."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes: dict[int, int] = {}  # by the byte, which descriptor has its lock

    def lock_byte(self, fd: int, at: int) -> bool:
        return self._bytes.setdefault(at, fd) == fd

    def byte_is_locked(self, fd: int, at: int) -> bool:
        return self._bytes.get(at, fd) != fd

    def heed_barriers(self) -> bool:
        return True

    def barrier(self) -> bool:
        return True


def own(broker: Broker) -> None:
    for _ in range(bias.RUN + 1):
        broker.queue("a").stats()
    assert broker._store.turn.mark[shared.BIAS] == broker._store.turn.bias.token != 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_owner_that_is_asked_lets_the_other_process_have_its_turn_whatever_it_does(monkeypatch, name):
    disk = Owned()
    one, other = two(disk)
    own(one)
    mark, lock = one._store.turn.mark, other._store.turn.locks.fd
    assert disk.lock(lock)
    mark[shared.BIAS] |= shared.ASKED
    served: list[int] = []

    def serve(seconds: float) -> None:
        """The other process sees that the owner is not inside: it has its turn."""
        served.append(mark[shared.INSIDE])
        mark[shared.BIAS], mark[shared.HOLDER] = 0, one._store.turn.pid + 1
        disk.unlocker(lock)()

    monkeypatch.setattr(disk, "pause", serve)
    OPERATIONS[name](one)
    assert served == [0]


def test_an_owner_lets_a_process_that_is_far_behind_catch_up(monkeypatch):
    """It says that it waits while it follows, so the owner, which was revoked, pauses for a while."""
    disk = Owned()
    one, other = two(disk, segment_bytes=1 << 20)
    one.queue("a").publish_many(BATCH)
    own(one)
    plain, waited = other._store.replica._apply, []

    def follow(upto: int, enough: int = shared.NO_LIMIT) -> None:
        if not waited:
            assert disk.lock(one._store.turn.locks.fd), "it follows without the lock"
            one._store.turn.locks.unlock()
            one.queue("b").publish(b"another turn")
        plain(upto, enough)

    monkeypatch.setattr(other._store.replica, "_apply", follow)
    monkeypatch.setattr(disk, "pause", waited.append)
    assert other.queue("a").stats().ready == len(BATCH) + 1
    assert waited == [STEP_ASIDE_SECONDS] * STEPS_ASIDE_MAX
    assert other._store.turn.mark[shared.WAITING] == 0


def test_a_process_that_died_while_it_waited_holds_nobody_up_for_long(monkeypatch):
    disk = Shared()
    one, _ = two(disk)
    pauses: list[float] = []
    monkeypatch.setattr(disk, "pause", pauses.append)
    one._store.turn.mark[shared.WAITING] = 1
    for _ in range(3):
        one.queue("a").stats()
    assert len(pauses) == STEPS_ASIDE_MAX


@pytest.mark.parametrize("opens", [True, False], ids=["who opens", "who is there"])
def test_a_process_that_waits_says_so_on_the_page_until_it_is_served(monkeypatch, opens):
    """Also one that only opens the store, and does not know it yet."""
    disk = Shared()
    one, other = two(disk)
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", -1.0)
    assert disk.lock(one._store.turn.locks.fd)
    said: list[int] = []

    def give_way(seconds: float) -> None:
        said.append(one._store.turn.mark[shared.WAITING])
        one._store.turn.locks.unlock()

    monkeypatch.setattr(disk, "pause", give_way)
    if opens:
        open_on(disk).close()
    else:
        other.queue("a").stats()
    assert said[0] == 1
    assert one._store.turn.mark[shared.WAITING] == 0


def test_a_process_that_waits_follows_only_a_part_between_two_attempts(monkeypatch):
    """Else it is busy whenever the lock is free."""
    disk = Shared()
    one, other = two(disk, segment_bytes=1 << 20)
    for _ in range(200):
        one.queue("a").publish_many(BATCH[:50])
    assert disk.lock(one._store.turn.locks.fd)
    monkeypatch.setattr(locks, "MEANWHILE_SECONDS", 60.0)  # on a slow machine, too
    followed: list[int] = []

    def look(seconds: float) -> None:
        followed.append(other._store.replica.log.end)
        if len(followed) == 5:
            one._store.turn.locks.unlock()

    monkeypatch.setattr(disk, "pause", look)
    assert other.queue("a").stats().ready == one.queue("a").stats().ready
    steps = [after - before for before, after in pairwise(followed)]
    assert all(0 < step < 3 * mq.engine.replica.KEEP_UP_BYTES for step in steps)


def test_a_process_that_follows_says_that_it_waits_though_others_say_that_none_does(monkeypatch):
    """A process that waited for the lock, and has it, clears the word: the others set it again."""
    one, other = two(Shared(), segment_bytes=1 << 20)
    store = other._store
    for _ in range(200):
        one.queue("a").publish_many(BATCH[:50])
    waiting: list[int] = []
    plain = store.replica._apply

    def follow(upto: int, enough: int = shared.NO_LIMIT) -> None:
        waiting.append(store.turn.mark[shared.WAITING])
        plain(upto, enough)
        store.turn.mark[shared.WAITING] = 0

    monkeypatch.setattr(store.replica, "_apply", follow)
    assert other.queue("a").stats().ready == one.queue("a").stats().ready
    assert len(waiting) > 10
    assert all(waiting)


# ── opening, and reading anew ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("joins", [True, False], ids=["who joins", "who reads anew"])
def test_others_that_rotate_and_clean_all_the_time_let_a_reader_of_all_be_first_some_day(monkeypatch, joins):
    disk = Shared()
    one, other = two(disk)
    plain, tried = Loader.load, []

    def clean_meanwhile(self: Loader, *args: Any) -> Any:
        tried.append(1)
        if len(tried) > READS_MAX + 1:
            raise Impatient
        if disk.lock(one._store.turn.locks.fd):  # else they wait
            one._store.turn.locks.unlock()
            for _ in range(3):
                with_garbage(one)
                one._store.maintenance.run()
        return plain(self, *args)

    with monkeypatch.context() as patches:
        patches.setattr(Loader, "load", clean_meanwhile)
        if joins:
            other = open_on(disk, sync="never")
        else:
            other._store.replica.applied = VOID
        other.queue("a").stats()
    assert len(tried) == READS_MAX + 1
    one.queue("a").publish(b"last")
    assert bodies(other) == bodies(one) == [b"last"]


# ── checkpoints ────────────────────────────────────────────────────────────────────────


def test_what_another_checkpoint_does_not_keep_is_read_once_and_without_the_lock(monkeypatch):
    """It was read again for each chunk, with the lock held: seconds, beside others that write checkpoints."""
    monkeypatch.setattr(backlog, "CHUNK_IDS", 16)
    disk = Shared()
    one, other = two(disk, segment_bytes=1 << 20)
    for n in range(200):
        one.queue("a").publish(b"%d" % n)
    one._store.maintenance.checkpoints.write()
    third = open_on(disk, segment_bytes=1 << 20)  # its ids are in that checkpoint
    other._store.maintenance.checkpoints.write()  # and not in this one
    lock, loads, plain = one._store.turn.locks.fd, [], Loader.load

    def load(self: Loader, *args: Any) -> Any:
        loads.append(disk.lock(lock))
        disk.unlocker(lock)()
        return plain(self, *args)

    with monkeypatch.context() as patches:
        patches.setattr(Loader, "load", load)
        third._store.maintenance.checkpoints.write()
    assert loads == [True]
    assert bodies(third) == bodies(open_on(disk, segment_bytes=1 << 20)) == bodies(one)
