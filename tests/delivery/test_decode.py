"""What is decoded, the fold does; what is not, is refused by name, and never appended."""

from __future__ import annotations

import math
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stretches import alone

from mq.delivery import events
from mq.delivery.decode import NotUnderstood, check, decode
from mq.delivery.events import Attributes, Changes, Declaration, Failed, Move, Now
from mq.delivery.plan import Plan
from mq.delivery.retry import Backoff
from mq.delivery.state import State
from mq.errors import Unsupported, UsageError

KINDS = [kind for kind in events.KIND_NAMES if kind >= events.DECLARE]
HEAD = events.RELOCATE_PAYLOAD.pack(1, 2, 3, events.DELAYED, 0, 4)


def trailer(**fields: object) -> bytes:
    """As `events.trailer`, of anything."""
    data = msgspec.msgpack.encode(fields)
    return data + struct.pack("<I", len(data))


def declaration(**options: object) -> bytes:
    return msgspec.msgpack.encode({"name": "mail"} | options)


REFUSED = {
    "a word that is none": (events.DECLARE, 0, declaration(expired="E.DROP")),
    "no name": (events.DECLARE, 0, b"\x80"),
    "a name of another type": (events.DECLARE, 0, declaration(name=5)),
    "a number of another type": (events.DECLARE, 0, declaration(max_attempts="5")),
    "an option that is not known": (events.DECLARE, 0, declaration(colour="red")),
    "no msgpack": (events.DECLARE, 0, b"\xc1"),
    "half a declaration": (events.DECLARE, 0, declaration()[:-1]),
    "a priority of 256": (events.PUBLISH, events.ATTRIBUTED, b"body" + trailer(p=256)),
    "a priority below 0": (events.PUBLISH, events.ATTRIBUTED, b"body" + trailer(p=-1)),
    "due before 1970": (events.PUBLISH, events.ATTRIBUTED, b"body" + trailer(d=-1)),
    "expired before 1970": (events.PUBLISH, events.ATTRIBUTED, b"body" + trailer(e=-1)),
    "headers of another type": (events.PUBLISH, events.ATTRIBUTED, b"body" + trailer(h={"a": 5})),
    "a group of another type": (events.PUBLISH, events.ATTRIBUTED, b"body" + trailer(g=5)),
    "no room for a trailer": (events.PUBLISH, events.ATTRIBUTED, b"abc"),
    "a trailer before its record": (events.PUBLISH, events.ATTRIBUTED, b"abc" + struct.pack("<I", 4)),
    "body bits that mean nothing": (events.PUBLISH, events.BODY_BITS, b"body"),
    "a place that is none": (events.RELOCATE, 0, events.RELOCATE_PAYLOAD.pack(1, 2, 3, 7, 0, 4) + b"body"),
    "half a relocation": (events.RELOCATE, 0, HEAD[:-1]),
    "changes before their record": (events.RELOCATE, events.CHANGED, HEAD + struct.pack("<I", 4)),
    "attributes within the changes": (
        events.RELOCATE, events.CHANGED | events.ATTRIBUTED, HEAD + trailer(e=5)),
    "half a delivery": (events.DELIVER, 0, bytes(15)),
    "a delivery and a half": (events.DELIVER, 0, bytes(23)),
    "an ack and a half": (events.ACK, 0, bytes(18)),
    "half a nack": (events.NACK, events.TIMED, bytes(20)),
    "half a release": (events.RELEASE, 0, bytes(4)),
    "half an extension": (events.EXTEND, 0, bytes(12)),
    "half a purge": (events.PURGE, 0, bytes(7)),
    "a purge and a half": (events.PURGE, 0, bytes(15)),
    "half a move": (events.MOVE, 0, bytes(20)),
    "a name longer than its move": (
        events.MOVE, 0, events.encode_move(Move(1, 2, 3, 4, 5, "origin"))[:-1]),
    "a name that is no text": (events.MOVE, 0, events.MOVE_PAYLOAD.pack(1, 2, 3, 4, 5, 1) + b"\xff"),
    "a drop and a half": (events.DROP, 0, bytes(18)),
    "half a new time": (events.RESCHEDULE, 0, bytes(12)),
    "a dedup id that is no text": (events.DEDUP, 0, bytes(16) + b"\xff"),
    "half a renewal": (events.RENEW, 0, bytes(4)),
    "flags that are not known": (events.RELEASE, 0x40, bytes(8)),
    "a kind that is not known": (77, 0, b""),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "flags", "payload"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_by_name(kind, flags, payload):
    state = State()
    # As the scanner hands it on: what is before and behind belongs to other records.
    record = 4711, kind, flags, 1, 0, b"\x01" * 64 + payload + b"\x01" * 64, 64, 64 + len(payload)
    with pytest.raises(Unsupported, match=r"the log at position 4711: .*; upgrade mq"):
        state.apply(alone([record]))
    with pytest.raises(UsageError, match="nothing was done"):
        check((kind, flags, 1, payload))


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
            )
            for bad in (math.nan, math.inf, -1.0)
        ),
        pytest.param(0, 1, {"backoff": Backoff(math.nan)}, id="backoff nan"),
        pytest.param(0, 1, {"backoff": Backoff(maximum=math.inf)}, id="backoff inf"),
    ],
)
def test_what_is_appended_is_checked_more_strictly(flags, queue, options):
    draft = events.DECLARE, flags, queue, events.encode_declaration(Declaration(name="mail", **options))
    with pytest.raises(UsageError, match="nothing was done"):
        check(draft)
    plan = Plan(State(), Now(0, 0), lambda queue, id: 0)
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
    if kind in events.BODIED:
        attributes = Attributes(
            draw(st.integers(0, 255)), draw(numbers), draw(numbers), draw(st.none() | names), {},
            draw(st.none() | names), draw(numbers),
        )  # fmt: skip
        body = b"body" + events.trailer(attributes)
        if kind == events.PUBLISH:
            return body
        place = draw(st.integers(0, 2))
        head = events.RELOCATE_PAYLOAD.pack(id, 1, draw(st.integers(0, 9)), place, 40, draw(numbers))
        failed = (Failed(1, 2, "why"),) if draw(st.booleans()) else ()
        return head + body + events.trailer(Changes(draw(numbers), draw(st.none() | names), failed))
    if kind == events.DECLARE:
        options = {"max_attempts": draw(st.none() | st.integers(1, 3)), "ttl": draw(st.none() | st.just(1.0))}
        return events.encode_declaration(Declaration(name=draw(names), **options))
    pair = events.KEPT_PAYLOAD.pack(id, 4)
    return {
        events.DELIVER: events.encode_deliveries([id, draw(ids)], draw(numbers)),
        events.ACK: pair,
        events.NACK: events.TIMED_NACK_PAYLOAD.pack(id, draw(numbers), draw(numbers)) + b"why\xff",
        events.RELEASE: events.RELEASE_PAYLOAD.pack(id),
        events.EXTEND: events.EXTEND_PAYLOAD.pack(id, draw(numbers)),
        events.PURGE: events.PURGE_PAYLOAD.pack(draw(numbers)) + pair,
        events.MOVE: events.encode_move(Move(id, 4, draw(st.integers(1, 3)), 5, draw(numbers), "mail", "x")),
        events.DROP: pair,
        events.RESCHEDULE: events.RESCHEDULE_PAYLOAD.pack(id, draw(numbers)),
        events.DELETE: b"",
        events.DEDUP: events.DEDUP_PAYLOAD.pack(id, draw(numbers)) + b"key",
        events.RENEW: events.RENEW_PAYLOAD.pack(draw(numbers)),
    }[kind]


@st.composite
def drafts(draw) -> tuple[int, int, int, bytes]:
    kind = draw(st.sampled_from(KINDS))
    flags = draw(st.integers(0, 15)) << 4 & events.KNOWN_FLAGS.get(kind, 0)
    flags |= events.ATTRIBUTED if kind in events.BODIED else 0
    flags |= events.CHANGED if kind == events.RELOCATE else 0
    flags |= events.TIMED if kind == events.NACK else 0
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
                state.apply(alone([record]))
        else:
            state.apply(alone([record]))
    for now in (Now(0, 0), Now(2**62, 2**62)):
        for queue in state.queues.values():
            queue.head(now), queue.counts(now), queue.ids("delayed", now, 5)
    state.live_bytes()
