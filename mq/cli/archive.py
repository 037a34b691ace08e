"""The lines of an export: JSON objects, whose `kind` says what stands there; written, and read again.

    export      first: which version, of which store, when, which queues and topics, and an id of its own
    queue       options, meta, subscriptions; the messages of it follow
    topic       what it retains; the messages follow
    message     as `mq peek --json` prints it, and dedup id and first delivery
    dedup       a dedup id that its queue remembers, though the message is gone; or one of a topic
    schedule    with its next tick, and the body of its messages
    end         last: how many there were of each

Times are wall time, ISO 8601 in milliseconds.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from secrets import token_hex
from typing import Any, Final

import msgspec

import mq
from mq.api.options import check_meta, check_options, check_topic_options, new_message
from mq.api.schedule import new_schedule
from mq.cli import output
from mq.cli.envelope import BadLine
from mq.cli.stats import Options
from mq.delivery import records
from mq.delivery.attributes import Attributes, Failed, topic_key
from mq.delivery.options import Declaration
from mq.delivery.queue import State
from mq.delivery.transfer import Parcel
from mq.engine.bodies import encode_body
from mq.engine.names import check_name, check_pattern, check_topic
from mq.engine.outgoing import Definition, Remembered, Scheduled
from mq.errors import UsageError
from mq.instants import ms_at

VERSION: Final = 1
FAR: Final = " ms"  # behind the number of a time that ISO 8601 cannot say
LIMITS: Final = ("retain_for", "retain_count", "retain_bytes")


class Line(msgspec.Struct, tag_field="kind", tag=str.lower, omit_defaults=True):
    """What all kinds have in common."""


class Export(Line):
    version: int
    mq: str
    store_id: str
    at: str
    queues: list[str]
    id: str = "-"  # of this export: what `mq import --resume` goes on with
    topics: list[str] = []


class Queue(Line):
    queue: str
    options: dict[str, Any] = {}
    paused: bool = False
    meta: dict[str, str] = {}
    subscriptions: dict[str, dict[str, str]] = {}


class Topic(Line):
    topic: str
    options: dict[str, Any]


class Failure(msgspec.Struct):
    at: str
    attempt: int
    reason: str


class Body(Line):
    """Keys of a body: see `output.body_fields`."""

    body_type: str
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    body_base64: str | None = None


class Message(Body, kw_only=True):
    id: int
    queue: str | None = None
    topic: str | None = None
    state: State = "ready"
    attempts: int = 0
    created_at: str
    first_received_at: str | None = None
    due_at: str | None = None
    expires_at: str | None = None
    priority: int = 0
    group: str | None = None
    headers: dict[str, str] = {}
    dedup_id: str | None = None
    dedup_until: str | None = None
    origin: str | None = None
    failures: list[Failure] = []


class Dedup(Line, kw_only=True):
    queue: str | None = None
    topic: str | None = None
    dedup_id: str
    until: str


class Schedule(Body, kw_only=True):
    schedule: str
    queue: str | None = None
    topic: str | None = None
    next_at: str
    since: str | None = None
    last_at: str | None = None
    cron: str | None = None
    every: float | None = None
    tz: str = "UTC"
    missed: str = "one"
    late: int = 0
    options: dict[str, Any] = {}


class End(Line):
    queues: int
    messages: int
    topics: int
    schedules: int


Any_Line = Export | Queue | Topic | Message | Dedup | Schedule | End
_decode: Final = msgspec.json.Decoder(Any_Line).decode


def read(line: bytes) -> Any_Line:
    """BadLine if it is none of an export."""
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadLine(f"not a line that `mq export` writes ({error})") from None


# ── moments ────────────────────────────────────────────────────────────────────────


def _at(ms: int) -> str | None:
    return output.instant(ms) if ms else None


def _ms(name: str, text: str | None) -> int:
    """The wall time that *text* says, ms; 0: it is not there."""
    if text is None:
        return 0
    if text.endswith(FAR) and text.removesuffix(FAR).isdigit():
        return int(text.removesuffix(FAR))
    try:
        return ms_at(name, datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise UsageError(f"{name} {text!r} is no time with its zone, as 2030-01-31T06:30:00.000Z") from None


# ── written ────────────────────────────────────────────────────────────────────────


def export(broker: mq.Broker, now_ms: int, queues: list[str], topics: list[str]) -> Export:
    return Export(
        VERSION, mq.__version__, broker.store_id, output.instant(now_ms), queues, token_hex(8), topics
    )


def queue(name: str, options: mq.QueueOptions, found: Definition) -> Queue:
    known = msgspec.structs.asdict(Options.of(options))
    if not found.declaration.dead_letter:  # it goes by the name
        del known["dead_letter"]
    return Queue(name, known, found.declaration.paused, found.declaration.meta, found.subscriptions)


def topic(name: str, found: Definition) -> Topic:
    return Topic(name, {limit: getattr(found.declaration, limit) for limit in LIMITS})


def message(queue: str | None, parcel: Parcel, state: State) -> dict[str, Any]:
    """The object; a dict, for its body is JSON already."""
    said = parcel.said
    return {
        "kind": "message",
        "id": parcel.id,
        "queue": queue,
        "topic": said.topic,
        "state": state,
        "attempts": parcel.attempts,
        "created_at": output.instant(parcel.created),
        "first_received_at": _at(parcel.received),
        "due_at": _at(parcel.due),
        "expires_at": _at(parcel.expires),
        "priority": said.priority,
        "group": said.group,
        "headers": said.headers,
        "dedup_id": said.dedup_id,
        "dedup_until": _at(said.dedup_until) if said.dedup_id is not None else None,
        "origin": parcel.origin,
        "failures": [
            {"at": output.instant(each.at), "attempt": each.attempt, "reason": each.reason}
            for each in parcel.failures
        ],
        **output.body_fields(parcel.flags, parcel.body),
    }


def dedup(queue: str | None, found: Remembered) -> Dedup:
    """*queue*: None: it is one of a topic."""
    topic, _, key = found.key.partition("\0") if queue is None else (None, "", found.key)
    return Dedup(queue=queue, topic=topic, dedup_id=key, until=output.instant(found.until))


def schedule(found: Scheduled) -> dict[str, Any]:
    what = found.schedule
    options = {"priority": what.priority, "group": what.group, "headers": what.headers, "ttl": what.ttl}
    options["delay"] = None if what.delay_ms is None else what.delay_ms / 1000
    return {
        "kind": "schedule",
        "schedule": what.name,
        "topic" if what.topic else "queue": what.queue,
        "next_at": output.instant(what.next),
        "since": _at(what.since),
        "last_at": _at(what.last),
        "cron": what.cron,
        "every": what.every,
        "tz": what.tz,
        "missed": what.missed,
        "late": what.late,
        "options": {name: value for name, value in options.items() if value},
        **output.body_fields(found.flags, found.body),
    }


# ── read again ─────────────────────────────────────────────────────────────────────


def definition_of(line: Queue | Topic) -> Declaration:
    """UsageError if it says what cannot be."""
    if isinstance(line, Topic):
        name, changes = check_topic(line.topic), check_topic_options(line.options)
        return Declaration(name=name, topic=True, **changes)
    given = dict(line.options)
    if (backoff := given.get("backoff")) is not None:
        try:
            given["backoff"] = mq.Backoff(**backoff)
        except TypeError:
            raise UsageError(f"backoff has {', '.join(mq.Backoff._fields)}: not what is here") from None
    texts: dict[str, Any] = check_meta("the meta", line.meta)
    for pattern in line.subscriptions:
        check_pattern(pattern)
    changes = check_options(given)
    return Declaration(name=check_name(line.queue), paused=line.paused, meta=texts, **changes)


def parcel_of(line: Message) -> Parcel:
    """UsageError if it says what cannot be."""
    flags, body = _body(line)
    given: dict[str, Any] = {
        "priority": line.priority, "group": line.group, "headers": line.headers, "dedup_id": line.dedup_id
    }  # fmt: skip
    new_message("", 0, b"", **{name: value for name, value in given.items() if value is not None})
    if line.topic is not None:
        check_topic(line.topic)
    if line.id < 0 or not 0 <= line.attempts < 1 << 32:
        raise UsageError("id and attempts are counts, as `mq export` writes them")
    said = Attributes(
        line.priority, 0, 0, line.group, line.headers, line.dedup_id,
        _ms("dedup_until", line.dedup_until), line.topic,
    )  # fmt: skip
    failures = tuple(Failed(_ms("at", each.at), each.attempt, each.reason) for each in line.failures)
    return Parcel(
        line.id, flags, body, _ms("created_at", line.created_at), line.attempts,
        _ms("due_at", line.due_at) if line.state == "delayed" else 0, _ms("expires_at", line.expires_at),
        line.origin, failures, _ms("first_received_at", line.first_received_at), said,
    )  # fmt: skip


def remembered_of(line: Dedup) -> Remembered:
    """UsageError if it says what cannot be."""
    new_message("", 0, b"", dedup_id=line.dedup_id)
    key = line.dedup_id if line.topic is None else topic_key(check_topic(line.topic), line.dedup_id)
    return Remembered(key, _ms("until", line.until))


def scheduled_of(line: Schedule) -> Scheduled:
    """UsageError if it says what cannot be."""
    to = check_topic(line.topic) if line.topic is not None else check_name(line.queue)
    checked = new_schedule(
        line.schedule, to, topic=line.topic is not None, cron=line.cron, every=line.every, tz=line.tz,
        missed=line.missed, options=line.options,
    )  # fmt: skip
    times = {
        "next": _ms("next_at", line.next_at),
        "since": _ms("since", line.since),
        "last": _ms("last_at", line.last_at),
        "late": max(0, line.late),
    }
    return Scheduled(msgspec.structs.replace(checked, **times), *_body(line))


def _body(line: Body) -> tuple[int, bytes]:
    """How it was given, and its bytes: those of the message that was exported, exactly."""
    kinds = {"bytes": records.BYTES, "text": records.TEXT, "structure": records.MSGPACK}
    if line.body_type not in kinds:
        raise UsageError(f"body_type is text, bytes or structure, not {line.body_type!r}")
    try:
        if line.body_base64 is not None:
            raw = base64.b64decode(line.body_base64, validate=True)
            if line.body_type == "structure":
                msgspec.msgpack.decode(raw)
        elif not isinstance(line.body, msgspec.Raw):
            raise UsageError("it has no body")
        elif line.body_type == "structure":
            raw = msgspec.msgpack.encode(msgspec.json.decode(line.body))
        else:
            raw = msgspec.json.decode(line.body, type=str).encode()
        if line.body_type == "text":
            raw.decode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError, binascii.Error, OverflowError) as error:
        raise UsageError(f"the body is not what body_type says: {error}") from None
    encode_body(raw)  # an error if it is too long
    return kinds[line.body_type], raw
