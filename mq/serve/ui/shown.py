"""Messages as the dashboard shows them: a body by its kind, and never more of it than a page can bear."""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

import msgspec

import mq
from mq import values
from mq.delivery import records
from mq.engine.briefs import Brief, briefs
from mq.engine.looking import skew_ms
from mq.instants import ms_at

READ_BYTES_MAX: Final = 256 << 10  # of a body in a list; larger ones are not read
PREVIEW_CHARS: Final = 240
TEXT_CHARS_MAX: Final = 64 << 10  # of a body on its own page
DUMP_BYTES_MAX: Final = 4 << 10
DUMP_COLUMNS: Final = 16
PRETTY_BYTES_MAX: Final = 1 << 20  # of a text that is laid out as JSON
REASON_CHARS: Final = 160
LIMITS: Final = (50, 200)  # messages in a list, and the most


class Line(NamedTuple):
    """A message in a list."""

    id: int
    attempts: int
    size: int
    created_ms: int | None
    due_ms: int | None
    kind: str
    preview: str
    damage: str
    priority: int
    group: str | None
    headers: int  # how many
    origin: str | None
    failure: str  # the last one


def lines(queue: mq.Queue[Any], state: mq.State, limit: int) -> list[Line]:
    """The first *limit* messages in *state*."""
    found = briefs(queue._store, queue._channel, limit, state, READ_BYTES_MAX)
    skew = skew_ms(queue._store) if state == "in_flight" else 0
    return [_line(each, skew) for each in found]


def _line(brief: Brief, skew: int) -> Line:
    seen, shown = brief.seen, brief.shown
    more = shown.more.said if shown and shown.more else None
    failures = seen.traits.failures
    kind, text = "", ""
    if brief.damage:
        kind = "damaged"
    elif shown is None:
        kind = "large"
    else:
        kind, text = values.body_type(shown.flags), preview(shown.flags, shown.raw)
    return Line(
        seen.id, seen.attempts, brief.size, brief.created_ms, None if seen.due is None else seen.due + skew,
        kind, text, brief.damage, seen.traits.priority, seen.traits.group, len(more.headers) if more else 0,
        seen.traits.origin, failures[-1].reason[:REASON_CHARS] if failures else "",
    )  # fmt: skip


def preview(flags: int, raw: bytes) -> str:
    """The beginning of a body, on one line."""
    if flags & records.BODY_BITS == records.BYTES:
        try:
            text = raw[: 4 * PREVIEW_CHARS].decode()
        except UnicodeDecodeError:
            return raw[: PREVIEW_CHARS // 3].hex(" ")
    else:
        text = values.body_bytes(flags, raw)[: 4 * PREVIEW_CHARS].decode(errors="replace")
    return values.escape(text[:PREVIEW_CHARS])


class Body(NamedTuple):
    """A body on its own page."""

    kind: str
    size: int
    text: str
    is_dump: bool  # of bytes that are no text
    left_out: int  # characters, or bytes of a dump


def body_of(flags: int, raw: bytes) -> Body:
    kind = values.body_type(flags)
    if kind in ("text", "structure", "bytes"):
        text = _text(kind, flags, raw)
        if text is not None:
            left = max(0, len(text) - TEXT_CHARS_MAX)
            return Body(kind, len(raw), values.escape(text[:TEXT_CHARS_MAX], keep="\n\t"), False, left)
    return Body(kind, len(raw), dump(raw[:DUMP_BYTES_MAX]), True, max(0, len(raw) - DUMP_BYTES_MAX))


def _text(kind: str, flags: int, raw: bytes) -> str | None:
    """The body as text, laid out if it is JSON; None if it is none."""
    data = values.body_bytes(flags, raw) if kind == "structure" else raw
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if len(data) <= PRETTY_BYTES_MAX and text.lstrip()[:1] in ("{", "["):
        try:
            return msgspec.json.format(text, indent=2)  # numbers and names stay as they are written
        except (ValueError, RecursionError):
            return text
    return text


def dump(raw: bytes) -> str:
    """Bytes in rows: where, in hexadecimal, and as far as they are printable."""
    rows = []
    for at in range(0, len(raw), DUMP_COLUMNS):
        part = raw[at : at + DUMP_COLUMNS]
        said = "".join(chr(each) if 32 <= each < 127 else "·" for each in part)
        rows.append(f"{at:06x}  {part.hex(' '):{3 * DUMP_COLUMNS - 1}}  {said}")
    return "\n".join(rows)


def age(seconds: float) -> str:
    """Seconds, as exact as a person who looks at a list wants them."""
    if 10 <= seconds < 120:
        return f"{seconds:.0f} s"
    return values.duration(seconds)


def ago(ms: int | None) -> str:
    """How long ago that was; "" if it is not known."""
    return "" if ms is None else age(max(0.0, time.time() - ms / 1000))


def until(ms: int | None) -> str:
    """In how long that is."""
    return "" if ms is None else age(max(0.0, ms / 1000 - time.time()))


def ms_of(at: Any) -> int | None:
    """Milliseconds of a datetime."""
    return None if at is None else ms_at("a time", at)
