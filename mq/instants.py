"""Points in time: datetimes, as people name them, and milliseconds since 1970, as the log has them.

A datetime ends with the year 9999; the log's times do not.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from mq import exact
from mq.errors import UsageError

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)
DAY: Final = timedelta(days=1)
LAST_MS: Final = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MILLISECOND


def datetime_at(ms: int) -> datetime:
    """The datetime; the last one there is, if *ms* is later than that."""
    return EPOCH + timedelta(milliseconds=min(ms, LAST_MS))


def ms_at(name: str, at: object) -> int:
    """Milliseconds since 1970; negative before.  UsageError if *at* is no datetime, or a naive one.

    Its time zone is asked once.  What that raises, the caller gets.
    """
    if not exact.is_a(at, datetime):
        raise UsageError(f"{name} is a datetime, not {exact.kind(at)}")
    # Methods and fields of datetime itself: a subclass may override its own.
    date, time = datetime.date(at), datetime.time(at)
    zone = datetime.__dict__["tzinfo"].__get__(at)
    offset = None if zone is None else zone.utcoffset(at)
    if offset is None:
        raise UsageError(
            f"{name} is a datetime with a time zone: this one is naive, and its time zone cannot be guessed"
        )
    if not exact.is_a(offset, timedelta):
        raise UsageError(f"{name}: the time zone's utcoffset() is {exact.kind(offset)}, not a timedelta")
    exactly = timedelta.__pos__(offset)
    if not -DAY < exactly < DAY:
        raise UsageError(f"{name}: the time zone is {exactly} away from UTC, which is a day or more")
    # In whole numbers: no year is so far that a float would round it into another.
    return (datetime.combine(date, time, UTC) - EPOCH - exactly) // MILLISECOND
