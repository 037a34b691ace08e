"""Times that are far, strange or no times at all: taken as they are meant, or refused in one clear line."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest

import mq
from mq.api.options import SECONDS_MAX

FAR = [
    pytest.param(datetime(9999, 12, 31, tzinfo=UTC), id="the last day"),
    pytest.param(datetime.max.replace(tzinfo=UTC), id="the last microsecond"),
    pytest.param(datetime.max.replace(tzinfo=timezone(timedelta(hours=-23, minutes=-59))), id="year 10000"),
    pytest.param(datetime.max.replace(tzinfo=timezone(timedelta(hours=23, minutes=59))), id="a day less"),
    pytest.param(datetime.max.replace(tzinfo=UTC, fold=1), id="folded"),
    pytest.param(datetime(2600, 1, 1, tzinfo=UTC), id="2600"),
]
PAST = [
    pytest.param(datetime(1, 1, 1, tzinfo=UTC), id="the first day"),
    pytest.param(datetime.min.replace(tzinfo=timezone(timedelta(hours=23, minutes=59))), id="year 0"),
    pytest.param(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), id="before 1970"),
    pytest.param(datetime(1970, 1, 1, tzinfo=UTC), id="1970"),
]


@pytest.fixture
def broker():
    with mq.open(":memory:") as broker:
        yield broker


@pytest.mark.parametrize("at", FAR)
def test_a_message_for_a_far_day_disturbs_no_call(broker, at):
    queue, other = broker.queue("mail"), broker.queue("other")
    id = queue.publish("later", at=at)
    # Each of these waits for the far day, at most: beside it for its own short timeout.
    assert queue.receive(timeout=0.001) is None
    assert queue.receive_many(5, timeout=0.001) == []
    assert broker.receive([queue, other], timeout=0.001) is None
    [message] = queue.peek(state="delayed")
    least = min(at, datetime.max.replace(microsecond=999000, tzinfo=UTC))
    assert timedelta(0) <= least - message.due_at < timedelta(milliseconds=1)
    assert queue.reschedule(id, at=at)
    assert queue.get(id).due_at == message.due_at
    assert queue.cancel(id)


@pytest.mark.parametrize("at", FAR)
def test_who_waits_without_end_for_a_far_day_is_woken_for_what_comes_before(broker, at):
    queue, got = broker.queue("mail"), []
    queue.publish("later", at=at)
    waiting = threading.Thread(target=lambda: got.append(queue.receive().body))
    waiting.start()
    queue.publish("now")
    waiting.join(timeout=60)
    assert got == ["now"]


@pytest.mark.parametrize("at", PAST)
def test_a_day_that_is_over_is_now(broker, at):
    queue = broker.queue("mail")
    queue.publish("earlier", at=at)
    delivery = queue.receive(timeout=0)
    assert delivery.body == "earlier"
    assert delivery.created_at.tzinfo is UTC


def test_a_datetime_comes_back_as_it_was_given(broker):
    """To the millisecond, and not one less for a fraction that no float has."""
    queue = broker.queue("mail")
    for ms in (0, 1, 123, 289, 501, 999):
        at = datetime(2123, 4, 5, 6, 7, 8, ms * 1000, tzinfo=timezone(timedelta(hours=5, minutes=45)))
        assert queue.get(queue.publish("x", at=at)).due_at == at


class Zone(tzinfo):
    """Says what it is told to say."""

    def __init__(self, offset: object) -> None:
        self._offset = offset

    def utcoffset(self, at: datetime | None) -> timedelta:
        if isinstance(self._offset, Exception):
            raise self._offset
        return self._offset  # type: ignore[return-value]


class Late(timedelta):
    """Lies when it is calculated with."""

    def __neg__(self) -> timedelta:
        raise AssertionError("it was asked")

    __rsub__ = __sub__ = __pos__ = __neg__  # type: ignore[assignment]


class Moody(datetime):
    """Lies about everything that a method or a property can say."""

    def utcoffset(self) -> timedelta | None:
        raise AssertionError("it was asked")

    timestamp = replace = astimezone = date = time = utcoffset  # type: ignore[assignment]
    year = month = day = tzinfo = property(utcoffset)  # type: ignore[assignment]


@pytest.mark.parametrize("offset", [5, "UTC", timedelta(days=1), timedelta(days=-1), timedelta(days=400)])
def test_a_time_zone_that_lies_is_refused(broker, offset):
    queue = broker.queue("mail")
    with pytest.raises(mq.UsageError, match="at") as raised:
        queue.publish("x", at=datetime(2030, 1, 1, tzinfo=Zone(offset)))
    assert raised.value.__cause__ is None
    assert broker.queues() == []


def test_what_a_time_zone_raises_is_the_callers(broker):
    mine = KeyError("no such zone")
    with pytest.raises(KeyError) as raised:
        broker.queue("mail").publish("x", at=datetime(2030, 1, 1, tzinfo=Zone(mine)))
    assert raised.value is mine
    assert broker.queues() == []


def test_a_naive_datetime_is_refused_also_if_its_zone_says_nothing(broker):
    for at in (datetime(2030, 1, 1), datetime(2030, 1, 1, tzinfo=Zone(None))):
        with pytest.raises(mq.UsageError, match="naive"):
            broker.queue("mail").publish("x", at=at)


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(Moody(2130, 1, 1, tzinfo=UTC), id="datetime"),
        pytest.param(datetime(2130, 1, 1, 1, tzinfo=Zone(Late(hours=1))), id="timedelta"),
    ],
)
def test_a_subclass_is_taken_for_what_it_holds(broker, at):
    queue = broker.queue("mail")
    assert queue.get(queue.publish("x", at=at)).due_at == datetime(2130, 1, 1, tzinfo=UTC)


# ── durations ──────────────────────────────────────────────────────────────────────


def test_the_longest_durations_there_are(broker):
    queue = broker.queue(
        "mail", visibility_timeout=SECONDS_MAX, ttl=SECONDS_MAX, dedup_window=SECONDS_MAX, max_attempts=2,
        delete_when_idle=SECONDS_MAX,
        backoff=mq.Backoff(SECONDS_MAX, 1000, SECONDS_MAX, 1),
    )  # fmt: skip
    queue.publish("later", delay=SECONDS_MAX, ttl=SECONDS_MAX, dedup_id="x", timeout=SECONDS_MAX)
    queue.publish("now")
    delivery = queue.receive(timeout=SECONDS_MAX, visibility_timeout=SECONDS_MAX)
    delivery.extend(SECONDS_MAX)
    assert delivery.due_at > datetime.now(UTC) + timedelta(days=3659)
    assert queue.receive(timeout=0.001) is None
    delivery.nack()
    assert queue.receive(timeout=0.001) is None
    assert queue.stats()[:3] == (0, 0, 2)


def test_a_delay_of_nothing_stays_nothing_however_often_it_fails():
    """1000 ** 1000 is no float; and nothing times that is nothing."""
    assert mq.Backoff(initial=0, factor=1000).delay(1001, 0.5) == 0
    assert mq.Backoff(initial=1, factor=1000).delay(1001, 0.5) == 60


# ── clocks ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "time", [math.nan, math.inf, -math.inf, -1, -0.001, 1e300, 10**5000, 2**63, "now", None, True, b"0"],
    ids=lambda value: f"{type(value).__name__}{str(value)[:9] if value != 10**5000 else 'long'}",
)  # fmt: skip
def test_a_clock_that_is_none_is_refused(tmp_path, time):
    """At once when the store is opened; later by each operation that needs the time, and does nothing."""
    with pytest.raises(mq.UsageError, match="clock"):
        mq.open(tmp_path / "data", clock=lambda: time)
    assert list(tmp_path.iterdir()) == []
    said = [1e9]
    with mq.open(tmp_path / "data", clock=lambda: said[-1]) as broker:
        queue = broker.queue("mail")
        queue.publish("x")
        said.append(time)
        end = broker._store.replica.log.end
        for call in (lambda: queue.publish("y"), lambda: queue.receive(timeout=0), queue.stats):
            with pytest.raises(mq.UsageError, match="clock"):
                call()
        assert broker._store.replica.log.end == end
        said.pop()
        assert queue.receive(timeout=0).body == "x"


def test_what_a_clock_raises_is_the_callers(tmp_path):
    def broken() -> float:
        raise KeyError("no clock")

    with pytest.raises(KeyError):
        mq.open(tmp_path / "data", clock=broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("now", [0.0, 4102444800.0, 253_402_300_799.0], ids=["1970", "2100", "9999"])
def test_a_clock_may_say_any_year_that_there_is(tmp_path, now):
    with mq.open(tmp_path / "data", clock=lambda: now) as broker:
        queue = broker.queue("mail", visibility_timeout=SECONDS_MAX, ttl=SECONDS_MAX)
        queue.publish("a", delay=SECONDS_MAX)
        queue.publish("b")
        delivery = queue.receive(timeout=0)
        assert abs(delivery.created_at.timestamp() - now) < 1
        assert delivery.due_at > delivery.created_at or now > 253_402_300_000
        delivery.nack(delay=SECONDS_MAX)
        [message, failed] = queue.peek(state="delayed")
        assert message.due_at >= delivery.created_at
        assert failed.failures[0].at >= delivery.created_at
    with mq.open(tmp_path / "data", clock=lambda: now) as broker:
        assert broker.queue("mail").stats()[:3] == (0, 0, 2)
