"""What `mq doctor` finds: how bad it is, what it is, and what to do about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
"""error: something does not work, or messages are in danger.  warning: it will come to that, or work stands
still.  note: good to know; it does no harm, or mends itself."""


class Finding(NamedTuple):
    name: str
    """What kind of finding it is, for programs: it stays the same."""
    severity: Severity
    what: str
    advice: str
    path: str = ""
    """The file or directory that it is about, if it is about one."""
    queue: str | None = None
    pid: int | None = None
