"""Schedules: declared, listed and taken back.  What they bring is in commit.py: `do_tick`."""

from __future__ import annotations

from functools import partial
from typing import Final

from msgspec.structs import replace

from mq import exact
from mq.delivery import records, ticks
from mq.delivery.calendar import Entry
from mq.delivery.schedules import NEVER, BadCron, Missed, Schedule, check_cron
from mq.engine.channel import Channel
from mq.engine.operation import operation
from mq.engine.store import Store
from mq.engine.zones import zone
from mq.errors import UsageError

__all__ = ["Missed", "Schedule", "check_times", "declare", "listed", "remove"]

SCHEDULES_MAX: Final = 10_000


def check_times(cron: str | None, tz: str) -> None:
    """UsageError if there is no such time zone, or *cron* is no cron expression."""
    zone(tz)
    if cron is not None:
        try:
            check_cron(cron)
        except BadCron as error:
            raise UsageError(
                f"cron {exact.shown(cron)} is not understood ({error}): it has five fields, minute, hour, day"
                " of the month, month and day of the week, as in '30 9 * * MON-FRI'"
            ) from None


@operation
def declare(
    store: Store, schedule: Schedule, flags: int, body: bytes, *, to: Channel | None = None
) -> None:  # fmt: skip
    """Have *schedule*, whose next time is still to be computed; *flags* say how the body was given.

    *to*: the queue that it publishes to, which may be renamed meanwhile.
    """
    store.finish_publish(store.turn.take(partial(_declare, store, schedule, flags, body, to)))
    store.begin_scheduler()


def _declare(store: Store, schedule: Schedule, flags: int, body: bytes, to: Channel | None) -> int:
    """Where the log ends then."""
    if to is not None:
        schedule = replace(schedule, queue=to.name)
    plan, calendar = store.committer.plan(), store.replica.state.calendar
    entry = calendar.get(schedule.name)
    if entry is None and len(calendar) >= SCHEDULES_MAX:
        raise UsageError(f"{SCHEDULES_MAX:,} schedules is the most in a store: take some back first")
    known = entry.schedule if entry else None
    schedule = ticks.declared(schedule, known, plan.now.wall, zone(schedule.tz))
    if schedule.next >= NEVER:
        raise UsageError(
            f"cron {exact.shown(schedule.cron)} never comes: there is no such day in the next 50 years"
        )
    if schedule != known or not _has_body(store, entry, flags, body):
        plan.add(*records.schedule(schedule, flags, body))
        store.replica.expect_tick(schedule.next)
        store.committer.commit(plan)
    return store.replica.log.end


def _has_body(store: Store, entry: Entry | None, flags: int, body: bytes) -> bool:
    assert entry
    assert entry.position is not None
    stored = store.replica.log.read(entry.position)
    return records.scheduled_body(stored.flags, stored.payload) == (flags, body)


@operation
def remove(store: Store, name: str) -> bool:
    """Whether there was a schedule of that name."""
    end = store.turn.take(partial(_remove, store, name))
    if end:
        store.finish_publish(end)
    return end > 0


def _remove(store: Store, name: str) -> int:
    """Where the log ends then; 0 if there is no such schedule."""
    if store.replica.state.calendar.get(name) is None:
        return 0
    plan = store.committer.plan()
    plan.add(*records.unschedule(name))
    store.committer.commit(plan)
    return store.replica.log.end


@operation
def listed(store: Store) -> list[Schedule]:
    """All schedules, by name."""
    return store.turn.look(partial(_listed, store))


def _listed(store: Store) -> list[Schedule]:
    found = [entry.schedule for entry in store.replica.state.calendar]
    return sorted(found, key=lambda each: each.name)
