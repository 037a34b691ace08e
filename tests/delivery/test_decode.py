"""What is decoded, the fold does; what is not, is refused by name, and never appended."""

from __future__ import annotations

import math
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stretches import alone

from mq.delivery import attributes, fold, records
from mq.delivery.attributes import Attributes, Changes, Failed
from mq.delivery.decode import NotUnderstood, check, decode
from mq.delivery.now import Now
from mq.delivery.options import Declaration
from mq.delivery.plan import Plan
from mq.delivery.records import Move
from mq.delivery.retry import Backoff
from mq.delivery.schedules import Schedule
from mq.delivery.state import State
from mq.errors import Unsupported, UsageError

KINDS = [kind for kind in records.KIND_NAMES if kind >= records.DECLARE]
HEAD = records.RELOCATE_PAYLOAD.pack(1, 2, 3, records.DELAYED, 0, 4)


def trailer(**fields: object) -> bytes:
    """As `attributes.trailer`, of anything."""
    data = msgspec.msgpack.encode(fields)
    return data + struct.pack("<I", len(data))


def declaration(**options: object) -> bytes:
    return msgspec.msgpack.encode({"name": "mail"} | options)


REFUSED = {
    "a word that is none": (records.DECLARE, 0, declaration(expired="E.DROP")),
    "no name": (records.DECLARE, 0, b"\x80"),
    "a name of another type": (records.DECLARE, 0, declaration(name=5)),
    "a number of another type": (records.DECLARE, 0, declaration(max_attempts="5")),
    "an option that is not known": (records.DECLARE, 0, declaration(colour="red")),
    "no msgpack": (records.DECLARE, 0, b"\xc1"),
    "half a declaration": (records.DECLARE, 0, declaration()[:-1]),
    "a priority of 256": (records.PUBLISH, records.ATTRIBUTED, b"body" + trailer(p=256)),
    "a priority below 0": (records.PUBLISH, records.ATTRIBUTED, b"body" + trailer(p=-1)),
    "due before 1970": (records.PUBLISH, records.ATTRIBUTED, b"body" + trailer(d=-1)),
    "expired before 1970": (records.PUBLISH, records.ATTRIBUTED, b"body" + trailer(e=-1)),
    "headers of another type": (records.PUBLISH, records.ATTRIBUTED, b"body" + trailer(h={"a": 5})),
    "a group of another type": (records.PUBLISH, records.ATTRIBUTED, b"body" + trailer(g=5)),
    "no room for a trailer": (records.PUBLISH, records.ATTRIBUTED, b"abc"),
    "a trailer before its record": (records.PUBLISH, records.ATTRIBUTED, b"abc" + struct.pack("<I", 4)),
    "body bits that mean nothing": (records.PUBLISH, records.BODY_BITS, b"body"),
    "a place that is none": (records.RELOCATE, 0, records.RELOCATE_PAYLOAD.pack(1, 2, 3, 7, 0, 4) + b"body"),
    "half a relocation": (records.RELOCATE, 0, HEAD[:-1]),
    "changes before their record": (records.RELOCATE, records.CHANGED, HEAD + struct.pack("<I", 4)),
    "attributes within the changes": (
        records.RELOCATE, records.CHANGED | records.ATTRIBUTED, HEAD + trailer(e=5)),
    "half a delivery": (records.DELIVER, 0, bytes(15)),
    "a delivery and a half": (records.DELIVER, 0, bytes(23)),
    "an ack and a half": (records.ACK, 0, bytes(18)),
    "half a nack": (records.NACK, records.TIMED, bytes(20)),
    "half a release": (records.RELEASE, 0, bytes(4)),
    "half an extension": (records.EXTEND, 0, bytes(12)),
    "half a purge": (records.PURGE, 0, bytes(7)),
    "a purge and a half": (records.PURGE, 0, bytes(15)),
    "half a move": (records.MOVE, 0, bytes(20)),
    "a name longer than its move": (
        records.MOVE, 0, records.encode_move(Move(1, 2, 3, 4, 5, "origin"))[:-1]),
    "a name that is no text": (records.MOVE, 0, records.MOVE_PAYLOAD.pack(1, 2, 3, 4, 5, 1) + b"\xff"),
    "a drop and a half": (records.DROP, 0, bytes(18)),
    "half a new time": (records.RESCHEDULE, 0, bytes(12)),
    "a dedup id that is no text": (records.DEDUP, 0, bytes(16) + b"\xff"),
    "half a renewal": (records.RENEW, 0, bytes(4)),
    "half a fan-out": (records.FANOUT, 0, bytes(2)),
    "more queues than a fan-out has room for": (records.FANOUT, 0, struct.pack("<BH", 0, 3) + bytes(5)),
    "a fan-out of an unknown form": (records.FANOUT, records.ATTRIBUTED, bytes([4, 0, 0]) + trailer(t="a")),
    "a fan-out without a topic": (records.FANOUT, 0, bytes(3) + b"body"),
    "a fan-out twice to one queue": (
        records.FANOUT, records.ATTRIBUTED, struct.pack("<BHHH", 0, 2, 5, 5) + trailer(t="a")),
    "a fan-out to no queue": (
        records.FANOUT, records.ATTRIBUTED, struct.pack("<BHH", 0, 1, 0) + trailer(t="a")),
    "a fan-out retained where it waits": (
        records.FANOUT, records.ATTRIBUTED, struct.pack("<BHHH", 2, 1, 5, 5) + trailer(t="a")),
    "half a relocated fan-out": (records.RELOCATE_FANOUT, 0, bytes(21)),
    "half a holder": (
        records.RELOCATE_FANOUT, 0, struct.pack("<QQHI", 1, 2, 1, 26) + bytes(26)),
    "holders that take less room": (
        records.RELOCATE_FANOUT, 0, struct.pack("<QQHI", 1, 2, 0, 4) + bytes(4)),
    "a holder's place that is none": (
        records.RELOCATE_FANOUT, 0,
        struct.pack("<QQHI", 1, 2, 1, 27) + records.HOLDER_PAYLOAD.pack(1, 0, 7, 0, 0, 0)),
    "a subscription without a pattern": (records.SUBSCRIBE, 0, b"\x80"),
    "a pattern that is no text": (records.UNSUBSCRIBE, 0, b"\xff"),
    "half a backfill": (records.BACKFILL, 0, bytes(1)),
    "a backfill and a half": (records.BACKFILL, 0, bytes(2 + 18)),
    "a backfill of nothing": (records.BACKFILL, 0, bytes(2)),
    "a backfill of one message twice": (records.BACKFILL, 0, bytes(2 + 24)),
    "flags that are not known": (records.RELEASE, 0x40, bytes(8)),
    "a kind that is not known": (77, 0, b""),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "flags", "payload"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_by_name(kind, flags, payload):
    state = State()
    # As the scanner hands it on: what is before and behind belongs to other records.
    record = 4711, kind, flags, 1, 0, b"\x01" * 64 + payload + b"\x01" * 64, 64, 64 + len(payload)
    with pytest.raises(Unsupported, match=r"the log at position 4711: .*; upgrade mq"):
        fold.apply(state, alone([record]))
    number = 0 if kind in records.OF_THE_STORE else 1
    with pytest.raises(UsageError, match="nothing was done"):
        check((kind, flags, number, payload))


@pytest.mark.parametrize(
    ("flags", "queue", "options"),
    [
        pytest.param(1, 1, {}, id="a flag of storage"),
        pytest.param(0, 0, {}, id="no queue"),
        pytest.param(0, 65_536, {}, id="a queue too many"),
        *(
            pytest.param(0, 1, {name: bad}, id=f"{name} {bad}")
            for name in (
                "visibility_timeout",
                "ttl",
                "dedup_window",
                "delete_when_idle",
                "delete_when_abandoned",
                "delay",
            )
            for bad in (math.nan, math.inf, -1.0)
        ),
        pytest.param(0, 1, {"backoff": Backoff(math.nan)}, id="backoff nan"),
        pytest.param(0, 1, {"backoff": Backoff(maximum=math.inf)}, id="backoff inf"),
    ],
)
def test_what_is_appended_is_checked_more_strictly(flags, queue, options):
    draft = records.DECLARE, flags, queue, records.encode_declaration(Declaration(name="mail", **options))
    with pytest.raises(UsageError, match="nothing was done"):
        check(draft)
    plan = Plan(State(), Now(0, 0), lambda queue, id: 0, lambda queue, id: None)
    plan.add(*draft)
    with pytest.raises(UsageError):
        plan.decoded()


numbers = st.integers(0, 2**64 - 1)
ids = st.sampled_from([10, 20, 30])
names = st.sampled_from(["mail", "other", "mail.dead"])


@st.composite
def payloads(draw, kind: int) -> bytes:
    """Of a record of *kind*; about the same few messages, so that they meet."""
    id = draw(ids)
    if kind in records.BODIED:
        said = Attributes(
            draw(st.integers(0, 255)), draw(numbers), draw(numbers), draw(st.none() | names), {},
            draw(st.none() | names), draw(numbers), "orders.paid",
        )  # fmt: skip
        body = b"body" + attributes.trailer(said)
        if kind == records.PUBLISH:
            return body
        if kind == records.SCHEDULE:
            return records.schedule(Schedule(draw(names), "mail", draw(numbers), every=1.0), 0, b"body")[3]
        several = draw(st.sampled_from([(), (1,), (1, 2), (2, 3), (1, 2, 3)]))
        if kind == records.FANOUT:
            times = draw(st.just(()) | st.tuples(*[st.tuples(numbers, numbers)] * len(several)))
            return records.fan_out(several, times, draw(st.sampled_from([0, 4])), 0, body)[3]
        place = draw(st.integers(0, 4))
        if kind == records.RELOCATE_FANOUT:
            held = [records.Holder(each, 2, place, 40, draw(numbers), None) for each in several]
            return records.relocate_fan_out(id, 1, held, 0, body)[3]
        head = records.RELOCATE_PAYLOAD.pack(id, 1, draw(st.integers(0, 9)), place, 40, draw(numbers))
        failed = (Failed(1, 2, "why"),) if draw(st.booleans()) else ()
        return head + body + attributes.trailer(Changes(draw(numbers), draw(st.none() | names), failed))
    if kind == records.DECLARE:
        options = {"max_attempts": draw(st.none() | st.integers(1, 3)), "ttl": draw(st.none() | st.just(1.0))}
        return records.encode_declaration(Declaration(name=draw(names), **options))
    pair = records.SIZED_PAYLOAD.pack(id, 4)
    return {
        records.DELIVER: records.encode_deliveries([id, draw(ids)], draw(numbers)),
        records.ACK: pair,
        records.NACK: records.TIMED_NACK_PAYLOAD.pack(id, draw(numbers), draw(numbers)) + b"why\xff",
        records.RELEASE: records.RELEASE_PAYLOAD.pack(id),
        records.EXTEND: records.EXTEND_PAYLOAD.pack(id, draw(numbers)),
        records.PURGE: records.PURGE_PAYLOAD.pack(draw(numbers)) + pair,
        records.MOVE: records.encode_move(
            Move(id, 4, draw(st.integers(1, 3)), 5, draw(numbers), "mail", "x")
        ),
        records.DROP: pair,
        records.RESCHEDULE: records.RESCHEDULE_PAYLOAD.pack(id, draw(numbers)),
        records.DELETE: b"",
        records.DEDUP: records.DEDUP_PAYLOAD.pack(id, draw(numbers)) + b"key",
        records.RENEW: records.RENEW_PAYLOAD.pack(draw(numbers)),
        records.SUBSCRIBE: msgspec.msgpack.encode({"pattern": draw(names), "bound_at": draw(ids)}),
        records.UNSUBSCRIBE: draw(names).encode(),
        records.BACKFILL: records.backfill(1, draw(st.integers(1, 4)), *draw(backfilled))[3],
        records.TICK: records.tick(draw(names), draw(numbers), draw(numbers), draw(st.integers(0, 9)))[3],
        records.UNSCHEDULE: draw(names).encode(),
    }[kind]


backfilled = st.sets(ids, min_size=1, max_size=3).map(lambda found: (sorted(found), [4] * len(found)))


@st.composite
def drafts(draw) -> tuple[int, int, int, bytes]:
    kind = draw(st.sampled_from(KINDS))
    flags = draw(st.integers(0, 15)) << 4 & records.KINDS[kind].flags
    flags |= records.ATTRIBUTED if kind in records.BODIED - {records.SCHEDULE} else 0
    flags |= records.CHANGED if kind == records.RELOCATE else 0
    flags |= records.TIMED if kind == records.NACK else 0
    flags &= 0xFF if kind != records.BACKFILL else ~records.ATTRIBUTED
    return kind, flags, draw(st.integers(1, 2)), draw(payloads(kind))


anything = st.tuples(
    st.sampled_from([*KINDS, 15, 77]), st.integers(0, 255), st.integers(1, 2), st.binary(max_size=60)
)


@settings(max_examples=200)
@given(st.lists(drafts() | anything, max_size=12))
def test_what_is_decoded_the_fold_does(parts):
    """Anything that decodes can be applied, at any time, and to any state; and asked about afterwards."""
    state, lsn = State(), 0
    for kind, flags, number, payload in parts:
        lsn += 10
        record = lsn, kind, flags, number, 0, payload, 0, len(payload)
        try:
            decode(kind, flags, payload, 0, len(payload))
        except NotUnderstood:
            with pytest.raises(Unsupported):
                fold.apply(state, alone([record]))
        else:
            fold.apply(state, alone([record]))
    for now in (Now(0, 0), Now(2**62, 2**62)):
        for queue in state.queues.values():
            queue.head(now), queue.counts(now), queue.ids("delayed", now, 5)
    state.live_bytes()
