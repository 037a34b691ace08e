"""What people trip over: each sentence of the README's list, and a few that the guide has.

What a SIGKILL at any instruction, a failed write and a power cut do is asked under tests/crash and
tests/storage; here a store is abandoned, as a process leaves it that dies between two operations.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec
import pytest
from engines import Engine
from fakes import CountingDisk, FakeClock, open_on

import mq
from mq.delivery.queue import QueueState

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]

TIMEOUT_SECONDS = 30.0
PATIENCE = 60.0  # seconds after which a test that hangs has failed


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue[object]:
    queue = broker.queue("q")
    queue.publish_many(["first", "second"])
    return queue


def take(queue: mq.Queue[object]) -> mq.Delivery[object]:
    delivery = queue.receive(timeout=0)
    assert delivery is not None
    return delivery


# ── with message: ──────────────────────────────────────────────────────────────────


def test_with_acks(queue: mq.Queue[object]) -> None:
    with take(queue):
        pass
    assert queue.stats().acked == 1


@pytest.mark.parametrize(
    "error", [ValueError("no"), mq.UsageError("no")], ids=lambda error: type(error).__name__
)
def test_with_nacks_on_an_exception_and_raises_it_again(queue: mq.Queue[object], error: Exception) -> None:
    with pytest.raises(type(error)) as caught, take(queue):
        raise error
    assert caught.value is error
    assert (queue.stats().failed, queue.stats().delayed) == (1, 1)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_with_releases_on_what_is_no_failure(queue: mq.Queue[object], kind: type[BaseException]) -> None:
    with pytest.raises(kind), take(queue):
        raise kind
    again = take(queue)
    assert (again.body, again.attempts, queue.stats().failed) == ("first", 1, 0)


def test_with_never_masks_the_first_exception(queue: mq.Queue[object], clock: FakeClock) -> None:
    """The delivery is stale by then, so that even the nack fails."""
    with pytest.raises(ValueError, match="the first one"), take(queue):
        clock.advance(TIMEOUT_SECONDS)
        take(queue)
        raise ValueError("the first one")


def test_with_does_nothing_to_a_settled_message(queue: mq.Queue[object]) -> None:
    with take(queue) as message:
        message.release()
    assert queue.stats().acked == 0


# ── failed attempts, closing ───────────────────────────────────────────────────────


def test_a_visibility_timeout_is_a_failed_attempt(queue: mq.Queue[object], clock: FakeClock) -> None:
    take(queue)
    clock.advance(TIMEOUT_SECONDS)
    assert (take(queue).attempts, queue.stats().failed) == (2, 1)


def test_a_kill_is_a_failed_attempt(engine: Engine, broker: mq.Broker, clock: FakeClock) -> None:
    broker.queue("q").publish("x")
    take(broker.queue("q"))
    engine.abandon(broker)
    queue = engine.open(clock=clock).queue("q")
    clock.advance(TIMEOUT_SECONDS)
    assert (take(queue).attempts, queue.stats().failed) == (2, 1)


def test_max_attempts_are_deliveries_and_not_retries(broker: mq.Broker) -> None:
    queue = broker.queue("q", max_attempts=5)
    queue.publish("x")
    deliveries = 0
    while message := queue.receive(timeout=0):
        deliveries += 1
        message.nack(delay=0)
    assert (deliveries, broker.queue("q.dead").stats().ready) == (5, 1)


def test_a_release_is_not_a_failed_attempt(queue: mq.Queue[object]) -> None:
    take(queue).release()
    assert (take(queue).attempts, queue.stats().failed) == (1, 0)


def test_close_settles_nothing(engine: Engine, broker: mq.Broker, clock: FakeClock) -> None:
    broker.queue("q").publish("held")
    take(broker.queue("q"))
    broker = engine.reopen(broker)
    assert broker.queue("q").receive(timeout=0) is None
    clock.advance(TIMEOUT_SECONDS)
    assert take(broker.queue("q")).attempts == 2


# ── receiving ──────────────────────────────────────────────────────────────────────


def test_iteration_ends_when_the_broker_closes(broker: mq.Broker, queue: mq.Queue[object]) -> None:
    bodies = []
    for message in queue:
        bodies.append(message.body)
        message.ack()
        if len(bodies) == 2:  # nothing is left, and it would go on waiting
            broker.close()
    assert bodies == ["first", "second"]


def test_receiving_until_none_drains(queue: mq.Queue[object]) -> None:
    bodies = []
    while message := queue.receive(timeout=0):
        bodies.append(message.body)
    assert bodies == ["first", "second"]


def test_receive_raises_closed_when_the_broker_is_closed(broker: mq.Broker, queue: mq.Queue[object]) -> None:
    broker.close()
    with pytest.raises(mq.Closed):
        queue.receive()


def test_receive_waits_until_the_broker_closes(broker: mq.Broker) -> None:
    told: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(mq.Closed) as caught:
            broker.queue("q").receive()
        told.append(caught.value)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while not broker._store.waiters.asleep:
        pass
    broker.close()
    thread.join(PATIENCE)
    assert len(told) == 1


def test_receive_with_a_timeout_returns_none_when_that_is_over(broker: mq.Broker) -> None:
    assert broker.queue("q").receive(timeout=0.001) is None


@contextmanager
def handled(broker: mq.Broker, handle: Callable[[], object]) -> Iterator[threading.Thread]:
    """A signal's handler runs once, in this thread, when it waits for a message; the thread that sees to it.

    A signal that comes just before the thread blocks is handled only when it wakes: so they go on coming.
    """
    begun = threading.Event()

    def begin(*args: object) -> None:
        if not begun.is_set():
            begun.set()
            handle()

    def send() -> None:
        while not begun.is_set():
            if broker._store.waiters.asleep:
                os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.001)

    before = signal.signal(signal.SIGUSR1, begin)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield sender
    finally:
        begun.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_inside_a_receive_may_close(broker: mq.Broker) -> None:
    with handled(broker, broker.close), pytest.raises(mq.Closed):
        broker.queue("q").receive(timeout=PATIENCE)


@pytest.mark.parametrize("inside", ["publish", "receive"])
def test_a_handler_inside_a_receive_may_do_nothing_else(broker: mq.Broker, inside: str) -> None:
    queue, told = broker.queue("q"), []

    def handle() -> None:
        with pytest.raises(mq.UsageError) as caught:
            queue.publish("x") if inside == "publish" else queue.receive(timeout=0)
        told.append(caught.value)

    with handled(broker, handle) as sender:
        threading.Thread(target=lambda: (sender.join(), queue.publish("from a thread"))).start()
        message = queue.receive(timeout=PATIENCE)
    assert message and message.body == "from a thread"
    assert len(told) == 1


def test_an_exception_out_of_a_handler_ends_a_wait_and_nothing_is_held(broker: mq.Broker) -> None:
    def handle() -> None:
        raise TimeoutError("enough")

    with handled(broker, handle), pytest.raises(TimeoutError, match="enough"):
        broker.queue("q").receive(timeout=PATIENCE)
    broker.queue("q").publish("x")
    assert (take(broker.queue("q")).attempts, broker.queue("q").stats().in_flight) == (1, 1)


def test_receive_many_holds_at_most_one_of_each_group(broker: mq.Broker) -> None:
    """SEMANTICS 6."""
    queue = broker.queue("q")
    queue.publish_many(["a1", "a2"], group="a")
    queue.publish_many(["b1", "b2"], group="b")
    assert [each.body for each in queue.receive_many(9)] == ["a1", "b1"]


def test_receive_many_of_any_number_per_group_holds_a_run_until_all_are_settled(broker: mq.Broker) -> None:
    """SEMANTICS 29."""
    queue = broker.queue("q")
    queue.publish_many(["a1", "a2", "a3", "a4"], group="a")
    first, second, third = queue.receive_many(3, per_group=None)
    first.ack()
    third.reject()
    assert queue.receive_many(9, timeout=0, per_group=None) == []
    second.nack(delay=0)
    assert [each.body for each in queue.receive_many(9, timeout=0, per_group=None)] == ["a2", "a4"]


def test_one_of_a_run_that_goes_back_takes_those_behind_it_with_it(broker: mq.Broker) -> None:
    """SEMANTICS 29."""
    queue = broker.queue("q")
    queue.publish_many(["a1", "a2", "a3"], group="a")
    first, second, third = queue.receive_many(3, per_group=None)
    first.ack()
    second.nack(delay=0)
    with pytest.raises(mq.StaleReceipt):
        third.ack()
    taken = queue.receive_many(9, per_group=None)
    assert [(each.body, each.attempts) for each in taken] == [("a2", 2), ("a3", 1)]


def test_receive_many_returns_as_soon_as_it_has_one(queue: mq.Queue[object]) -> None:
    """SEMANTICS 6."""
    assert len(queue.receive_many(100)) == 2


def test_a_late_ack_succeeds_if_nobody_overtook_it(queue: mq.Queue[object], clock: FakeClock) -> None:
    late = take(queue)
    clock.advance(10 * TIMEOUT_SECONDS)
    late.ack()
    assert take(queue).body == "second"


@pytest.mark.parametrize("by", ["nack_many", "purge", "delete"])
def test_a_late_ack_of_what_was_settled_since_is_stale(
    queue: mq.Queue[object], clock: FakeClock, by: str
) -> None:
    late = take(queue)
    clock.advance(TIMEOUT_SECONDS)
    queue.nack_many([late.receipt]) if by == "nack_many" else getattr(queue, by)()
    with pytest.raises(mq.StaleReceipt):
        late.ack()


def test_unfenced_settles_a_message_that_another_receiver_may_be_working_on(
    queue: mq.Queue[object], clock: FakeClock
) -> None:
    late = take(queue)
    clock.advance(TIMEOUT_SECONDS)
    working = take(queue)
    queue.ack_many([late], fenced=False)
    with pytest.raises(mq.StaleReceipt):
        working.ack()
    assert queue.stats().acked == 1


def test_a_late_ack_of_what_was_delivered_again_is_stale(queue: mq.Queue[object], clock: FakeClock) -> None:
    late = take(queue)
    clock.advance(TIMEOUT_SECONDS)
    again = take(queue)
    with pytest.raises(mq.StaleReceipt) as caught:
        late.ack()
    assert caught.value.ids == (late.id,)
    again.ack()


@pytest.mark.file_store
def test_acks_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    disk = CountingDisk()
    with open_on(disk, tmp_path / "s") as broker:
        queue = broker.queue("q")
        queue.publish("body")
        before = disk.log_syncs()
        take(queue).ack()
        assert disk.log_syncs() == before
        queue.publish("body")
        assert disk.log_syncs() > before


# ── bodies, time, order, ids ───────────────────────────────────────────────────────


WHEN = datetime(2024, 5, 17, tzinfo=UTC)
UUID_ = UUID(int=7)


class Job(msgspec.Struct):
    at: datetime
    key: UUID
    price: Decimal
    tags: tuple[str, ...]


@pytest.mark.parametrize(
    "body, comes_back",
    [
        pytest.param(b"\x00\xff", b"\x00\xff", id="bytes"),
        pytest.param("", "", id="str"),
        pytest.param((1, 2), [1, 2], id="tuple"),
        pytest.param({1}, [1], id="set"),
        pytest.param([UUID_], [str(UUID_)], id="UUID"),
        pytest.param(Decimal("1.50"), "1.50", id="Decimal"),
    ],
)
def test_bodies_come_back_as_sent_or_as_msgpack(broker: mq.Broker, body: object, comes_back: object) -> None:
    queue = broker.queue("q")
    queue.publish(body)
    got = take(queue).body
    assert got == comes_back and type(got) is type(comes_back)


def test_with_a_type_bodies_come_back_as_that(broker: mq.Broker) -> None:
    job = Job(WHEN, UUID_, Decimal("1.50"), ("a",))
    queue = broker.queue("q", type=Job)
    queue.publish(job)
    assert take(queue).body == job  # type: ignore[arg-type]


def test_a_retried_message_returns_to_its_place_and_later_ones_overtake_it(
    queue: mq.Queue[object], clock: FakeClock
) -> None:
    """SEMANTICS 11."""
    queue.publish("third")
    take(queue).nack(delay=10)
    assert take(queue).body == "second"
    clock.advance(10)
    assert take(queue).body == "first"
    assert take(queue).body == "third"


def test_what_is_retried_holds_up_its_group_and_no_other(queue: mq.Queue[object], clock: FakeClock) -> None:
    """SEMANTICS 11."""
    queue.purge()
    queue.publish_many(["first", "second"], group="g")
    queue.publish("other", group="h")
    take(queue).nack(delay=10)
    assert take(queue).body == "other"
    assert queue.receive(timeout=0) is None
    clock.advance(10)
    first = take(queue)
    assert first.body == "first"
    first.ack()
    assert take(queue).body == "second"


@pytest.mark.parametrize("act", ["reject", "set max_attempts"])
def test_a_message_that_always_fails_holds_up_its_group_until_somebody_acts(
    broker: mq.Broker, act: str
) -> None:
    """SEMANTICS 12."""
    queue = broker.queue("q", backoff=mq.Backoff(initial=0))
    queue.publish_many(["poison", "next"], group="g")
    for attempt in range(1, 30):
        message = take(queue)
        assert (message.body, message.attempts) == ("poison", attempt)
        message.nack()
    if act == "reject":
        take(queue).reject()
    else:
        broker.queue("q", max_attempts=5)
        take(queue).nack()
    assert take(queue).body == "next"


def test_priority_chooses_between_groups_and_never_inside_one(broker: mq.Broker) -> None:
    """SEMANTICS 13."""
    queue = broker.queue("q")
    queue.publish("a, low", group="a")
    queue.publish("a, high", group="a", priority=9)
    queue.publish("b", group="b", priority=5)
    assert [each.body for each in queue.receive_many(9)] == ["b", "a, low"]


def test_naive_datetimes_are_refused(queue: mq.Queue[object]) -> None:
    with pytest.raises(mq.UsageError, match="time zone"):
        queue.publish("x", at=datetime(2030, 1, 1))
    with pytest.raises(mq.UsageError, match="time zone"):
        queue.reschedule(1, at=datetime(2030, 1, 1))


@pytest.mark.needs("own clock")
def test_a_jump_of_the_wall_clock_moves_dates_and_not_backoffs_and_dedup_windows(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall_ns = [WHEN.timestamp() * 1e9]
    monkeypatch.setattr("mq.engine.clock.time.time_ns", lambda: int(wall_ns[0]))
    queue = engine.open().queue("q", dedup_window=600, backoff=mq.Backoff(initial=600))
    id = queue.publish("backs off", dedup_id="k")
    take(queue).nack()
    queue.publish("at", at=WHEN + timedelta(hours=1))
    queue.publish("delay", delay=3600)
    queue.publish("ttl", ttl=3600)
    assert [each.body for each in queue.peek()] == ["ttl"]
    wall_ns[0] += 3601e9
    assert [each.body for each in queue.peek()] == ["at", "delay"]
    assert queue.publish("again", dedup_id="k") == id
    assert [each.body for each in queue.peek(state="delayed")] == ["backs off"]


@pytest.mark.needs("own clock")
def test_delays_follow_the_wall_clock_and_visibility_timeouts_do_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall_ns = [WHEN.timestamp() * 1e9]
    monkeypatch.setattr("mq.engine.clock.time.time_ns", lambda: int(wall_ns[0]))
    queue = engine.open().queue("q")
    queue.publish_many(["held", "delayed"])
    take(queue)
    take(queue).nack(delay=3600)
    assert queue.receive(timeout=0) is None
    wall_ns[0] += 3600e9
    assert take(queue).body == "delayed"
    assert queue.stats().in_flight == 2


@pytest.mark.needs("equal positions")
def test_an_id_stays_and_is_unique_only_within_its_store(engine: Engine, clock: FakeClock) -> None:
    """SEMANTICS 14."""
    one, two = engine.open("one", clock=clock), engine.open("two", clock=clock)
    id = one.queue("q").publish("a")
    assert two.queue("q").publish("b") == id and one.store_id != two.store_id
    assert take(one.queue("q")).id == id
    clock.advance(TIMEOUT_SECONDS)
    assert take(one.queue("q")).id == id


@pytest.mark.parametrize("reopened", [False, True])
def test_an_id_never_changes(engine: Engine, broker: mq.Broker, reopened: bool) -> None:
    """SEMANTICS 14.  Redelivery, dead letter, replay, compaction."""
    queue = broker.queue("q")
    garbage = queue.publish("garbage")
    id = queue.publish("x")
    queue.cancel(garbage)
    take(queue).nack(delay=0)
    broker._store.maintenance.compact()
    if reopened:
        broker = engine.reopen(broker)
        queue = broker.queue("q")
    message = take(queue)
    assert message.id == id
    message.reject()
    assert broker.queue("q.dead").peek()[0].id == id
    broker.queue("q.dead").replay()
    assert take(queue).id == id


# ── transactions, and publishing again ─────────────────────────────────────────────


def test_a_transaction_locks_nothing_and_a_stale_ack_undoes_all_of_it(
    broker: mq.Broker, queue: mq.Queue[object]
) -> None:
    message = take(queue)
    with pytest.raises(mq.StaleReceipt), broker.transaction() as tx:
        tx.publish("out", "x")
        tx.ack(message)
        message.release()
        queue.publish("meanwhile")
        take(queue)
    assert broker.queues() == ["q"]
    assert (queue.stats().ready, queue.stats().in_flight, queue.stats().acked) == (2, 1, 0)


def test_a_publish_that_was_interrupted_is_made_again_with_the_same_dedup_id(
    broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is stored was open; now it is, once."""

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    queue = broker.queue("q")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(QueueState, "publish_with", interrupted)
        queue.publish("x", dedup_id="k")
    queue.publish("x", dedup_id="k")
    assert [each.body for each in queue.peek()] == ["x"]


@pytest.mark.parametrize("gone", ["acked", "purged", "dead"])
def test_a_dedup_id_is_remembered_for_its_window_even_if_the_message_is(
    broker: mq.Broker, clock: FakeClock, gone: str
) -> None:
    queue = broker.queue("q", dedup_window=60)
    id = queue.publish("x", dedup_id="k")
    if gone == "purged":
        queue.purge()
    else:
        take(queue).ack() if gone == "acked" else take(queue).reject()
    clock.advance(59)
    assert (queue.publish("x", dedup_id="k"), queue.stats().ready) == (id, 0)
    clock.advance(1)
    assert queue.publish("x", dedup_id="k") > id


# ── declaring, extending, opening ──────────────────────────────────────────────────


def test_declaring_again_changes_only_what_is_named_at_once(broker: mq.Broker) -> None:
    one, other = broker.queue("q", visibility_timeout=5), broker.queue("q")
    assert other.options()["visibility_timeout"] == 5
    broker.queue("q", visibility_timeout=7)
    assert one.options()["visibility_timeout"] == 7


@pytest.mark.needs("sharing")
def test_declaring_again_changes_it_for_every_process(engine: Engine, broker: mq.Broker) -> None:
    queue = broker.queue("q", visibility_timeout=5, max_attempts=3)
    engine.open(clock=broker._store.clock._custom).queue("q", visibility_timeout=7)
    assert (queue.options()["visibility_timeout"], queue.options()["max_attempts"]) == (7, 3)


@pytest.mark.file_store
def test_creating_a_store_logs_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "mq"):
        mq.open("data").close()
    assert caplog.messages == [f"created the store {tmp_path / 'data'}"]


@pytest.mark.file_store
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_after_a_fork_parent_and_child_hold_the_same_receipt(tmp_path: Path) -> None:
    """The first to settle wins."""
    with mq.open(tmp_path / "s") as broker:
        queue = broker.queue("q")
        queue.publish("x")
        message = take(queue)
        if (child := os.fork()) == 0:
            try:
                message.ack()
            finally:
                os._exit(queue.stats().acked)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        with pytest.raises(mq.StaleReceipt):
            message.ack()


def test_extend_counts_from_now(queue: mq.Queue[object], clock: FakeClock) -> None:
    message = take(queue)
    clock.advance(TIMEOUT_SECONDS - 1)
    message.extend(2)
    clock.advance(1)
    assert take(queue).body == "second"
    clock.advance(1)
    assert take(queue).body == "first"


def test_keep_extends_while_the_process_lives_whether_or_not_the_work_makes_progress(
    engine: Engine, clock: FakeClock
) -> None:
    """SEMANTICS 30."""
    broker = engine.open(clock=clock, background=False)
    queue = broker.queue("q")
    queue.publish("hangs")
    broker.keep(take(queue))
    for _ in range(100):
        clock.advance(TIMEOUT_SECONDS / 2)
        broker._store.keeper.step()  # what its thread does
    assert queue.receive(timeout=0) is None
    engine.abandon(broker)  # the process dies
    queue = engine.open(clock=clock).queue("q")
    clock.advance(TIMEOUT_SECONDS)
    assert take(queue).attempts == 2


def test_a_consumer_extends_and_a_plain_loop_does_not(engine: Engine, clock: FakeClock) -> None:
    """SEMANTICS 21."""
    broker = engine.open(clock=clock, background=False)
    orders = broker.queue("orders")
    orders.publish("long")
    others: list[mq.Delivery[object] | None] = []

    @broker.consumer("orders")
    def work(body: str) -> None:
        for _ in range(10):
            clock.advance(TIMEOUT_SECONDS / 2)
            broker._store.keeper.step()  # what its thread does
        others.append(orders.receive(timeout=0))

    broker.run(until_empty=True)
    assert others == [None]
    orders.publish("long")
    take(orders)
    clock.advance(TIMEOUT_SECONDS)
    assert take(orders).attempts == 2


def test_a_handler_that_raises_never_ends_the_worker_and_says_why(engine: Engine, clock: FakeClock) -> None:
    """SEMANTICS 33."""
    broker = engine.open(clock=clock, background=False)
    orders = broker.queue("orders", max_attempts=1)
    orders.publish_many(["bad", "good"])
    seen: list[str] = []

    @broker.consumer("orders")
    def work(body: str) -> None:
        if body == "bad":
            raise KeyError("customer")
        seen.append(body)

    broker.run(until_empty=True)
    assert seen == ["good"]
    assert broker.queue("orders.dead").peek()[0].failures[0].reason == "KeyError: 'customer'"


@pytest.mark.file_store
def test_a_relative_path_depends_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        mq.open("data").close()
        assert (tmp_path / name / "data" / "FORMAT").exists()


def test_a_store_in_memory_is_private() -> None:
    with mq.open(":memory:") as one, mq.open(":memory:") as other:
        one.queue("q").publish("x")
        assert other.queues() == []


@pytest.mark.file_store
@pytest.mark.parametrize("sync", ["never", 3600.0])
def test_without_always_a_publish_returns_before_the_disk_has_it(tmp_path: Path, sync: str | float) -> None:
    disk = CountingDisk()
    with open_on(disk, tmp_path / "s", sync=sync) as broker:
        broker.queue("q").publish("made")
        before = disk.log_syncs()
        broker.queue("q").publish("body")
        assert disk.log_syncs() == before


@pytest.mark.parametrize("sync", ["always", "never", 3600.0])
def test_a_kill_loses_nothing_that_was_published(engine: Engine, sync: str | float) -> None:
    broker = engine.open(sync=sync)
    broker.queue("q").publish_many(["one", "two"])
    engine.abandon(broker)
    assert [each.body for each in engine.open().queue("q").peek()] == ["one", "two"]


def test_a_datetime_with_a_time_zone_comes_back_as_one(broker: mq.Broker) -> None:
    aware, naive = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 5)
    broker.queue("q").publish({"aware": aware, "naive": naive})
    assert broker.queue("q").peek()[0].body == {"aware": aware, "naive": "2026-01-02T03:04:05"}


def test_dead_letters_are_never_refused_for_want_of_room(broker: mq.Broker) -> None:
    broker.queue("graves", max_length=1)
    mail = broker.queue("mail", dead_letter="graves")
    mail.publish_many(["a", "b", "c"])
    for message in mail.receive_many(3, timeout=0):
        message.reject()
    assert broker.queue("graves").stats().ready == 3


def test_a_fan_out_has_one_id_in_several_queues(broker: mq.Broker) -> None:
    """SEMANTICS 15."""
    mail, bills = broker.queue("mail"), broker.queue("bills")
    for queue in (mail, bills):
        queue.subscribe("orders.*")
    id = broker.topic("orders.paid").publish("x")
    assert [each.id for queue in (mail, bills) for each in queue.peek()] == [id, id]


def test_the_second_queues_dead_letter_of_a_fan_out_is_a_new_message(broker: mq.Broker) -> None:
    """SEMANTICS 14."""
    for name in ("mail", "bills"):
        broker.queue(name, dead_letter="dead").subscribe("orders.*")
    id = broker.topic("orders.paid").publish("x")
    for name in ("mail", "bills"):
        take(broker.queue(name)).reject()
    first, second = broker.queue("dead").peek()
    assert (first.id, first.origin, second.origin) == (id, "mail", "bills")
    assert second.id != id


def test_a_publish_without_subscriber_and_retention_is_gone_and_counted(broker: mq.Broker) -> None:
    """SEMANTICS 23."""
    broker.topic("orders.paid").publish("x")
    mail = broker.queue("mail")
    mail.subscribe("orders.*")
    assert mail.receive(timeout=0) is None
    assert broker.stats().unrouted == 1


def test_a_publish_without_subscriber_is_there_if_the_topic_retains_it(broker: mq.Broker) -> None:
    """SEMANTICS 23."""
    broker.topic("orders.paid", retain_count=1).publish("x")
    assert [each.body for each in broker.topic("orders.paid").history()] == ["x"]
    assert broker.stats().unrouted == 0


# ── schedules ──────────────────────────────────────────────────────────────────────


@pytest.mark.needs("sharing")
def test_a_tick_is_published_once_whichever_process_runs(engine: Engine, clock: FakeClock) -> None:
    """SEMANTICS 31."""
    brokers = [engine.open(clock=clock) for _ in range(3)]
    brokers[0].schedule("s", "q", "tick", every=60)
    for n in range(1, 4):
        clock.advance(60)
        for broker in brokers:
            broker.queue("other").publish("whatever")
        assert {broker.queue("q").stats().published for broker in brokers} == {n}


@pytest.mark.parametrize("missed, ticks", [("one", 1), ("all", 3), ("skip", 0)])
def test_ticks_that_no_process_was_there_for(
    engine: Engine, clock: FakeClock, missed: Literal["one", "all", "skip"], ticks: int
) -> None:
    """SEMANTICS 31."""
    broker = engine.open(clock=clock)
    broker.schedule("s", "q", "tick", every=60, missed=missed)
    broker.close()
    clock.advance(210)
    broker = engine.reopen(broker)
    for _ in range(5):
        broker.queue("other").publish("whatever")
    assert broker.queue("q").stats().published == ticks


def test_a_schedule_follows_its_time_zone_over_a_clock_change(engine: Engine, clock: FakeClock) -> None:
    """SEMANTICS 31."""
    clock.now = datetime(2026, 3, 28, tzinfo=UTC).timestamp()
    broker = engine.open(clock=clock)
    broker.schedule("s", "q", "tick", cron="30 2 * * *", tz="Europe/Berlin")
    due = []
    for _ in range(3):
        due.append(broker.schedules()[0].next_at)
        clock.now = due[-1].timestamp()
        broker.queue("other").publish("whatever")
    assert due == [
        datetime(2026, 3, 28, 1, 30, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 0, tzinfo=UTC),  # 02:30 is skipped: at 03:00 there
        datetime(2026, 3, 30, 0, 30, tzinfo=UTC),
    ]
