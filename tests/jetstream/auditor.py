"""The stream of a store, read with nats-py alone, and what its records say that they must not.

The records of all processes are in one order here, with the times when they were decided.  So this sees what
the notes of processes cannot: which of two deliveries was first, and whether the first one had timed out.
It knows publishes, deliveries and settlements, and nothing of how mq decides.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import nats
from crc32c import crc32c

from mq.delivery import records
from mq.delivery.decode import decode
from mq.nats import message as codec

ASK_SECONDS = 60.0
AT_ONCE = 64
SHARED, FENCE, HOLD, TAKES = 1, 2, 4, 8  # flags of a message
COMES = frozenset({records.PUBLISH, records.FANOUT})  # all that a compared message without TAKES may say
JUDGED = frozenset({records.DELIVER, records.ACK, records.NACK, records.RELEASE, records.EXTEND})
SINGLE = JUDGED | {records.PUBLISH, records.FANOUT, records.MOVE, records.DROP, records.RELOCATE}
SINGLE |= {records.RELOCATE_FANOUT}  # all others stand in fences, with nothing before them that was not known
SIZES = {records.DELIVER: 16, records.ACK: 12}  # of a record that names one message
DIED, WHOLE = 0x10, 0x80  # flags of a MOVE
PLACES = ("waiting", "delayed", "in flight", "backing off", "retained")


class Record(NamedTuple):
    seq: int  # of its message in the stream
    time_ms: int  # store time, when it was decided
    kind: int
    flags: int
    queue: int
    position: int
    payload: bytes

    def event(self) -> Any:
        return decode(self.kind, self.flags, self.payload, 0, len(self.payload))


@dataclass
class Stored:
    """One message of a queue: where it is, as the records so far say.  Times in ms."""

    group: str | None = None
    expires: int = 0  # 0: never
    due: int = 0  # it is not ready before that
    attempts: int = 0
    receipt: int = 0  # of the delivery in force; 0: no process holds it
    deadline: int = 0  # of that


Key = tuple[int, int]  # number of the queue, id of the message


@dataclass
class Audit:
    begin: int = 0  # position of the first record: what was published before was trimmed
    wrong: list[str] = field(default_factory=list)
    there: dict[Key, Stored] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # of the queues
    attempts_max: dict[int, int] = field(default_factory=dict)  # of the queues that have such a limit
    delivered: int = 0
    settled: int = 0

    def contents(self, now_ms: int) -> dict[str, dict[int, int]]:
        """The attempts of each message of each queue that users have; what has expired is not shown."""
        found: dict[str, dict[int, int]] = {name: {} for name in self.names.values()}
        for (number, id), message in self.there.items():
            is_over = 0 < message.expires <= now_ms and not (message.receipt and now_ms < message.deadline)
            if number in self.names and not is_over:
                found[self.names[number]][id] = message.attempts
        return found

    # ── what is appended without a comparison ──────────────────────────────────────

    def holds(self, record: Record, known: int) -> bool:
        """Whether a record of a shared message holds; before any record of that message is taken.

        *known*: the last message that its writer knew.  One that was published before the stream begins, and
        not written again yet, is not known here, and nothing is said of it.
        """
        if record.kind == records.PUBLISH:
            return True
        id = int.from_bytes(record.payload[:8], "little")
        message = self.there.get((record.queue, id))
        if message is None:
            return False
        if record.kind == records.DELIVER:
            most = self.attempts_max.get(record.queue, message.attempts + 1)
            is_over = 0 < message.expires <= record.time_ms
            is_free = not message.receipt and message.group is None and message.attempts < most
            return is_free and message.due <= record.time_ms and not is_over
        if not 0 < message.receipt < codec.begin_of(known + 1):
            return False
        return record.kind == records.ACK or (message.group is None and record.time_ms < message.deadline)

    # ── what the records say ───────────────────────────────────────────────────────

    def take(self, record: Record) -> None:
        if does := getattr(self, f"_{records.KINDS[record.kind].name.replace('-', '_')}", None):
            does(record, record.event())

    def _declare(self, record: Record, event: Any) -> None:
        (said,) = event
        if said.name and not said.topic:
            self.names[record.queue] = said.name
        self.attempts_max.pop(record.queue, None)
        if said.max_attempts is not None:
            self.attempts_max[record.queue] = said.max_attempts

    def _delete(self, record: Record, event: Any) -> None:
        self._keep(record.queue, lambda message: False)
        self.names.pop(record.queue, None)

    def _purge(self, record: Record, event: Any) -> None:
        cutoff = event[0]
        self._keep(record.queue, lambda message: message.receipt > 0 and message.deadline > cutoff)

    def _keep(self, number: int, stays: Callable[[Stored], bool]) -> None:
        for key in [key for key, message in self.there.items() if key[0] == number and not stays(message)]:
            del self.there[key]

    def _publish(self, record: Record, event: Any) -> None:
        said = event[1]
        self.there[record.queue, record.position] = Stored(said.group, said.expires, said.due)

    def _fanout(self, record: Record, event: Any) -> None:
        said = event.attributes
        times = event.times or [(said.due, said.expires)] * len(event.queues)
        for number, (due, expires) in zip(event.queues, times, strict=True):
            self.there[number, record.position] = Stored(said.group, expires, due)
        if event.retained:
            self.there[event.retained, record.position] = Stored()

    def _backfill(self, record: Record, event: Any) -> None:
        topic, ids, _, said = event
        for id in ids:
            if (topic, id) in self.there:
                self.there.setdefault((record.queue, id), Stored(said.group, said.expires, said.due))

    def _relocate(self, record: Record, event: Any) -> None:
        id, _, _, attempts, place, receipt, when, said, changes = event
        id = id or record.position
        self._again(record, record.queue, id, attempts, place, receipt, when, said, changes)

    def _relocate_fanout(self, record: Record, event: Any) -> None:
        id, _, _, holders, said = event
        for each in holders:
            number, attempts, place, receipt, when, changes = each
            self._again(record, number, id, attempts, place, receipt, when, said, changes)

    def _again(
        self, record: Record, number: int, id: int, attempts: int, place: int, receipt: int, when: int,
        said: Any, changes: Any,
    ) -> None:  # fmt: skip
        """It lives, and its place in the stream is about to be trimmed."""
        moved = Stored(said.group, changes.expires if changes else said.expires, 0, attempts)
        if PLACES[place] == "in flight":
            moved.receipt, moved.deadline = receipt, when
        elif PLACES[place] == "retained":
            moved.group, moved.expires = None, 0
        else:
            moved.due = when
        if id < self.begin or id == record.position:
            self.there.setdefault((number, id), moved)
        elif (number, id) not in self.there:
            self.wrong.append(f"P2: message {record.seq} of the stream has {id} again, which was settled")

    def _deliver(self, record: Record, event: Any) -> None:
        ids, deadline = event
        for count, id in enumerate(ids):
            self._deliver_one(record, id, record.position + count, deadline)

    def _deliver_one(self, record: Record, id: int, receipt: int, deadline: int) -> None:
        self.delivered += 1
        where = f"message {record.seq} of the stream"
        message = self.there.get((record.queue, id))
        if message is None and id < self.begin:
            return  # where it was published is not in the stream any more
        if message is None:
            self.wrong.append(f"P2: {where} delivers {id}, which was settled, or never published")
            return
        if message.receipt and record.time_ms < message.deadline:
            self.wrong.append(f"P12: {where} delivers {id} {message.deadline - record.time_ms} ms early")
        if message.group is not None and (first := self._first_of(record.queue, message.group)) != id:
            self.wrong.append(f"P5: {where} delivers {id} before {first} of its group")
        message.receipt, message.deadline, message.due = receipt, deadline, 0
        message.attempts += 1

    def _first_of(self, number: int, group: str) -> int:
        """The oldest message of the group."""
        there = self.there.items()
        return min(id for (queue, id), message in there if (queue, message.group) == (number, group))

    def _ack(self, record: Record, event: Any) -> None:
        for id in event[0]:
            self.settled += self.there.pop((record.queue, id), None) is not None

    def _drop(self, record: Record, event: Any) -> None:
        for id, _ in event[0]:
            self.there.pop((record.queue, id), None)

    def _nack(self, record: Record, event: Any) -> None:
        if message := self.there.get((record.queue, event[0])):
            message.receipt, message.due = 0, event[1]

    def _release(self, record: Record, event: Any) -> None:
        message = self.there.get((record.queue, event[0]))
        if message and message.receipt:
            message.receipt = message.due = 0
            message.attempts -= 1

    def _extend(self, record: Record, event: Any) -> None:
        message = self.there.get((record.queue, event[0]))
        if message and message.receipt:
            message.deadline = event[1]

    def _reschedule(self, record: Record, event: Any) -> None:
        message = self.there.get((record.queue, event[0]))
        if message and not message.receipt:
            message.due = event[1]

    def _move(self, record: Record, event: Any) -> None:
        (move,) = event
        message = self.there.pop((record.queue, move.id), None)
        if message is None:
            return
        if not record.flags & WHOLE:
            message = Stored(message.group, move.expires)
        message.receipt = 0
        self.there.setdefault((move.to, move.id), message)


async def read(servers: list[str], store: str) -> list[tuple[int, bytes]]:
    """The messages of the stream, by their sequence, as its leader has them."""
    nc = await nats.connect(servers)
    try:

        async def ask(what: str, body: object) -> dict[str, Any]:
            answer = await nc.request(
                f"$JS.API.STREAM.{what}.mq_{store}", json.dumps(body).encode(), ASK_SECONDS
            )
            return dict(json.loads(answer.data))

        async def get(seq: int) -> tuple[int, bytes]:
            return seq, base64.b64decode((await ask("MSG.GET", {"seq": seq}))["message"]["data"])

        state = (await ask("INFO", {}))["state"]
        found: list[tuple[int, bytes]] = []
        for first in range(state["first_seq"], state["last_seq"] + 1, AT_ONCE):
            part = range(first, min(first + AT_ONCE, state["last_seq"] + 1))
            found += await asyncio.gather(*map(get, part))
        return found
    finally:
        await nc.close()


def audit(messages: list[tuple[int, bytes]], store_id: str) -> Audit:
    """What the stream says, from its first message on, and what is wrong with that."""
    first = messages[0][0] if messages else 0
    found, seed = Audit(codec.begin_of(first) if first > 1 else 0), crc32c(store_id.encode())
    for seq, data, head in _groups(messages, seed, found.wrong):
        here = []
        for position, label, length in zip(*codec.outline(seq, data), strict=True):
            at = position - codec.begin_of(seq)
            kind, flags, queue = label & 0xFF, label >> 8 & 0xFF, label >> 16
            here.append(Record(seq, head.time_ms, kind, flags, queue, position, data[at : at + length]))
        found.wrong += _out_of_place(seq, head, here)
        if head.flags & SHARED and head.flags & TAKES:
            here = [record for record in here if found.holds(record, head.known[0])]
        for record in here:
            found.take(record)
    return found


def _out_of_place(seq: int, head: codec.Head, here: list[Record]) -> Iterator[str]:
    """The records that a message with such flags must not have."""
    for record in here:
        kind, flags, size = record.kind, record.flags, len(record.payload)
        if head.flags & SHARED:
            is_plain = kind == records.PUBLISH and not flags & records.ATTRIBUTED
            is_one = (
                kind in JUDGED and size == SIZES.get(kind, size) and (kind != records.DELIVER or not flags)
            )
            is_right = is_plain or (is_one and head.flags & TAKES)
        else:
            is_right = (kind in COMES or head.flags & TAKES) and (kind in SINGLE or head.flags & FENCE)
        if not is_right:
            yield f"P7: message {seq} of the stream, flags {head.flags}, has a record of kind {kind}"


def _groups(
    messages: list[tuple[int, bytes]], seed: int, wrong: list[str]
) -> Iterator[tuple[int, bytes, codec.Head]]:  # fmt: skip
    """Each message that holds and whose parts are all there, checked against those before it.

    By FORMAT.md, and not by mq/nats/fences.py and takes.py, which are what is judged.
    """
    compared, expected = (0, 0), messages[0][0] if messages else 0
    fence, is_held, taken, crcs = (0, 0), False, 0, {}
    for seq, data in messages:
        if seq != expected:
            wrong.append(f"P7: message {expected} of the stream is missing")
        try:
            head = codec.check(data, seed)
        except codec.Damaged as error:
            wrong.append(f"P7: message {seq} of the stream: {error}")
            head = codec.head_of(data)
        known, crc = head.known
        crcs[seq], expected = head.crc, seq + 1
        knew_itself = known > seq - head.part
        if head.flags & SHARED:
            if is_held or head.mark != fence or knew_itself:
                continue
            if head.flags & TAKES:
                taken = seq
        else:
            if head.part == 1 and compared != (0, 0) and head.mark != compared:
                wrong.append(
                    f"P7: message {seq} of the stream was decided behind {head.mark}, not {compared}"
                )
            compared = seq, head.crc
            if knew_itself:
                continue
            if head.flags & (FENCE | HOLD):
                fence, is_held = compared, head.flags & HOLD > 0
            if head.flags & TAKES and known < taken:
                continue  # it says something about deliveries, and others have come in between
        if crc and crcs.get(known, crc) != crc:
            wrong.append(f"P7: the writer of message {seq} of the stream knew another message {known}")
        yield seq, data, head
