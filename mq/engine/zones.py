"""Time zones by name, from the system's data or the package tzdata; UTC needs neither."""

from __future__ import annotations

from datetime import UTC, tzinfo

from mq import exact
from mq.errors import UsageError


def zone(name: str) -> tzinfo:
    """The time zone; UsageError if there is none of that name, or no data of time zones at all."""
    if name == "UTC":
        return UTC
    from zoneinfo import TZPATH, ZoneInfo, available_timezones  # most stores have no schedule in a zone

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found, no such name, a directory of several
        pass
    if available_timezones():
        raise UsageError(
            f"there is no time zone {exact.shown(name)}: tz is a name of the IANA data, as 'Europe/Berlin'"
        )
    raise UsageError(
        f"the time zone {exact.shown(name)} cannot be looked up: there is no time zone data in"
        f" {':'.join(TZPATH) or 'PYTHONTZPATH'}; install the system's tzdata, or `pip install tzdata`"
    )
