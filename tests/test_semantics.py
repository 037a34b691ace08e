"""What people trip over, in the order in which the README lists it.

What SIGKILL, a failed write and a power cut do is not asked here, but under tests/crash
and tests/storage.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from engines import Engine
from fakes import CountingDisk, FakeClock, open_on

import mq

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]

TIMEOUT_SECONDS = 30.0


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


def test_receive_many_returns_as_soon_as_it_has_one(queue: mq.Queue[object]) -> None:
    assert len(queue.receive_many(100)) == 2


def test_a_late_ack_succeeds_if_nobody_overtook_it(queue: mq.Queue[object], clock: FakeClock) -> None:
    late = take(queue)
    clock.advance(10 * TIMEOUT_SECONDS)
    late.ack()
    assert take(queue).body == "second"


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
    queue.publish("third")
    take(queue).nack(delay=10)
    assert take(queue).body == "second"
    clock.advance(10)
    assert take(queue).body == "first"
    assert take(queue).body == "third"


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
    one, two = engine.open("one", clock=clock), engine.open("two", clock=clock)
    id = one.queue("q").publish("a")
    assert two.queue("q").publish("b") == id and one.store_id != two.store_id
    assert take(one.queue("q")).id == id
    clock.advance(TIMEOUT_SECONDS)
    assert take(one.queue("q")).id == id


# ── declaring, extending, opening ──────────────────────────────────────────────────


def test_declaring_again_changes_only_what_is_named_at_once(broker: mq.Broker) -> None:
    one, other = broker.queue("q", visibility_timeout=5), broker.queue("q")
    assert other.options()["visibility_timeout"] == 5
    broker.queue("q", visibility_timeout=7)
    assert one.options()["visibility_timeout"] == 7


def test_extend_counts_from_now(queue: mq.Queue[object], clock: FakeClock) -> None:
    message = take(queue)
    clock.advance(TIMEOUT_SECONDS - 1)
    message.extend(2)
    clock.advance(1)
    assert take(queue).body == "second"
    clock.advance(1)
    assert take(queue).body == "first"


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
