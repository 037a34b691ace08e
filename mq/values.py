"""Values as text, for a person and as JSON: sizes, times, bodies; for all tools that show them."""

from __future__ import annotations

import base64
import math
import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

import mq
from mq.delivery import records

DURATION: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)([a-z]*)")
SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
OPTIONS_IN_SECONDS: Final = frozenset({
    "visibility_timeout", "ttl", "dedup_window", "delete_when_idle", "delete_when_abandoned", "delay",
    "retain_for",
})  # fmt: skip
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count(number: int, noun: str, several: str = "") -> str:
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"


def size(count: int) -> str:
    """Bytes, for a person."""
    value, unit = float(count), 0
    while value >= 1023.95 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:,.1f} {UNITS[unit]}" if unit else f"{count:,} B"


def duration(seconds: float) -> str:
    """Seconds, for a person."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def span(seconds: float) -> str:
    """Seconds of an option, for a person: exact, in the longest unit that keeps them short."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length and seconds % (length / 2) == 0:
            return f"{seconds / length:,g} {unit}"
    return f"{seconds:,.3f}".rstrip("0").rstrip(".") + " s"


def option(name: str, value: object) -> str:
    """The value of the option *name* of a queue or topic, for a person."""
    if isinstance(value, mq.Backoff):
        initial, maximum = span(value.initial), span(value.maximum)
        return f"initial {initial}, factor {value.factor:g}, maximum {maximum}, jitter {value.jitter:g}"
    if isinstance(value, (int, float)):
        return span(value) if name in OPTIONS_IN_SECONDS else f"{value:,}"
    return escape(str(value))


def read_duration(text: str) -> float | None:
    """The seconds that a person wrote, as 90s or 1.5h; None if it is no duration."""
    match = DURATION.fullmatch(text)
    if match is None or match[2] not in SECONDS:
        return None
    return float(match[1]) * SECONDS[match[2]]


def instant(ms: int) -> str:
    """Milliseconds since 1970, as ISO 8601."""
    try:
        at = datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
    return at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def plain(text: str) -> str:
    """*text* as UTF-8 can say it: of a path, the bytes that are none as escapes, such as `\\xe9`."""
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # other surrogates, which no path has
        return text.encode(errors="backslashreplace").decode()


def escape(text: str, keep: str = "") -> str:
    """*text* with everything that a terminal might obey made visible, but for what is in *keep*."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else repr(each)[1:-1] for each in text
    )  # fmt: skip


def to_json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_plainly(value))


def _plainly(value: Any) -> Any:
    """*value*, with `plain` text."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(key): _plainly(each) for key, each in value.items()}
    return [_plainly(each) for each in value] if isinstance(value, (list, tuple)) else value


# ── bodies ─────────────────────────────────────────────────────────────────────────


def body_type(flags: int) -> str:
    """How the body was given."""
    kinds = {records.BYTES: "bytes", records.TEXT: "text", records.MSGPACK: "structure"}
    return kinds.get(flags & records.BODY_BITS, "unknown")


def body_fields(flags: int, raw: bytes) -> dict[str, Any]:
    """The keys that a body has in JSON: how it was given, and `body`, or `body_base64` if it has no text.

    A structure that JSON cannot say exactly has both.
    """
    name = body_type(flags)
    try:
        if name == "structure":
            body = msgspec.msgpack.decode(raw)
            said = to_json(body)
            if b"null" in said and _has_no_number(body):
                return {"body_type": name, "body_base64": base64.b64encode(raw).decode()}
            found = {"body_type": name, "body": msgspec.Raw(said)}
            if msgspec.msgpack.encode(msgspec.json.decode(said)) != raw:
                found["body_base64"] = base64.b64encode(raw).decode()  # bytes, times, keys that are no text
            return found
        return {"body_type": name, "body": raw.decode()}
    except (ValueError, TypeError, RecursionError):  # not UTF-8; or nothing that JSON can say
        return {"body_type": name, "body_base64": base64.b64encode(raw).decode()}


def _has_no_number(value: Any) -> bool:
    """Whether NaN or an infinity is in there, which JSON cannot say; msgspec makes null of them."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_no_number, value.values())) or any(map(_has_no_number, value))
    return isinstance(value, (list, tuple)) and any(map(_has_no_number, value))


def body_bytes(flags: int, raw: bytes) -> bytes:
    """The body as text mode prints it: text and bytes as they are, a structure as JSON."""
    if flags & records.BODY_BITS != records.MSGPACK:
        return raw
    fields = body_fields(flags, raw)
    return bytes(fields["body"]) if "body" in fields else raw
