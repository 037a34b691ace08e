"""The stream of a store, read with nats-py alone, and what its records say that they must not.

The records of all processes are in one order here, with the times when they were decided.  So this sees what
the notes of processes cannot: which of two deliveries was first, and whether the first one had timed out.
It knows publishes, deliveries and settlements, and nothing of how mq decides.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import nats
from crc32c import crc32c

from mq.delivery import records
from mq.delivery.decode import decode
from mq.nats import message as codec

ASK_SECONDS = 60.0
AT_ONCE = 64
SHARED, FENCE, HOLD = 1, 2, 4  # flags of a message


class Record(NamedTuple):
    seq: int  # of its message in the stream
    time_ms: int  # store time, when it was decided
    kind: int
    flags: int
    queue: int
    position: int
    payload: bytes


@dataclass
class Stored:
    """One message of mq: where it is, as the records so far say."""

    number: int  # of its queue
    group: str | None
    deadline: int = 0  # ms of store time; 0: no process holds it


@dataclass
class Audit:
    begin: int = 0  # position of the first record: what was published before was trimmed
    wrong: list[str] = field(default_factory=list)
    waiting: dict[int, Stored] = field(default_factory=dict)  # by id
    delivered: int = 0
    settled: int = 0

    def take(self, record: Record) -> None:
        kind, event = record.kind, decode(record.kind, record.flags, record.payload, 0, len(record.payload))
        if kind not in WANTED:
            return
        facts: dict[str, Any] = records.KINDS[kind].describe(record.flags, event, records.Times(int, int))
        if kind == records.PUBLISH:
            self.waiting[record.position] = Stored(record.queue, facts.get("group"))
        elif kind == records.RELOCATE:  # it lives, and its place in the stream is about to be trimmed
            id = facts.get("message", record.position)
            moved = Stored(record.queue, facts.get("group"), facts.get("deadline", 0))
            if id < self.begin or id == record.position:
                self.waiting.setdefault(id, moved)
            elif id not in self.waiting:
                self.wrong.append(f"P2: message {record.seq} of the stream has {id} again, which was settled")
        elif kind == records.DELIVER:
            for id in facts["messages"]:
                self._deliver(f"message {record.seq} of the stream", record.time_ms, id, facts["deadline"])
        elif kind == records.ACK:
            for id in facts["messages"]:
                self.settled += self.waiting.pop(id, None) is not None
        elif facts["message"] in self.waiting:
            self.waiting[facts["message"]].deadline = 0

    def _deliver(self, where: str, time_ms: int, id: int, deadline: int) -> None:
        self.delivered += 1
        message = self.waiting.get(id)
        if message is None and id < self.begin:
            return  # where it was published is not in the stream any more
        if message is None:
            self.wrong.append(f"P2: {where} delivers {id}, which was settled, or never published")
            return
        if time_ms < message.deadline:
            self.wrong.append(f"P12: {where} delivers {id} {message.deadline - time_ms} ms early")
        if message.group is not None and (first := self._first_of(message)) != id:
            self.wrong.append(f"P5: {where} delivers {id} before {first} of its group")
        message.deadline = deadline

    def _first_of(self, message: Stored) -> int:
        """The oldest message of the group."""
        ours = message.number, message.group
        return min(id for id, other in self.waiting.items() if (other.number, other.group) == ours)


WANTED = frozenset(
    {records.PUBLISH, records.RELOCATE, records.DELIVER, records.ACK, records.NACK, records.RELEASE}
)


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
        for position, label, length in zip(*codec.outline(seq, data), strict=True):
            at = position - codec.begin_of(seq)
            kind, flags, queue = label & 0xFF, label >> 8 & 0xFF, label >> 16
            found.take(Record(seq, head.time_ms, kind, flags, queue, position, data[at : at + length]))
    return found


def _groups(
    messages: list[tuple[int, bytes]], seed: int, wrong: list[str]
) -> Iterator[tuple[int, bytes, codec.Head]]:  # fmt: skip
    """Each message that holds and whose parts are all there, checked against those before it.

    By FORMAT.md, and not by mq/nats/fences.py, which is what is judged.
    """
    compared, expected = (0, 0), messages[0][0] if messages else 0
    fence, is_held, crcs = (0, 0), False, {}
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
        if crc and crcs.get(known, crc) != crc:
            wrong.append(f"P7: the writer of message {seq} of the stream knew another message {known}")
        yield seq, data, head
