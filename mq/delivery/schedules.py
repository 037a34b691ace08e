"""When a schedule is due: its rule, the times that follow from it, and what becomes of a tick.

    every    seconds from when it was declared: since + n · every, without drift
    cron     local times in a time zone, by the rules of Debian's cron (vendored/cronsim.py)

                 next                        now
    ──────────────┼──────────┼──────────┼─────┼────┼──►  ticks
                  └── due: they were missed ──┘    └ following

    missed="one"     one message stands for all that are due
    missed="all"     each is published; once CATCH_UP_MAX in a row were late, the rest is left out
    missed="skip"    none is published, unless it is nearly on time

A tick that the decider accepts or leaves out is one record, which says when the next one is due.  So the
fold computes no time, and a clock that is set back brings no tick twice: it is earlier than `next` then.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from mq.vendored.cronsim import CronSim, CronSimError

from .attributes import Instant, Priority

NEVER: Final = 1 << 62  # ms: of a schedule that has no next tick
CATCH_UP_MAX: Final = 1000  # late ticks that missed="all" publishes in a row
LATE_MS: Final = 5000  # with missed="skip", a tick that is later than this is missed
CRON_TRIES: Final = 10_000  # times that are looked at, where an hour comes twice: an hour has 60 of them
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)

Missed = Literal["one", "all", "skip"]


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """All there is to know of a schedule beside the body.  Wall time, ms; durations in seconds."""

    name: str
    queue: str  # where its messages go: a queue's name, or with `topic` a topic's
    next: Instant  # when the next tick is due
    since: Instant = 0  # when it was declared, or its times were changed: `every` counts from here
    cron: str | None = None
    every: Annotated[float, msgspec.Meta(gt=0)] | None = None  # one of both is given
    tz: str = "UTC"
    missed: Missed = "one"
    last: Instant = 0  # when a tick was published last; 0: never
    late: Annotated[int, msgspec.Meta(ge=0)] = 0  # ticks in a row that were published late
    topic: bool = False
    # What holds for each message: see PublishOptions.
    priority: Priority = 0
    delay_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None  # None: the queue's
    ttl: Annotated[float, msgspec.Meta(gt=0)] | None = None  # None: the queue's
    group: str | None = None
    headers: dict[str, str] = {}


def define_alike(one: Schedule, two: Schedule) -> bool:
    """Whether they say the same, but for what ticks have changed."""
    return msgspec.structs.replace(one, next=0, last=0, late=0) == msgspec.structs.replace(
        two, next=0, last=0, late=0
    )


class BadCron(ValueError):
    """A cron expression that is not understood.  Its text says why."""


class Verdict(NamedTuple):
    """What becomes of a tick that is due, and of the schedule."""

    publishes: bool
    next: int
    late: int = 0
    gives_up: bool = False  # there were too many: what is due beside this one is left out


Following = Callable[[int], int]
"""The first tick later than a time; NEVER if there is none."""


def following(schedule: Schedule, zone: tzinfo) -> Following:
    """The ticks of *schedule*, whose time zone is *zone*."""
    if schedule.every is not None:
        return _every(schedule.since, schedule.every)
    assert schedule.cron is not None
    return _cron(schedule.cron, zone)


def _every(since: int, seconds: float) -> Following:
    span_us = max(1, round(seconds * 1e6))  # in whole numbers, so that no tick drifts

    def following(after: int) -> int:
        count = max(1, -((since - after - 1) * 1000 // span_us))
        return since + count * span_us // 1000

    return following


def _cron(expression: str, zone: tzinfo) -> Following:
    def following(after: int) -> int:
        try:
            return first_behind(after)
        except (OverflowError, ValueError):  # behind the year 9999
            return NEVER

    def first_behind(after: int) -> int:
        begin = (EPOCH + after * MILLISECOND).astimezone(zone)
        # Where a local hour comes twice, the first of them is before *after*.
        for tick in islice(CronSim(expression, begin), CRON_TRIES):
            # In UTC: two datetimes of one time zone are compared by what its clock shows.
            when = (tick.astimezone(UTC) - EPOCH) // MILLISECOND
            if when > after:
                return when
        return NEVER

    return following


def check_cron(expression: str) -> None:
    """BadCron if it is no cron expression; with its reason."""
    try:
        CronSim(expression, EPOCH)
    except CronSimError as error:
        raise BadCron(str(error)) from None


def judge(schedule: Schedule, now: int, following: Following) -> Verdict:
    """What becomes of the tick `schedule.next`, which is due at *now*, wall time."""
    tick = schedule.next
    then = following(tick)
    if schedule.missed == "all":
        if then > now:
            return Verdict(True, then)
        if schedule.late + 1 < CATCH_UP_MAX:
            return Verdict(True, then, schedule.late + 1)
        return Verdict(True, following(now), gives_up=True)
    if schedule.missed == "one":
        return Verdict(True, then if then > now else following(now))
    on_time = min(LATE_MS, (then - tick) // 2)
    if then > now and now - tick <= on_time:
        return Verdict(True, then)
    return Verdict(False, then if then > now else following(max(tick, now - on_time - 1)))
