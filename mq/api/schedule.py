"""Schedule: what is known of a schedule; and the arguments of `broker.schedule`, checked."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from mq import exact
from mq.api.options import check_seconds, check_text, new_message
from mq.engine import scheduling
from mq.engine.names import check_schedule
from mq.errors import UsageError
from mq.instants import datetime_at

Missed = Literal["one", "all", "skip"]
"""What becomes of ticks that came while no process had the store open."""

EVERY_MIN: Final = 0.01  # seconds: each tick is a record or two, and every process that is open reads them
# What makes no sense for something that is published again and again, and why.
REFUSED: Final = {
    "at": "it is one moment, and each tick has its own: `delay` counts from the tick",
    "dedup_id": "it would let the first tick of its window through and no other; each tick is published"
    " exactly once without it",
    "timeout": "a tick does not wait for room: one that finds its queue full counts as missed",
}


class Schedule(NamedTuple):
    """A schedule, as `broker.schedules()` says it.

    name       what it is called
    queue      the queue, or the topic, that its messages go to
    cron       its cron expression; None if it has `every`
    every      seconds between two ticks; None if it has `cron`
    tz         the time zone of `cron`
    next_at    when the next tick is due
    last_at    when a tick was published last; None: never yet
    """

    name: str
    queue: str
    cron: str | None
    every: float | None
    tz: str
    next_at: datetime
    last_at: datetime | None


def shown(found: scheduling.Schedule) -> Schedule:
    """As users see it."""
    last = datetime_at(found.last) if found.last else None
    return Schedule(
        found.name, found.queue, found.cron, found.every, found.tz, datetime_at(found.next), last
    )  # fmt: skip


def new_schedule(
    name: object, to: str, *, topic: bool, cron: object, every: object, tz: object, missed: object,
    options: Mapping[str, Any],
) -> scheduling.Schedule:  # fmt: skip
    """What the caller wants to have, if that makes sense; its next time is still to be computed."""
    for option, why in REFUSED.items():
        if option in options:
            raise UsageError(f"{option} makes no sense for a schedule: {why}")
    if (cron is None) == (every is None):
        raise UsageError("a schedule has either cron or every: give one of them")
    expression = None if cron is None else check_text("cron", cron)
    seconds = None if every is None else float(check_seconds("every", every))
    if seconds is not None and seconds < EVERY_MIN:
        raise UsageError(f"every is at least {EVERY_MIN} seconds, not {seconds}")
    zone = check_text("tz", tz)
    rule = exact.one_of("missed", missed, ("one", "all", "skip"))
    each = new_message(to, 0, b"", **options)
    scheduling.check_times(expression, zone)
    return scheduling.Schedule(
        check_schedule(name), to, 0, cron=expression, every=seconds, tz=zone,
        missed=rule,  # type: ignore[arg-type]
        topic=topic, priority=each.priority, delay_ms=each.delay_ms, ttl=each.ttl, group=each.group,
        headers=each.headers,
    )  # fmt: skip
