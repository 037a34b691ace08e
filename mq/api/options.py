"""What callers may say: the options of queues and of publishes, checked before anything is done.

Every check raises UsageError with one line that says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, TypedDict, TypeVar

from mq import exact
from mq.delivery.intake import NewMessage
from mq.delivery.meta import META_BYTES_MAX
from mq.delivery.options import Declaration
from mq.delivery.retry import Backoff
from mq.engine.bodies import BYTES
from mq.engine.names import check_name
from mq.errors import UsageError
from mq.instants import ms_at

T = TypeVar("T")
Check = Callable[[str, object], Any]
SECONDS_MAX: Final = 10 * 366 * 86_400.0  # ten years: longer than any delivery is meant to wait
SPAN_MIN: Final = 0.001  # seconds: what time is counted in
ATTEMPTS_MAX: Final = 1 << 31
HEADERS_BYTES_MAX: Final = 1 << 20
LABEL_BYTES_MAX: Final = 255  # of a group, and of a dedup id
PRIORITY_MAX: Final = 255
TUPLE: Final[type[tuple[object, ...]]] = tuple


class QueueOptions(TypedDict, total=False):
    """What `broker.queue` declares.  Durable; what a declaration leaves out stays as it is.

    visibility_timeout      seconds (30): what is not settled by then is delivered again, as a failed attempt
    max_attempts            None: try for ever, with backoff.  N: to the dead letters after the Nth failure
    backoff                 `mq.Backoff()`: how long a failed message waits, so that it never blocks the head
    dead_letter             the queue of its dead letters ("<name>.dead"); made when it is first needed
    ttl                     None: waiting messages never expire.  Seconds after which they do
    expired                 "drop", or "dead_letter": what becomes of those
    max_length              None: no limit.  Of all messages that are not settled
    max_bytes               None: no limit.  Of their bodies and attributes, in bytes
    overflow                "reject": QueueFull.  "drop_oldest": the oldest that are not in flight go
    dedup_window            seconds (300) in which a dedup_id is remembered
    delivery                "at_least_once", or "at_most_once": a message arrives settled
    delete_when_idle        None.  Seconds without a receive after which the queue goes, if it is empty
    delete_when_abandoned   None.  The same, with all it holds: for reply queues
    delay                   seconds (0) until a message is ready that was published without delay= or at=
    """

    visibility_timeout: float
    max_attempts: int | None
    backoff: Backoff
    dead_letter: str
    ttl: float | None
    expired: Literal["drop", "dead_letter"]
    max_length: int | None
    max_bytes: int | None
    overflow: Literal["reject", "drop_oldest"]
    dedup_window: float
    delivery: Literal["at_least_once", "at_most_once"]
    delete_when_idle: float | None
    delete_when_abandoned: float | None
    delay: float


class TopicOptions(TypedDict, total=False):
    """What `broker.topic` declares.  Durable; what a declaration leaves out stays as it is.

    The newest messages are retained, as far as each of the limits that are given goes.  With none of them
    nothing is retained: that is so at first, and again when each is None.

    retain_for      None: no limit.  Seconds since a message was published
    retain_count    None: no limit.  How many messages
    retain_bytes    None: no limit.  Of their bodies and attributes, in bytes
    """

    retain_for: float | None
    retain_count: int | None
    retain_bytes: int | None


class BatchOptions(TypedDict, total=False):
    """The options of `queue.publish_many`, for each of its messages.

    priority    0 to 255 (0); a higher one is delivered first
    delay       seconds until the message is ready; by default the queue's, and 0: at once
    at          in its place, when it is ready: an aware datetime (None)
    ttl         seconds after which it expires if it is not in flight; by default the queue's
    group       text of 1 to 255 bytes (None): one message of a group is in flight at a time, in publish
                order
    headers     a mapping of text to text ({}), 1 MiB at most
    timeout     seconds (0) to wait for room in a full queue before QueueFull
    """

    priority: int
    delay: float
    at: datetime | None
    ttl: float
    group: str | None
    headers: Mapping[str, str]
    timeout: float


class PublishOptions(BatchOptions, total=False):
    """The options of `queue.publish`: those of `mq.BatchOptions`, and one more.

    priority    0 to 255 (0); a higher one is delivered first
    delay       seconds until the message is ready; by default the queue's, and 0: at once
    at          in its place, when it is ready: an aware datetime (None)
    ttl         seconds after which it expires if it is not in flight; by default the queue's
    group       text of 1 to 255 bytes (None): one message of a group is in flight at a time, in publish
                order
    headers     a mapping of text to text ({}), 1 MiB at most
    timeout     seconds (0) to wait for room in a full queue before QueueFull
    dedup_id    text of 1 to 255 bytes (None): if it was seen within the queue's dedup_window, nothing is
                stored, and the first id is returned
    """

    dedup_id: str | None


class Outgoing(NamedTuple):
    """For `queue.publish_many`: a body with options of its own.

    body       what `queue.publish` takes
    options    those of `mq.PublishOptions`; they go before the options of the call
    """

    body: object
    options: PublishOptions

    def _is_no_body(self) -> Literal[True]:
        """What is published is a body alone: see `encode_body`."""
        return True


# ── plain values ───────────────────────────────────────────────────────────────────
#
# Each gives back an exact builtin (see exact.py): that is to be used, and not what was given.


def check_seconds(name: str, value: object) -> float:
    """*value*, if it is a duration; else UsageError."""
    seconds = exact.number(name, value, "number of seconds")
    if not 0 <= seconds <= SECONDS_MAX:
        raise UsageError(f"{name} is from 0 to {SECONDS_MAX:.0f} seconds, not {exact.shown(seconds)}")
    return seconds


def check_span(name: str, value: object) -> float:
    """*value*, if it is a duration that is not nothing."""
    seconds = float(check_seconds(name, value))
    if seconds < SPAN_MIN:
        raise UsageError(f"{name} is at least {SPAN_MIN} seconds, not {seconds}")
    return seconds


def check_count(name: str, value: object, least: int = 0) -> int:
    """*value*, if it is a whole number from *least* up; else UsageError."""
    count = exact.whole(name, value)
    if not least <= count < 1 << 63:
        raise UsageError(f"{name} is from {least} to {(1 << 63) - 1}, not {exact.shown(count)}")
    return count


def check_many(name: str, values: Iterable[T]) -> Iterable[T]:
    """*values*, if they are several; UsageError if it is one thing, which would be taken apart."""
    kind: type = type(values)
    if getattr(kind, "_is_endless", False):
        raise UsageError(
            f"{name} is a list or another iterable; one that is a {exact.kind(values)} never ends"
        )
    if not issubclass(kind, Iterable) or issubclass(kind, (str, *BYTES, Mapping)):
        raise UsageError(f"{name} is a list or another iterable, not {exact.kind(values)}")
    return values


def check_reason(reason: object) -> str:
    return exact.text("reason", reason)


def check_text(name: str, value: object, limit: int = LABEL_BYTES_MAX) -> str:
    """*value*, if it is text of 1 to *limit* bytes."""
    text = exact.text(name, value)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{name} {exact.shown(text)} is not valid Unicode") from None
    if not 1 <= size <= limit:
        raise UsageError(f"{name} has 1 to {limit} bytes, not {size}")
    return text


def check_priority(value: object) -> int:
    priority = exact.whole("priority", value)
    if not 0 <= priority <= PRIORITY_MAX:
        raise UsageError(f"priority is from 0 to {PRIORITY_MAX}, not {exact.shown(priority)}")
    return priority


def check_instant(at: object) -> int:
    """Milliseconds since 1970, of an aware datetime; of an earlier one, 1."""
    return max(1, ms_at("at", at))


def check_since(since: object) -> tuple[int | None, int | None]:
    """An id, or a wall time in milliseconds; the other one is None, or both are."""
    if since is None:
        return None, None
    if exact.is_a(since, datetime):
        return None, ms_at("since", since)
    if type(since) is bool or not exact.is_a(since, int):
        raise UsageError(f"since is a message's id or a datetime with a time zone, not {exact.kind(since)}")
    return check_count("since", since), None


def check_headers(headers: object) -> dict[str, str]:
    """A copy: the mapping is gone through once, and what is checked is what is stored."""
    copy: dict[str, str] = {}
    size = 0
    for key, value in exact.pairs("headers", headers):
        name = key if type(key) is str else exact.text("the name of a header", key)
        text = value if type(value) is str else exact.text("a header", value)
        try:
            size += len(name.encode()) + len(text.encode())
        except UnicodeEncodeError:
            raise UsageError(f"the header {exact.shown(name)} is not valid Unicode") from None
        if size > HEADERS_BYTES_MAX:
            raise UsageError(f"the headers have {size:,} bytes or more; {HEADERS_BYTES_MAX:,} is the most")
        copy[name] = text
    return copy


def check_meta(name: str, texts: object) -> dict[str, str | None]:
    """A copy of a mapping of text to text, or to None: there is no such text."""
    copy: dict[str, str | None] = {}
    for key, value in exact.pairs(name, texts):
        word = exact.text("a name of the meta", key)
        text = None if value is None else exact.text("a text of the meta", value)
        try:
            size = len(word.encode()) + len((text or "").encode())
        except UnicodeEncodeError:
            raise UsageError(f"{exact.shown(word)} of the meta is not valid Unicode") from None
        if size > META_BYTES_MAX:
            raise UsageError(
                f"{exact.shown(word)} of the meta has {size:,} bytes; {META_BYTES_MAX:,} is the most"
            )
        copy[word] = text
    return copy


# ── publishing ─────────────────────────────────────────────────────────────────────


def check_delay(delay: object, at: object) -> tuple[int | None, int]:
    """Milliseconds to wait, None if the caller names no delay; and the wall time at which, or 0."""
    if delay is not None and at is not None:
        raise UsageError("delay and at say the same: give one of them")
    if at is not None:
        return 0, check_instant(at)
    return None if delay is None else int(check_seconds("delay", delay) * 1000), 0


def new_message(
    queue: str, flags: int, body: bytes, /, *, priority: int = 0, delay: float | None = None,
    at: datetime | None = None, ttl: float | None = None, group: str | None = None,
    headers: Mapping[str, str] | None = None, timeout: float = 0.0, dedup_id: str | None = None,
    **unknown: object,
) -> NewMessage:  # fmt: skip
    """What the caller wants to publish, if that makes sense."""
    for name in unknown:
        word = exact.shown(exact.text("a publish option", name))
        raise UsageError(f"there is no publish option {word}; known: {', '.join(KNOWN_TO_PUBLISH)}")
    delay_ms, due = check_delay(delay, at)
    return NewMessage(
        queue, flags, body, check_priority(priority), delay_ms, due,
        None if ttl is None else check_span("ttl", ttl),
        None if group is None else check_text("group", group),
        {} if headers is None else check_headers(headers),
        None if dedup_id is None else check_text("dedup_id", dedup_id),
        check_seconds("timeout", timeout),
    )  # fmt: skip


def outgoing(item: object, defaults: dict[str, Any]) -> tuple[object, dict[str, Any]]:
    """The body of an *item* of `publish_many`, and its options; *defaults*: those of the call."""
    if not exact.is_a(item, Outgoing):
        return item, defaults
    # It is a tuple: its items, which no subclass can make look different.
    if TUPLE.__len__(item) != len(Outgoing._fields):
        raise UsageError("an mq.Outgoing is a body and its options")
    body, given = TUPLE.__iter__(item)
    own = {exact.text("a publish option", name): value for name, value in exact.pairs("options", given)}
    if not own.keys().isdisjoint(WHEN):  # it says when, so the call does not
        defaults = {name: value for name, value in defaults.items() if name not in WHEN}
    return body, {**defaults, **own}


WHEN: Final = ("delay", "at")
KNOWN_TO_PUBLISH: Final = tuple(PublishOptions.__annotations__)


# ── declaring ──────────────────────────────────────────────────────────────────────


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a queue, as they are stored."""
    return _checked("queue", options, _CHECKS)


def check_topic_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a topic, as they are stored."""
    return _checked("topic", options, _TOPIC_CHECKS)


def _checked(what: str, options: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    given = {exact.text(f"a {what} option", name): value for name, value in options.items()}
    for name in given:
        if name not in checks:
            raise UsageError(f"there is no {what} option {exact.shown(name)}; known: {', '.join(checks)}")
    return {name: checks[name](name, value) for name, value in given.items()}


def _limit(name: str, value: object) -> int | None:
    if value is None:
        return None
    count = check_count(name, value)
    if count < 1:
        raise UsageError(f"{name} is at least 1, or None for no limit")
    return count


def _attempts(name: str, value: object) -> int | None:
    if value is None:
        return None
    count = check_count(name, value)
    if not 1 <= count <= ATTEMPTS_MAX:
        raise UsageError(f"{name} is from 1 to {ATTEMPTS_MAX}, or None to try for ever")
    return count


def _optional_span(name: str, value: object) -> float | None:
    return None if value is None else check_span(name, value)


def _backoff(name: str, value: object) -> Backoff:
    # A Backoff is a tuple: its items, which no subclass can make look different.
    if not exact.is_a(value, Backoff) or TUPLE.__len__(value) != len(Backoff._fields):
        raise UsageError(f"{name} is an mq.Backoff, not {exact.kind(value)}")
    initial, factor, maximum, jitter = TUPLE.__iter__(value)
    return Backoff(
        float(check_seconds("backoff.initial", initial)), _within("backoff.factor", factor, 1.0, 1000.0),
        float(check_seconds("backoff.maximum", maximum)), _within("backoff.jitter", jitter, 0.0, 1.0),
    )  # fmt: skip


def _within(name: str, value: object, least: float, most: float) -> float:
    number = exact.number(name, value)
    if not least <= number <= most:
        raise UsageError(f"{name} is a number from {least:g} to {most:g}, not {exact.shown(number)}")
    return float(number)


def _one_of(*known: str) -> Callable[[str, object], str]:
    return lambda name, value: exact.one_of(name, value, known)


_TOPIC_CHECKS: Final[dict[str, Check]] = {
    "retain_for": _optional_span,
    "retain_count": _limit,
    "retain_bytes": _limit,
}
_CHECKS: Final[dict[str, Check]] = {
    "visibility_timeout": lambda name, value: float(check_seconds(name, value)),
    "max_attempts": _attempts,
    "backoff": _backoff,
    "dead_letter": lambda name, value: check_name(value),
    "ttl": _optional_span,
    "expired": _one_of("drop", "dead_letter"),
    "max_length": _limit,
    "max_bytes": _limit,
    "overflow": _one_of("reject", "drop_oldest"),
    "dedup_window": lambda name, value: float(check_seconds(name, value)),
    "delivery": _one_of("at_least_once", "at_most_once"),
    "delete_when_idle": _optional_span,
    "delete_when_abandoned": _optional_span,
    "delay": lambda name, value: float(check_seconds(name, value)),
}


def options_of(declared: Declaration, dead_letter: str) -> QueueOptions:
    """The options in force."""
    found: QueueOptions = {name: getattr(declared, name) for name in _CHECKS}  # type: ignore[assignment]
    found["dead_letter"] = dead_letter
    return found
