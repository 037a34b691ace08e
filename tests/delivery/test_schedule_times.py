"""When a schedule is due: `every`, cron expressions, clock changes, ticks that were missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq.delivery.schedules import (
    CATCH_UP_MAX,
    LATE_MS,
    NEVER,
    BadCron,
    Schedule,
    Verdict,
    check_cron,
    following,
    judge,
)

BERLIN = "Europe/Berlin"  # 2026: 02:00 → 03:00 on March 29, 03:00 → 02:00 on October 25
LORD_HOWE = "Australia/Lord_Howe"  # half an hour: 02:00 → 02:30 on 2026-10-04, 02:00 → 01:30 on 2026-04-05
BEIRUT = "Asia/Beirut"  # 00:00 → 01:00 on 2026-03-29: that day has no midnight
DAY = 86_400_000


def ms(text: str, tz: str = "UTC", fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz), fold=fold).timestamp() * 1000)


def schedule(**fields: Any) -> Schedule:
    return Schedule("s", "q", **{"next": 0, **fields})


def every(seconds: float, since: int = 0, **fields: Any) -> Schedule:
    return schedule(every=seconds, since=since, **fields)


def ticks(what: Schedule, after: int, count: int) -> list[int]:
    found: list[int] = []
    follow = following(what, ZoneInfo(what.tz))
    for _ in range(count):
        after = follow(after)
        found.append(after)
    return found


# ── every ──────────────────────────────────────────────────────────────────────────

spans = st.floats(0.01, 1e8)
times = st.integers(0, 1 << 42)


@given(spans, times, st.integers(1, 1 << 30))
def test_a_tick_of_every_is_counted_from_the_beginning(seconds: float, since: int, count: int) -> None:
    """However many come before it: no tick drifts by more than the microsecond to which a span is rounded."""
    tick = since + count * round(seconds * 1e6) // 1000
    follow = following(every(seconds, since), UTC)
    assert follow(tick - 1) == tick < follow(tick)


@given(spans, times, times)
def test_the_next_tick_of_every_is_the_first_behind(seconds: float, since: int, after: int) -> None:
    tick = following(every(seconds, since), UTC)(after)
    assert max(since, after) < tick <= max(since, after) + round(seconds * 1e6) // 1000 + 1


# ── cron ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "cron, tz, after, expected",
    [
        pytest.param("30 2 * * *", BERLIN, "2026-03-28T12:00", ["2026-03-29T03:00", "2026-03-30T02:30"],
                     id="an hour that is skipped: at the next minute there is"),
        pytest.param("0,30 2 * * *", BERLIN, "2026-03-28T12:00", ["2026-03-29T03:00", "2026-03-30T02:00"],
                     id="two times that are skipped are one"),
        pytest.param("15 2 * * *", LORD_HOWE, "2026-10-03T12:00", ["2026-10-04T02:30", "2026-10-05T02:15"],
                     id="half an hour that is skipped"),
        pytest.param("0 0 * * *", BEIRUT, "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:00"],
                     id="a day without a midnight"),
        pytest.param("30 2 * * *", BERLIN, "2026-10-24T12:00", ["2026-10-25T02:30", "2026-10-26T02:30"],
                     id="an hour that comes twice: the first time"),
        pytest.param("45 1 * * *", LORD_HOWE, "2026-04-04T12:00", ["2026-04-05T01:45", "2026-04-06T01:45"],
                     id="half an hour that comes twice"),
        pytest.param("0 9 * * MON-FRI", BERLIN, "2026-03-27T12:00", ["2026-03-30T09:00", "2026-03-31T09:00"],
                     id="local time, over the change"),
        pytest.param("0 0 31 * *", "UTC", "2026-01-31T00:00", ["2026-03-31T00:00", "2026-05-31T00:00"],
                     id="months without such a day"),
        pytest.param("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["2028-02-29T00:00", "2032-02-29T00:00"],
                     id="leap years"),
        pytest.param("*/20 8-9 1 1,2 *", "UTC", "2026-01-01T09:39", ["2026-01-01T09:40", "2026-02-01T08:00"],
                     id="steps, ranges, lists"),
        pytest.param("0 12 1 * MON", "UTC", "2026-06-01T12:00", ["2026-06-08T12:00", "2026-06-15T12:00"],
                     id="a day of the month or of the week"),
        pytest.param("* * * * *", "UTC", "2026-12-31T23:59", ["2027-01-01T00:00", "2027-01-01T00:01"],
                     id="each minute"),
    ],
)  # fmt: skip
def test_a_tick_of_cron(cron: str, tz: str, after: str, expected: list[str]) -> None:
    assert ticks(schedule(cron=cron, tz=tz), ms(after, tz), 2) == [ms(each, tz) for each in expected]


def test_an_hour_that_comes_twice_brings_hourly_ticks_twice() -> None:
    found = ticks(schedule(cron="30 * * * *", tz=BERLIN), ms("2026-10-25T01:30", BERLIN), 3)
    assert found == [
        ms("2026-10-25T02:30", BERLIN),
        ms("2026-10-25T02:30", BERLIN, fold=1),
        ms("2026-10-25T03:30", BERLIN),
    ]


@pytest.mark.parametrize("after", [ms("2026-10-25T02:10", BERLIN, fold=1), ms("2026-10-25T02:30", BERLIN)])
def test_inside_the_second_of_two_hours_a_fixed_time_is_over(after: int) -> None:
    """It is not before *after*, as what the clock on the wall shows would have it."""
    assert ticks(schedule(cron="30 2 * * *", tz=BERLIN), after, 1) == [ms("2026-10-26T02:30", BERLIN)]


fields = st.sampled_from(["*", "*/7", "0", "30", "2", "1-3", "1,2"])
zones = st.sampled_from(["UTC", BERLIN, LORD_HOWE, BEIRUT, "America/St_Johns", "Africa/Casablanca"])


@given(
    st.tuples(fields, fields.filter(lambda text: text != "30")), zones,
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)), st.integers(0, 90),
)  # fmt: skip
def test_ticks_of_cron_only_go_on(parts: tuple[str, str], tz: str, begin: datetime, minutes: int) -> None:
    """And what is the next tick does not depend on where one looks from, in between."""
    what = schedule(cron=f"{parts[0]} {parts[1]} * * *", tz=tz)
    after = int(begin.replace(tzinfo=UTC).timestamp() * 1000)
    found = ticks(what, after, 5)
    assert all(one < two for one, two in pairwise([after, *found]))
    between = min(after + minutes * 60_000, found[0] - 1)
    assert following(what, ZoneInfo(tz))(between) == found[0]


@pytest.mark.parametrize("cron", ["", "* * * *", "60 * * * *", "* 24 * * *", "0 0 31 FEB *", "@daily"])
def test_what_is_no_cron_expression_is_refused(cron: str) -> None:
    with pytest.raises(BadCron):
        check_cron(cron)


@given(st.text(st.sampled_from("0123456789*/,-#LW MONJAN²"), max_size=20))
def test_whatever_is_given_is_understood_or_refused(cron: str) -> None:
    try:
        check_cron(cron)
    except BadCron:
        return
    assert following(schedule(cron=cron), UTC)(0) > 0


@pytest.mark.parametrize("what", [schedule(cron="* * */20 * 1L"), schedule(cron="0 0 1 1 *", tz=BERLIN)])
def test_what_never_comes(what: Schedule) -> None:
    """A day that there is not, and one behind the last that a datetime can say."""
    assert following(what, ZoneInfo(what.tz))(ms("9999-06-01T00:00")) == NEVER


# ── ticks that were missed ─────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "missed, now, late, expected",
    [
        pytest.param("one", 60_000, 0, Verdict(True, 120_000), id="one: in time"),
        pytest.param("one", 119_999, 0, Verdict(True, 120_000), id="one: late"),
        pytest.param("one", 300_000, 0, Verdict(True, 360_000), id="one: for five"),
        pytest.param("all", 60_000, 0, Verdict(True, 120_000), id="all: in time"),
        pytest.param("all", 300_000, 0, Verdict(True, 120_000, 1), id="all: the first of five"),
        pytest.param("all", 119_000, 7, Verdict(True, 120_000), id="all: the last of several"),
        pytest.param("all", DAY, CATCH_UP_MAX - 1, Verdict(True, DAY + 60_000, 0, True), id="all: too many"),
        pytest.param("skip", 60_000, 0, Verdict(True, 120_000), id="skip: in time"),
        pytest.param("skip", 60_000 + LATE_MS, 0, Verdict(True, 120_000), id="skip: just in time"),
        pytest.param("skip", 60_001 + LATE_MS, 0, Verdict(False, 120_000), id="skip: late"),
        pytest.param("skip", 300_000 + LATE_MS, 0, Verdict(False, 300_000), id="skip: all but the last"),
        pytest.param("skip", 310_000, 0, Verdict(False, 360_000), id="skip: all of them"),
    ],
)
def test_what_becomes_of_a_tick(missed: Any, now: int, late: int, expected: Verdict) -> None:
    what = every(60, next=60_000, missed=missed, late=late)
    assert judge(what, now, following(what, UTC)) == expected


def test_a_tick_of_short_intervals_is_late_sooner() -> None:
    """Half of what is between it and the next one is the most."""
    what = every(0.2, next=200, missed="skip")
    assert judge(what, 300, following(what, UTC)) == Verdict(True, 400)
    assert judge(what, 301, following(what, UTC)) == Verdict(False, 400)


@given(st.sampled_from(["one", "all", "skip"]), st.integers(1, 400), st.integers(0, 2_000_000))
def test_ticks_come_to_an_end_and_none_comes_twice(missed: Any, seconds: int, now: int) -> None:
    what = every(seconds, next=seconds * 1000, missed=missed)
    follow = following(what, UTC)
    published = []
    while what.next <= now:
        verdict = judge(what, now, follow)
        assert verdict.next > what.next
        published += [what.next] * verdict.publishes
        what = every(seconds, next=verdict.next, missed=missed, late=verdict.late)
    due = now // (seconds * 1000)
    if missed == "one":
        assert len(published) == min(1, due)
    elif missed == "all":
        assert published == [seconds * 1000 * n for n in range(1, min(due, CATCH_UP_MAX) + 1)]
    else:
        assert len(published) <= 1
    assert what.next == (due + 1) * seconds * 1000


def test_a_day_of_missed_minutes_comes_a_thousand_times() -> None:
    what, now = every(60, next=60_000, missed="all"), DAY
    follow = following(what, UTC)
    verdicts = []
    while what.next <= now:
        verdicts.append(judge(what, now, follow))
        what = every(60, next=verdicts[-1].next, missed="all", late=verdicts[-1].late)
    assert len(verdicts) == CATCH_UP_MAX
    assert [each.gives_up for each in verdicts] == [False] * (CATCH_UP_MAX - 1) + [True]


def test_a_datetime_of_a_tick_is_in_its_zone() -> None:
    (tick,) = ticks(schedule(cron="0 9 * * *", tz=BERLIN), ms("2026-07-01T00:00"), 1)
    assert datetime.fromtimestamp(tick / 1000, ZoneInfo(BERLIN)).utcoffset() == timedelta(hours=2)
