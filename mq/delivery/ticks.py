"""From a schedule that is due to records: TICK, and the publish, in one atomic group.

A tick that finds its queue full stays due, as if no process had been there: with missed="one" or "all" it
comes once there is room; with "skip" it is left out.  So does a tick whose body is damaged, or whose time
zone this process does not know.  Each is tried again after a while, and all other work goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo
from typing import Final, NamedTuple

from msgspec.structs import replace

from mq.errors import CorruptStore, MqError, QueueFull, UsageError

from . import records
from .calendar import Entry
from .intake import NewMessage, admit
from .now import Now
from .plan import Plan
from .schedules import Schedule, Verdict, following, judge
from .state import State

AGAIN_MS: Final = 1000  # a tick that cannot be done is tried again after this


class Outside(NamedTuple):
    """What it takes to do a tick, and is not in the state."""

    plan: Callable[[], Plan]
    read: Callable[[int], tuple[int, bytes]]
    """How the body was given, and its bytes: of the record at a position."""
    zone: Callable[[str], tzinfo]
    """The time zone of that name; UsageError if this process does not know it."""
    cannot: Callable[[Schedule, MqError], None]
    """Told of a tick that cannot be done now."""


class Tick(NamedTuple):
    """What one tick takes."""

    plan: Plan
    schedule: Schedule
    verdict: Verdict


def next_tick(state: State, now: Now, outside: Outside, is_late: Callable[[], bool]) -> Tick | None:
    """The tick that is due first, of those that can be done; None if there is none.

    *is_late*: whether it is time to stop.
    """
    calendar = state.calendar
    while entry := calendar.due(now.wall):
        try:
            return _plan(entry, now, outside)
        except (QueueFull, UsageError, CorruptStore) as error:
            calendar.postpone(entry, now.wall + AGAIN_MS)
            outside.cannot(entry.schedule, error)
        if is_late():
            break
    return None


def _plan(entry: Entry, now: Now, outside: Outside) -> Tick:
    schedule, plan = entry.schedule, outside.plan()
    verdict = judge(schedule, now.wall, following(schedule, outside.zone(schedule.tz)))
    if verdict.publishes:
        assert entry.position is not None
        try:
            admit(plan, [_message(schedule, *outside.read(entry.position))])
        except QueueFull:
            if schedule.missed != "skip":
                raise
            plan, verdict = outside.plan(), verdict._replace(publishes=False)
    last = now.wall if verdict.publishes else schedule.last
    plan.add(*records.tick(schedule.name, verdict.next, last, verdict.late))
    return Tick(plan, schedule, verdict)


def _message(schedule: Schedule, flags: int, body: bytes) -> NewMessage:
    queue, topic = ("", schedule.queue) if schedule.topic else (schedule.queue, "")
    return NewMessage(
        queue, flags, body, schedule.priority, schedule.delay_ms, ttl=schedule.ttl, group=schedule.group,
        headers=schedule.headers, topic=topic,
    )  # fmt: skip


def declared(schedule: Schedule, known: Schedule | None, now: int, zone: tzinfo) -> Schedule:
    """*schedule*, as it is declared *now*, wall time; *known*: the one of its name that is there.

    With the same times as that it keeps the next one.
    """
    begun = replace(schedule, since=now if schedule.every is not None else 0, last=known.last if known else 0)
    if known and (known.cron, known.every, known.tz) == (begun.cron, begun.every, begun.tz):
        return replace(begun, next=known.next, since=known.since, late=known.late)
    return replace(begun, next=following(begun, zone)(now))
