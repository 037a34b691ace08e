"""Schedules: each tick is published exactly once, whichever process does it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from engines import PATIENCE, Engine
from fakes import FakeClock

import mq
from mq.delivery.schedules import CATCH_UP_MAX
from mq.engine import scheduler

pytestmark = pytest.mark.conformance

BEGIN = datetime.fromtimestamp(1_700_000_000, UTC)  # where a FakeClock begins: 2023-11-14 22:13:20


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def bodies(broker: mq.Broker, queue: str = "q") -> list[object]:
    """What waits there, once all that is due is done."""
    broker.queue("other").publish("whatever")
    found = []
    while message := broker.queue(queue).receive(timeout=0):
        found.append(message.body)
        message.ack()
    return found


def let_tick(broker: mq.Broker) -> None:
    """Have all that is due done: an operation does one tick of many."""
    for _ in range(CATCH_UP_MAX + 10):
        broker.queue("other").publish("whatever")


def of(broker: mq.Broker, name: str = "s") -> mq.Schedule:
    return next(each for each in broker.schedules() if each.name == name)


def test_a_tick_is_published_when_it_is_due(broker: mq.Broker, clock: FakeClock) -> None:
    broker.schedule("s", "q", {"n": 1}, every=60)
    assert broker.schedules() == [mq.Schedule("s", "q", None, 60, "UTC", at(60), None)]
    clock.advance(59)
    assert bodies(broker) == []
    clock.advance(1)
    assert bodies(broker) == [{"n": 1}]
    assert of(broker)[-2:] == (at(120), at(60))


@pytest.mark.parametrize("body", [b"\x00raw", "text", ["a", {"structure": 1}]])
def test_a_body_comes_as_it_was_given(broker: mq.Broker, clock: FakeClock, body: object) -> None:
    broker.schedule("s", "q", body, every=1)
    clock.advance(1)
    assert bodies(broker) == [body]


def test_options_hold_for_each_tick(broker: mq.Broker, clock: FakeClock) -> None:
    broker.schedule(
        "s", broker.queue("q"), "x", every=60, priority=7, ttl=30, group="g", headers={"k": "v"}, delay=5
    )
    clock.advance(60)
    assert bodies(broker) == []
    clock.advance(5)
    (message,) = broker.queue("q").peek()
    assert (message.priority, message.group, message.headers) == (7, "g", {"k": "v"})
    clock.advance(25)
    assert bodies(broker) == []
    clock.advance(30)
    assert bodies(broker) == []
    clock.advance(5)
    assert bodies(broker) == ["x"]


def test_a_cron_expression_is_local_time(broker: mq.Broker, clock: FakeClock) -> None:
    broker.schedule("s", "q", "x", cron="30 9 * * *", tz="Europe/Berlin")
    assert of(broker).next_at == datetime(2023, 11, 15, 8, 30, tzinfo=UTC)
    clock.advance((of(broker).next_at - BEGIN).total_seconds())
    assert bodies(broker) == ["x"]
    assert of(broker).next_at == datetime(2023, 11, 16, 8, 30, tzinfo=UTC)


@pytest.mark.parametrize("missed, expected", [("one", 1), ("all", 5), ("skip", 0)])
def test_ticks_that_were_missed(engine: Engine, clock: FakeClock, missed: Any, expected: int) -> None:
    broker = engine.open(clock=clock)
    broker.schedule("s", "q", "x", every=60, missed=missed)
    broker.close()
    clock.advance(330)
    broker = engine.reopen(broker)
    let_tick(broker)
    assert bodies(broker) == ["x"] * expected
    assert of(broker).next_at == at(360)
    clock.advance(30)
    assert bodies(broker) == ["x"]


def test_at_most_a_thousand_are_made_up_for(
    engine: Engine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = engine.open(clock=clock, sync="never")
    broker.schedule("s", "q", "x", every=1, missed="all")
    broker.close()
    clock.advance(5000)
    with caplog.at_level(logging.WARNING, "mq"):
        broker = engine.reopen(broker)
        let_tick(broker)
        until(lambda: any("1,000 of its ticks" in each.getMessage() for each in caplog.records))
    assert broker.queue("q").stats().published == CATCH_UP_MAX
    assert of(broker).next_at == at(5001)


@pytest.mark.parametrize("missed, expected", [("one", ["x"]), ("all", ["x"] * 3), ("skip", [])])
def test_a_tick_that_finds_its_queue_full_is_missed(
    broker: mq.Broker, clock: FakeClock, missed: Any, expected: list[str]
) -> None:
    full = broker.queue("q", max_length=1)
    full.publish("first")
    broker.queue("late").publish("y", ttl=100)
    broker.schedule("s", "q", "x", every=60, missed=missed)
    broker.schedule("t", "t", "z", every=60)
    for _ in range(3):
        clock.advance(60)
        assert bodies(broker, "t") == ["z"]  # the other work goes on
    assert broker.queue("late").stats().ready == 0
    assert [each.body for each in full.peek()] == ["first"]
    found = []
    for _ in range(5):
        if message := full.receive(timeout=0):
            found.append(message.body)
            message.ack()
        clock.advance(1.5)
    assert found == ["first", *expected]


def test_declared_again_it_keeps_its_time(broker: mq.Broker, clock: FakeClock) -> None:
    broker.schedule("s", "q", "x", every=60)
    clock.advance(40)
    end, generation = broker._store.replica.log.end, broker.generation
    broker.schedule("s", "q", "x", every=60)
    assert of(broker).next_at == at(60)
    assert broker.generation == generation
    assert broker._store.replica.log.end - end < 100  # another writer's, at most
    broker.schedule("s", "q", "y", every=60, priority=3)
    assert of(broker).next_at == at(60)
    assert broker.generation > generation
    clock.advance(20)
    assert bodies(broker) == ["y"]


def test_with_other_times_it_begins_anew(broker: mq.Broker, clock: FakeClock) -> None:
    broker.schedule("s", "q", "x", every=60)
    clock.advance(70)
    assert bodies(broker) == ["x"]
    broker.schedule("s", "q", "x", every=50)
    assert of(broker)[-2:] == (at(120), at(70))
    broker.schedule("s", "q", "x", cron="0 * * * *")
    assert of(broker).next_at == datetime(2023, 11, 14, 23, 0, tzinfo=UTC)


def test_taken_back_it_ticks_no_more(broker: mq.Broker, clock: FakeClock) -> None:
    broker.schedule("s", "q", "x", every=60)
    clock.advance(60)
    generation = broker.generation
    assert broker.unschedule("s")
    assert broker.generation > generation
    assert not broker.unschedule("s")
    assert broker.schedules() == []
    clock.advance(600)
    assert len(bodies(broker)) <= 1  # the one that was due


def test_a_clock_that_is_set_back_brings_no_tick_twice(broker: mq.Broker, clock: FakeClock) -> None:
    walls = broker._store.clock
    broker.schedule("s", "q", "x", every=60)
    clock.advance(60)
    assert bodies(broker) == ["x"]
    now = walls.wall_ms()
    walls.wall_ms = lambda: now - 30_000  # type: ignore[method-assign]
    assert bodies(broker) == []
    assert of(broker).next_at == at(120)
    walls.wall_ms = lambda: now + 60_000  # type: ignore[method-assign]
    clock.advance(60)
    assert bodies(broker) == ["x"]


def test_it_survives_what_the_cleaner_and_checkpoints_do(engine: Engine, clock: FakeClock) -> None:
    broker = engine.open(clock=clock, segment_bytes=4096, sync="never")
    broker.schedule("s", "q", "x" * 100, every=60, missed="all", headers={"k": "v"})
    for n in range(400):
        clock.advance(30)
        message = broker.queue("q").receive(timeout=0)
        assert (message is not None) == bool(n % 2)
        if message:
            assert (message.body, message.headers) == ("x" * 100, {"k": "v"})
            message.ack()
    with broker._store.maintenance.working:  # as its thread, which may be cleaning
        broker._store.maintenance.checkpoints.write()
    broker._store.maintenance.run()
    before = broker.schedules()
    for _ in range(2):
        broker = engine.reopen(broker)
        assert broker.schedules() == before
        broker._store.maintenance.run(0)
    log = broker._store.replica.log
    assert log.head > 0
    clock.advance(60)
    assert bodies(broker) == ["x" * 100]


def test_a_queue_that_is_gone_is_made_again(broker: mq.Broker, clock: FakeClock) -> None:
    broker.schedule("s", "q", "x", every=60)
    clock.advance(60)
    assert bodies(broker) == ["x"]
    broker.queue("q").delete()
    clock.advance(60)
    assert bodies(broker) == ["x"]


def test_a_damaged_body_costs_its_own_ticks_only(
    broker: mq.Broker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.schedule("damaged", "q", "x", every=30)
    broker.schedule("whole", "q", "y", every=60)
    committer = broker._store.committer
    entry = broker._store.replica.state.calendar.get("damaged")
    assert entry
    bad, read = entry.position, committer._read_body

    def read_body(position: int) -> tuple[int, bytes]:
        if position == bad:
            raise mq.CorruptStore("log", "its checksum is wrong", 0)
        return read(position)

    monkeypatch.setattr(committer, "_read_body", read_body)
    clock.advance(60)
    assert bodies(broker) == ["y"]
    broker.schedule("damaged", "q", "z", every=30, missed="all")
    let_tick(broker)
    assert bodies(broker) == ["z", "z"]


def test_a_full_disk_puts_ticks_off(
    broker: mq.Broker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.schedule("s", "q", "x", every=60)
    committer = broker._store.committer

    def refuse(plan: object) -> list[int]:
        raise mq.DiskFull("log", "no space")

    with monkeypatch.context() as patch:
        patch.setattr(committer, "commit", refuse)
        clock.advance(60)
        scheduler.tick(broker._store)
    assert broker.queue("q").stats().published == 0
    clock.advance(1)
    assert bodies(broker) == ["x"]


def test_a_receiver_that_waits_is_woken_by_a_tick(engine: Engine) -> None:
    broker = engine.open()
    broker.schedule("s", "q", "x", every=0.05)
    for _ in range(3):
        message = broker.queue("q").receive(timeout=PATIENCE)
        assert message
        message.ack()


def test_a_broker_that_does_nothing_ticks(engine: Engine) -> None:
    broker = engine.open()
    broker.schedule("s", "q", "x", every=0.02, missed="all")
    until(lambda: of(broker).last_at is not None)
    before = broker.queue("q").stats().published
    until(lambda: broker.queue("q").stats().published >= before + 3)


@pytest.mark.needs("sharing")
def test_a_broker_that_does_nothing_hears_of_another_ones_schedule(engine: Engine) -> None:
    idle = engine.open()
    other = engine.open()
    other.schedule("s", "q", "x", every=0.5, missed="all")
    other.close()
    published = idle._store.replica.state
    until(lambda: (entry := published.calendar.get("s")) is not None and entry.schedule.last > 0)


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.mark.parametrize(
    "times, says",
    [
        ({}, "either cron or every"),
        ({"cron": "* * * * *", "every": 1}, "either cron or every"),
        ({"cron": "* * * *"}, "five fields"),
        ({"cron": "* * */20 * 1L"}, "never comes"),
        ({"cron": 5}, "cron is text"),
        ({"every": 0}, "at least 0.01"),
        ({"every": float("nan")}, "every"),
        ({"every": True}, "every"),
        ({"every": 1, "tz": "Mars/Phobos"}, "no time zone 'Mars/Phobos'"),
        ({"every": 1, "tz": "Europe"}, "no time zone"),
        ({"every": 1, "tz": "../../etc/passwd"}, "no time zone"),
        ({"every": 1, "missed": "none"}, "missed is"),
        ({"every": 1, "dedup_id": "x"}, "dedup_id makes no sense"),
        ({"every": 1, "at": BEGIN}, "at makes no sense"),
        ({"every": 1, "timeout": 1}, "timeout makes no sense"),
        ({"every": 1, "prio": 1}, "no publish option"),
    ],
)
def test_what_makes_no_sense_is_refused(broker: mq.Broker, times: Any, says: str) -> None:
    with pytest.raises(mq.UsageError, match=says):
        broker.schedule("s", "q", "x", **times)
    assert broker.schedules() == []
    assert broker.queues() == []


def test_without_time_zone_data_it_is_said_what_to_install(
    broker: mq.Broker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zoneinfo

    def none(name: str) -> None:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    broker.schedule("b", "q", "berlin", cron="* * * * *", tz="Europe/Berlin")
    monkeypatch.setattr(zoneinfo, "ZoneInfo", none)
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    with pytest.raises(mq.UsageError, match="pip install tzdata"):
        broker.schedule("s", "q", "x", cron="* * * * *", tz="Europe/Vienna")
    broker.schedule("s", "q", "utc", cron="* * * * *")
    clock.advance(60)
    assert bodies(broker) == ["utc"]  # the other one is left to processes that have the data
    monkeypatch.undo()
    clock.advance(1)
    assert bodies(broker) == ["berlin"]


@pytest.mark.parametrize("name", ["", "x" * 256, "new\nline", 5, None])
def test_a_bad_name_is_refused(broker: mq.Broker, name: Any) -> None:
    with pytest.raises(mq.UsageError, match="schedule"):
        broker.schedule(name, "q", "x", every=1)
    with pytest.raises(mq.UsageError, match="schedule"):
        broker.unschedule(name)


def test_a_queue_of_another_broker_is_refused(engine: Engine, broker: mq.Broker) -> None:
    with pytest.raises(mq.UsageError, match="another broker"):
        broker.schedule("s", engine.open("t").queue("q"), "x", every=1)


def test_a_tick_goes_to_all_queues_of_a_topic(broker: mq.Broker, clock: FakeClock) -> None:
    for name in ("a", "b"):
        broker.queue(name).subscribe("ticks.#")
    broker.schedule("s", broker.topic("ticks.minute"), "x", every=60, headers={"k": "v"})
    broker.schedule("t", "ticks.minute", "to the queue of that name", every=60)
    assert [each.queue for each in broker.schedules()] == ["ticks.minute"] * 2
    clock.advance(60)
    assert bodies(broker, "a") == bodies(broker, "b") == ["x"]
    assert bodies(broker, "ticks.minute") == ["to the queue of that name"]
