"""Records of what a queue gets of what is published to topics."""

from __future__ import annotations

from collections.abc import Sequence
from operator import ge
from struct import Struct, pack
from struct import error as StructError
from typing import Final

import msgspec

from ..attributes import NO_ATTRIBUTES, Attributes, Sliced, cut_trailer, trailer
from .deliveries import acks_of
from .kinds import BACKFILL, SUBSCRIBE, UNSUBSCRIBE, Draft, Event, Facts, Kind, Times
from .messages import ATTRIBUTED, attributes_in, describe_attributes

# ── SUBSCRIBE, UNSUBSCRIBE ─────────────────────────────────────────────────────────


class Subscribed(
    msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, array_like=False, gc=False
):
    """What a SUBSCRIBE record says."""

    pattern: str
    match: dict[str, str] = {}  # headers that a message needs
    bound_at: int = 0  # behind this id the queue gets, or has got, all that fits; 0: behind this record


decode_subscribed: Final = msgspec.msgpack.Decoder(Subscribed).decode


def subscribe(number: int, what: Subscribed) -> Draft:
    return SUBSCRIBE, 0, number, msgspec.msgpack.encode(what)


def unsubscribe(number: int, pattern: str) -> Draft:
    return UNSUBSCRIBE, 0, number, pattern.encode()


def _decode_subscribe(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[Subscribed]:
    return (decode_subscribed(buffer[start:stop]),)


def _decode_unsubscribe(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[str]:
    return (buffer[start:stop].decode(),)


def _describe_subscribe(flags: int, event: tuple[Subscribed], at: Times) -> Facts:
    facts: Facts = dict(msgspec.to_builtins(event[0]))
    return facts


def _describe_unsubscribe(flags: int, event: tuple[str], at: Times) -> Facts:
    return {"pattern": event[0]}


# ── BACKFILL ───────────────────────────────────────────────────────────────────────

BACKFILL_PAYLOAD: Final = Struct("<H")  # the number of the topic; id and size of each message follow


def backfill(
    number: int, topic: int, ids: Sequence[int], sizes: Sequence[int], attributes: Attributes = NO_ATTRIBUTES
) -> Draft:  # fmt: skip
    """*topic*: the number of what retains them.  *attributes*: what of theirs counts, the same for all."""
    flat = [*ids, *sizes]
    flat[::2], flat[1::2] = ids, sizes
    payload = BACKFILL_PAYLOAD.pack(topic) + pack("<" + "QI" * len(ids), *flat)
    if attributes == NO_ATTRIBUTES:
        return BACKFILL, 0, number, payload
    return BACKFILL, ATTRIBUTED, number, payload + trailer(attributes)


def _decode_backfill(flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    (topic,) = BACKFILL_PAYLOAD.unpack_from(buffer[start:stop])
    attributes = attributes_in(flags, buffer, start, stop)
    if flags & ATTRIBUTED:
        stop = cut_trailer(buffer, start, stop)[1]
    ids, sizes = acks_of(buffer[start + BACKFILL_PAYLOAD.size : stop])
    if not ids or any(map(ge, ids, ids[1:])):
        raise StructError("its messages do not ascend")
    return topic, ids, sizes, attributes


def _describe_backfill(flags: int, event: Event, at: Times) -> Facts:
    topic, ids, _, attributes = event
    return {"topic": topic, "messages": list(ids)} | describe_attributes(attributes, at)


# ── the kinds that are here ────────────────────────────────────────────────────────

KINDS: Final = {
    SUBSCRIBE: Kind("subscribe", 0, _decode_subscribe, _describe_subscribe),
    UNSUBSCRIBE: Kind("unsubscribe", 0, _decode_unsubscribe, _describe_unsubscribe),
    BACKFILL: Kind("backfill", ATTRIBUTED, _decode_backfill, _describe_backfill),
}
