"""A reader of the format that was written from FORMAT.md and shares no line with mq.

If it and mq read the same out of a store, FORMAT.md says what the code does.

    read_segment(path, …)     what stands in one file
    read_log(store)           what counts of it: from the head on, whole groups, nothing void
    State(read_log(store))    what comes out when that is applied in order
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from struct import calcsize, iter_unpack, unpack_from
from typing import Any, NamedTuple

from msgspec import msgpack

KINDS = {
    1: "FENCE", 2: "CLOSED", 3: "HEAD", 4: "LOST", 5: "CLOCK",
    16: "DECLARE", 17: "PUBLISH", 18: "DELIVER", 19: "ACK", 20: "NACK", 21: "RELEASE", 22: "EXTEND",
    23: "PURGE", 24: "RELOCATE", 25: "MOVE", 26: "DROP", 27: "RESCHEDULE", 28: "DELETE", 29: "DEDUP",
    30: "RENEW", 31: "FANOUT", 32: "RELOCATE_FANOUT", 33: "SUBSCRIBE", 34: "UNSUBSCRIBE", 35: "BACKFILL",
    36: "SCHEDULE", 37: "TICK", 38: "UNSCHEDULE",
}  # fmt: skip
STORAGE = {"FENCE", "CLOSED", "HEAD", "LOST", "CLOCK"}
PAYLOADS = {
    "FENCE": "<QQQQ", "CLOSED": "<", "HEAD": "<Q", "CLOCK": "<Q",
    "DELIVER": "<QQ", "ACK": "<QI", "NACK": "<QQ",
    "RELEASE": "<Q", "EXTEND": "<QQ", "PURGE": "<Q", "RELOCATE": "<QQIBQQ", "MOVE": "<QIHQQB",
    "RESCHEDULE": "<QQ", "DEDUP": "<QQ", "RENEW": "<Q", "FANOUT": "<BH", "RELOCATE_FANOUT": "<QQHI",
    "BACKFILL": "<H", "TICK": "<QQI",
}  # fmt: skip
CONTINUES = 0x01
TIMED_OUT = TIMED = DIED = 0x10
FAILED = RESTS = 0x20
ATTRIBUTED = EXPIRED = 0x40
CHANGED = OVERFLOWED = WHOLE = 0x80
FLAGS = {
    "PUBLISH": 0x30 | ATTRIBUTED, "DELIVER": TIMED_OUT, "NACK": TIMED | RESTS,
    "RELOCATE": 0x30 | ATTRIBUTED | CHANGED, "MOVE": DIED | FAILED | EXPIRED | WHOLE,
    "DROP": DIED | FAILED | EXPIRED | OVERFLOWED,
    "FANOUT": 0x30 | ATTRIBUTED, "RELOCATE_FANOUT": 0x30 | ATTRIBUTED, "BACKFILL": ATTRIBUTED,
    "SCHEDULE": 0x30,
}  # fmt: skip
TOTALS = ("published", "acked", "failed", "expirations", "dead_lettered", "dropped")
DECLARED: dict[str, Any] = {
    "name": "", "visibility_timeout": 30, "max_attempts": None, "backoff": [1, 2, 60, 0.1], "dead_letter": "",
    "ttl": None, "expired": "drop", "max_length": None, "max_bytes": None, "overflow": "reject",
    "dedup_window": 300, "delivery": "at_least_once", "delete_when_idle": None,
    "delete_when_abandoned": None, "delay": 0, "meta": {}, "was": "", "topic": False, "retain_for": None,
    "retain_count": None, "retain_bytes": None, "paused": False, "idle_until": 0, **dict.fromkeys(TOTALS, 0),
}  # fmt: skip
SCHEDULED: dict[str, Any] = {
    "topic": False, "since": 0, "cron": None, "every": None, "tz": "UTC", "missed": "one", "last": 0,
    "late": 0, "priority": 0, "delay_ms": None, "ttl": None, "group": None, "headers": {},
}  # fmt: skip


def _table() -> Iterator[int]:
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F6_3B78 if byte & 1 else 0)
        yield byte


TABLE = tuple(_table())


def crc32c(data: bytes, start: int = 0) -> int:
    crc = start ^ 0xFFFF_FFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFF_FFFF


# ── what stands in the files ───────────────────────────────────────────────────────


class Entry(NamedTuple):
    lsn: int
    kind: str
    flags: int
    queue: int
    ms: int
    claims: int | None
    fields: tuple[int, ...]
    rest: bytes  # of the payload, behind the fields


class Segment(NamedTuple):
    number: int
    base: int
    capacity: int
    features: int
    created: int
    wall: int  # the same, by the wall clock
    entries: list[Entry]
    end: int  # what is behind is zero, or void
    behind: bytes


def read_format(path: Path) -> tuple[bytes, bytes]:
    """Store id and key."""
    match = re.fullmatch(rb"(mq 1 ([0-9a-f]{32}) ([0-9a-f]{16})) ([0-9a-f]{8})\n", path.read_bytes())
    assert match
    assert int(match[4], 16) == crc32c(match[1])
    return bytes.fromhex(match[2].decode()), bytes.fromhex(match[3].decode())


def read_segment(path: Path, store_id: bytes, key: bytes) -> Segment:
    data = path.read_bytes()
    magic, version, reserved, features, number, own_id, own_key, base, capacity, created, crc = unpack_from(
        "<8sHHII16s8sQQQI", data
    )
    assert (magic, version, reserved, features & ~1) == (b"mq-log\r\n", 1, 0, 0)
    assert (own_id, own_key, crc) == (store_id, key, crc32c(data[:68]))
    assert path.name == f"{base:020}.seg"
    entries = list(_entries(data, base, crc32c(key + base.to_bytes(8, "little"))))
    end = entries[-1].lsn + 24 + _size(entries[-1]) if entries else base
    said = [entry.fields[0] for entry in entries[1:2] if entry.kind == "CLOCK"]
    wall = said[0] if said else created
    return Segment(number, base, capacity, features, created, wall, entries, end, data[72 + end - base :])


def _size(entry: Entry) -> int:
    return calcsize(_layout(entry.kind, entry.flags)) + len(entry.rest)


def _layout(kind: str, flags: int) -> str:
    return "<QQQ" if kind == "NACK" and flags & TIMED else PAYLOADS.get(kind, "<")


def _entries(data: bytes, base: int, seed: int) -> Iterator[Entry]:
    at = 72
    while at + 24 <= len(data):
        lsn = base + at - 72
        crc, length, low, lag, ms, kind, flags, queue = unpack_from("<IIIIIBBH", data, at)
        whole = data[at + 4 : at + 24 + length]
        if low != lsn % 2**32 or len(whole) != 20 + length or crc32c(whole, seed) != crc:
            return
        payload, name = whole[20:], KINDS[kind]
        layout = _layout(name, flags)
        assert flags & ~(CONTINUES | FLAGS.get(name, 0)) == 0
        claims = None if lag == 0xFFFF_FFFF else lsn - lag
        fields = unpack_from(layout, payload)
        yield Entry(lsn, name, flags, queue, ms, claims, fields, payload[calcsize(layout) :])
        at += 24 + length


def read_mark(path: Path, key: bytes) -> dict[str, int]:
    data = path.read_bytes()
    assert (len(data), data[:8], data[72:].strip(b"\0")) == (4096, key, b"")
    names = ("end", "dirty", "synced", "syncing", "failed", "head", "holder", "synced, again")
    return dict(zip(names, unpack_from("<8Q", data, 8), strict=True))


# ── what counts ────────────────────────────────────────────────────────────────────


def read_log(store: Path) -> list[Segment]:
    """From the head on; without what is void, and without a group that is not whole."""
    store_id, key = read_format(store / "FORMAT")
    counting: list[Segment] = []
    limit = None  # what is behind is void
    for path in sorted((store / "log").glob("*.seg"), reverse=True):
        segment = read_segment(path, store_id, key)
        if limit is not None and segment.base >= limit:
            continue
        entries = [entry for entry in segment.entries if limit is None or entry.lsn < limit]
        while entries and entries[-1].flags & CONTINUES:
            entries.pop()
        if not entries:  # begun, and never written to
            continue
        assert entries[0].kind == "FENCE"
        assert limit is None or limit == entries[-1].lsn + 24 + _size(entries[-1])
        limit = entries[0].fields[0]
        counting.insert(0, segment._replace(entries=entries))
    every = [entry for segment in counting for entry in segment.entries]
    heads = [e.fields[e.kind == "FENCE"] for e in every if e.kind in ("HEAD", "FENCE")]
    return [segment for segment in counting if segment.base >= max(heads)]


# ── what it comes to ───────────────────────────────────────────────────────────────


@dataclass
class Message:
    id: int
    created: int
    body: object
    size: int
    priority: int
    group: str | None
    headers: dict[str, str]
    due: int
    expires: int
    dedup: tuple[str | None, int]
    rests: int = 0  # store time
    attempts: int = 0
    receipt: int | None = None  # of the delivery that was not settled
    deadline: int = 0
    origin: str | None = None
    failures: list[tuple[int, int, str]] = field(default_factory=list)  # when, attempt, why
    topic: str | None = None
    received: tuple[int, int] | None = None  # the receipt of its first delivery, and its wall time

    def fail(self, at: int, reason: str) -> None:
        self.failures.append((at, self.attempts, reason))
        del self.failures[1:-4]

    def shown(self, store_ms: int) -> Message:
        """As a look shows it: a delivery that has timed out has failed, though no record says so yet."""
        seen = replace(self, failures=[*self.failures])
        if self.receipt is not None and self.deadline <= store_ms:
            seen.fail(self.deadline, "the visibility timeout passed")
        return seen

    def wait(self, due: int, rests: int = 0) -> None:
        self.receipt, self.due, self.rests = None, due, rests


@dataclass
class Queue:
    declared: dict[str, Any] = field(default_factory=DECLARED.copy)
    messages: dict[int, Message] = field(default_factory=dict)
    dedup: dict[str, tuple[int, int]] = field(default_factory=dict)  # message id, until when
    patterns: dict[str, tuple[dict[str, str], int]] = field(default_factory=dict)  # headers, from which id on
    idle_until: int = 0
    totals: Counter[str] = field(default_factory=Counter)

    def place(
        self, message: Message, store_ms: int, wall_ms: int, skew_ms: int = 0
    ) -> tuple[str, int | None]:
        """ready, delayed, in_flight; or expired, and nobody came by yet.  And until when, on its clock.

        *skew_ms*: how far the wall clock, by which a delay is told, is ahead of store time.
        """
        returns = message.rests
        if message.receipt is not None:
            most = self.declared["max_attempts"]
            if message.deadline > store_ms or (most is not None and message.attempts >= most):
                return "in_flight", message.deadline
            returns = message.deadline + self._delay(message.attempts, message.receipt)
        if 0 < message.expires <= wall_ms:
            return "expired", None
        if returns > store_ms or message.due > wall_ms:
            return "delayed", max(returns and returns + skew_ms, message.due)
        return "ready", None

    def _delay(self, attempts: int, receipt: int) -> int:
        initial, factor, maximum, jitter = self.declared["backoff"]
        c = (receipt * 0x9E37_79B9_7F4A_7C15 % 2**64) / 2**64
        return int(min(maximum, initial * factor ** (attempts - 1)) * (1 + jitter * (2 * c - 1)) * 1000)

    def next(self, store_ms: int, wall_ms: int) -> list[int]:
        """What would be delivered now: of a group one."""
        firsts: dict[str, int] = {}
        for id, each in sorted(self.messages.items(), key=lambda pair: (pair[1].receipt is None, pair[0])):
            gone = each.receipt is None and 0 < each.expires <= wall_ms
            if each.group is not None and not gone:
                firsts.setdefault(each.group, id)
        ready = [
            each
            for id, each in self.messages.items()
            if self.place(each, store_ms, wall_ms)[0] == "ready"
            and (each.group is None or firsts[each.group] == id)
        ]
        return [each.id for each in sorted(ready, key=lambda each: (-each.priority, each.id))]


class State:
    """The queues, by number."""

    def __init__(self, log: Iterable[Segment]) -> None:
        self.queues: dict[int, Queue] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        for segment in log:
            for entry in segment.entries:
                if entry.kind not in STORAGE:
                    self._apply(entry, segment.wall + entry.ms)

    def by_name(self) -> dict[str, Queue]:
        every = [queue for number, queue in self.queues.items() if number and not queue.declared["topic"]]
        names = {queue.declared["name"]: queue for queue in every}
        return {name: queue for name, queue in names.items() if name[:1] != "\1"}

    def _queue(self, number: int) -> Queue:
        return self.queues.setdefault(number, Queue())

    def _apply(self, entry: Entry, time: int) -> None:
        lsn, kind, flags, number, _, _, fields, rest = entry
        if kind in ("SCHEDULE", "TICK", "UNSCHEDULE"):
            assert not number
            self._schedule(kind, flags, fields, rest)
            return
        queue = self._queue(number)
        message = queue.messages.get(fields[0]) if fields and "FANOUT" not in kind else None
        flies = message if message and message.receipt is not None else None
        match kind:
            case "DECLARE":
                queue.declared = DECLARED | msgpack.decode(rest)
                assert queue.declared.keys() == DECLARED.keys()
                queue.totals = Counter({name: queue.declared[name] for name in TOTALS})
                queue.idle_until = queue.declared["idle_until"]
                if queue.declared["was"]:
                    self._rename(queue.declared["was"], queue.declared["name"])
            case "PUBLISH":
                message = queue.messages[lsn] = _published(lsn, time, flags, rest)
                queue.totals["published"] += 1
                if message.dedup[0] is not None:
                    queue.dedup[message.dedup[0]] = lsn, message.dedup[1]
            case "DELIVER":
                ids = [fields[0], *(id for (id,) in iter_unpack("<Q", rest))]
                assert len(ids) <= 128
                for n, id in enumerate(ids):
                    queue.totals["failed"] += bool(flags & TIMED_OUT)
                    if each := queue.messages.get(id):
                        if each.receipt is not None:
                            each.fail(each.deadline, "the visibility timeout passed")
                        each.attempts += 1
                        each.wait(0)
                        each.receipt, each.deadline = lsn + n, fields[1]
                        each.received = each.received or (lsn + n, time)
            case "ACK":
                settled = [fields, *iter_unpack("<QI", rest)]
                assert len(settled) <= 128
                for id, _size in settled:
                    queue.totals["acked"] += 1
                    queue.messages.pop(id, None)
            case "NACK":
                queue.totals["failed"] += 1
                if flies:
                    flies.fail(fields[2] if flags & TIMED else 0, rest.decode(errors="ignore"))
                    flies.wait(*((0, fields[1]) if flags & RESTS else (fields[1], 0)))
            case "RELEASE":
                if flies:
                    flies.attempts -= 1
                    flies.wait(0)
            case "EXTEND":
                if flies:
                    flies.deadline = fields[1]
            case "PURGE":
                queue.messages = {
                    id: each
                    for id, each in queue.messages.items()
                    if each.receipt is not None and each.deadline > fields[0]
                }
            case "RELOCATE":
                queue.totals["published"] += not fields[0]
                if not message:
                    id = fields[0] or lsn
                    found = queue.messages[id] = _relocated((id, *fields[1:]), flags, rest)
                    if not fields[0] and found.dedup[0] is not None and found.topic is None:
                        queue.dedup[found.dedup[0]] = lsn, found.dedup[1]
            case "MOVE":
                self._move(queue, fields, flags, rest)
            case "DROP":
                for id, _size in iter_unpack("<QI", rest):
                    queue.totals["dead_lettered"] += bool(flags & DIED)
                    queue.totals["failed"] += bool(flags & FAILED)
                    queue.totals["expirations"] += bool(flags & EXPIRED)
                    queue.totals["dropped"] += bool(flags & OVERFLOWED)
                    queue.messages.pop(id, None)
            case "RESCHEDULE":
                if message and not flies:
                    message.wait(fields[1])
            case "DELETE":
                del self.queues[number]
            case "DEDUP":
                queue.dedup[rest.decode()] = fields[0], fields[1]
            case "RENEW":
                queue.idle_until = fields[0]
            case "FANOUT":
                self._fan_out(lsn, time, fields, flags, rest)
            case "RELOCATE_FANOUT":
                self._relocate_fan_out(fields, flags, rest)
            case "SUBSCRIBE":
                said = msgpack.decode(rest)
                assert said.keys() <= {"pattern", "match", "bound_at"}
                queue.patterns[said["pattern"]] = said.get("match", {}), said.get("bound_at") or lsn
            case "UNSUBSCRIBE":
                queue.patterns.pop(rest.decode(), None)
            case "BACKFILL":
                said, pairs = _cut(rest) if flags & ATTRIBUTED else ({}, rest)
                for id, _size in iter_unpack("<QI", pairs):
                    queue.totals["published"] += 1
                    kept = self._queue(fields[0]).messages.get(id)
                    if kept and id not in queue.messages:
                        priority, group, expires = said.get("p", 0), said.get("g"), said.get("e", 0)
                        queue.messages[id] = replace(
                            kept, priority=priority, group=group, expires=expires, due=said.get("d", 0),
                            failures=[],
                        )  # fmt: skip
            case _:
                raise AssertionError(kind)

    def _rename(self, was: str, now: str) -> None:
        for queue in self.queues.values():
            name, to = queue.declared["name"], queue.declared["dead_letter"]
            if name and not queue.declared["topic"] and (to or f"{name}.dead") == was:
                queue.declared["dead_letter"] = now
            for message in queue.messages.values():
                if message.origin == was:
                    message.origin = now
        for schedule in self.schedules.values():
            if schedule["queue"] == was and not schedule["topic"]:
                schedule["queue"] = now

    def _fan_out(self, lsn: int, time: int, fields: tuple[int, ...], flags: int, rest: bytes) -> None:
        form, count = fields
        assert form <= 3
        assert flags & ATTRIBUTED
        numbers, at = unpack_from(f"<{count}H", rest), 2 * count
        assert list(numbers) == sorted({*numbers})
        times = [None] * count
        if form & 1:
            times = list(iter_unpack("<QQ", rest[at : at + 16 * count]))
            at += 16 * count
        retained = unpack_from("<H", rest, at)[0] if form & 2 else 0
        published = rest[at + (2 if form & 2 else 0) :]
        if not count and not retained:
            flags = ATTRIBUTED  # its body is not there
        said = _published(lsn, time, flags, published)
        assert said.topic is not None
        exchange = self._queue(0)
        exchange.totals["published"] += 1
        exchange.totals["dropped"] += not count and not form & 2
        if said.dedup[0] is not None:
            exchange.dedup[f"{said.topic}\0{said.dedup[0]}"] = lsn, said.dedup[1]
        for number, own in zip(numbers, times, strict=True):
            due, expires = own or (said.due, said.expires)
            queue = self._queue(number)
            queue.messages[lsn] = replace(said, due=due, expires=expires, failures=[])
            queue.totals["published"] += 1
        if retained:
            queue = self._queue(retained)
            queue.messages[lsn] = replace(said, due=0, expires=0, priority=0, group=None, failures=[])
            queue.totals["published"] += 1

    def _relocate_fan_out(self, fields: tuple[int, ...], flags: int, rest: bytes) -> None:
        id, created, count, size = fields
        at = 0
        for _ in range(count):
            number, attempts, place, receipt, when, length = unpack_from("<HIBQQI", rest, at)
            at += 27
            changes, at = rest[at : at + length], at + length
            known = self._queue(number).messages
            if id not in known:
                facts = id, created, attempts, place, receipt, when
                own = changes + length.to_bytes(4, "little") if changes else b""
                known[id] = _relocated(facts, flags | (CHANGED if changes else 0), rest[size:] + own)
        assert at == size

    def _schedule(self, kind: str, flags: int, fields: tuple[int, ...], rest: bytes) -> None:
        match kind:
            case "SCHEDULE":
                said, body = _cut(rest)
                assert said.keys() <= SCHEDULED.keys() | {"name", "queue", "next"}
                decode: Any = (bytes, bytes.decode, msgpack.decode)[flags >> 4 & 3]
                self.schedules[said["name"]] = SCHEDULED | said | {"body": decode(body)}
            case "TICK":
                if known := self.schedules.get(rest.decode()):
                    known |= dict(zip(("next", "last", "late"), fields, strict=True))
            case "UNSCHEDULE":
                self.schedules.pop(rest.decode(), None)

    def _move(self, queue: Queue, fields: tuple[int, ...], flags: int, rest: bytes) -> None:
        id, _size, to, at, expires, length = fields
        queue.totals["dead_lettered"] += bool(flags & DIED)
        queue.totals["failed"] += bool(flags & FAILED)
        queue.totals["expirations"] += bool(flags & EXPIRED)
        self._queue(to).totals["published"] += 1
        message = queue.messages.pop(id, None)
        if message is None:
            return
        if flags & WHOLE:
            self._queue(to).messages[id] = message
            return
        if flags & DIED:
            message.fail(at, rest[length:].decode(errors="ignore"))
            message.origin = rest[:length].decode()
        else:
            message.origin, message.failures = None, []
        message.attempts, message.expires, message.received = 0, expires, None
        message.wait(0)
        self._queue(to).messages[id] = message


def _cut(data: bytes) -> tuple[dict[str, Any], bytes]:
    """What the map at the end says, and what is before it."""
    stop = len(data) - 4
    start = stop - int.from_bytes(data[stop:], "little")
    return msgpack.decode(data[start:stop]), data[:start]


def _published(id: int, created: int, flags: int, data: bytes) -> Message:
    said, body = _cut(data) if flags & ATTRIBUTED else ({}, data)
    assert said.keys() <= set("pdeghkut")
    decode: Any = (bytes, bytes.decode, msgpack.decode)[flags >> 4 & 3]
    return Message(
        id, created, decode(body), len(data), said.get("p", 0), said.get("g"), said.get("h", {}),
        said.get("d", 0), said.get("e", 0), (said.get("k"), said.get("u", 0)), topic=said.get("t"),
    )  # fmt: skip


def _relocated(fields: tuple[int, ...], flags: int, rest: bytes) -> Message:
    id, created, attempts, place, receipt, when = fields
    changes, data = _cut(rest) if flags & CHANGED else (None, rest)
    message = _published(id, created, flags, data)
    if changes is not None:
        assert changes.keys() <= set("eofr")
        message.received = tuple(changes["r"]) if "r" in changes else None
        message.expires, message.origin = changes.get("e", 0), changes.get("o")
        message.failures = [tuple(each) for each in changes.get("f", [])]
    if place == 4:
        message.expires, message.priority, message.group = 0, 0, None
    message.attempts = attempts
    message.wait(when if place == 1 else 0, when if place == 3 else 0)
    if place == 2:
        message.receipt, message.deadline = receipt, when
    return message
