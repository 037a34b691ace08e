"""A message in the record in which it stands now, whatever the kind of that."""

from __future__ import annotations

from collections.abc import Callable
from struct import error as StructError

import msgspec

from ..attributes import CHANGES_BYTES_MAX, TRAILER_LENGTH, cut_trailer, decode_changes, trailer_at
from .fanouts import (
    FANOUT_PAYLOAD,
    RELOCATE_FANOUT_PAYLOAD,
    check_queues,
    decode_relocate_fan_out,
    fan_out_head,
    fanned,
    holders_from,
    queues_of,
)
from .kinds import FANOUT, NEW, PUBLISH, RELOCATE, RELOCATE_FANOUT, SCHEDULE
from .messages import ATTRIBUTED, CHANGED, RELOCATE_PAYLOAD


def received_in(kind: int, flags: int, payload: bytes, queue: int) -> tuple[int, int] | None:
    """What a record that holds a message says of its first delivery in *queue*: receipt, and wall time."""
    changes = None
    if kind == RELOCATE and flags & CHANGED:
        changes = decode_changes(cut_trailer(payload, 0, len(payload))[0])
    elif kind == RELOCATE_FANOUT:
        holders = decode_relocate_fan_out(flags, payload, 0, len(payload))[3]
        changes = next((each.changes for each in holders if each.queue == queue), None)
    return changes.received if changes else None


def published_of(kind: int, flags: int, created_ms: int, payload: bytes) -> tuple[int, bytes]:
    """When the message was created, and what was published, wherever it stands now."""
    if kind == RELOCATE:
        created_ms = RELOCATE_PAYLOAD.unpack_from(payload)[1]
        payload = payload[RELOCATE_PAYLOAD.size :]
        if flags & CHANGED:
            payload = payload[: trailer_at(payload, 0, len(payload))]
    elif kind == FANOUT:
        payload = fanned(payload)
    elif kind == RELOCATE_FANOUT:
        _, created_ms, _, size = RELOCATE_FANOUT_PAYLOAD.unpack_from(payload)
        payload = payload[RELOCATE_FANOUT_PAYLOAD.size + size :]
    return created_ms, payload


def created_ms(kind: int, time_ms: int, head: Callable[[int], bytes]) -> int | None:
    """When the message in a record of *time_ms* was created; *head* gives the first bytes of its payload.

    None if the record holds none.
    """
    if kind in NEW:
        return time_ms
    layout = RELOCATE_PAYLOAD if kind == RELOCATE else RELOCATE_FANOUT_PAYLOAD
    if kind in (RELOCATE, RELOCATE_FANOUT):
        data = head(layout.size)
        return int(layout.unpack(data)[1]) if len(data) == layout.size else None
    return None


def published_size(
    kind: int, flags: int, length: int, head: Callable[[int], bytes], tail: Callable[[int], bytes]
) -> int | None:
    """How long what was published is, in a payload of *length* bytes.

    *head* gives the first bytes of it, and *tail* the last ones.  None if it cannot be so.
    """
    if kind == PUBLISH:
        return length
    size = length - RELOCATE_PAYLOAD.size
    try:
        if kind == FANOUT:
            size = length - fan_out_head(head(FANOUT_PAYLOAD.size), length)[2]
        elif kind == RELOCATE_FANOUT:
            data = head(RELOCATE_FANOUT_PAYLOAD.size)
            size = length - len(data) - RELOCATE_FANOUT_PAYLOAD.unpack(data)[3]
        elif kind != RELOCATE:
            return None
        elif flags & CHANGED:
            (cut,) = TRAILER_LENGTH.unpack(tail(TRAILER_LENGTH.size))
            size -= cut + TRAILER_LENGTH.size
            if cut > CHANGES_BYTES_MAX or size < 0:
                return None
            decode_changes(tail(cut + TRAILER_LENGTH.size)[:cut])
    except (StructError, msgspec.MsgspecError):
        return None
    return size if size >= 0 else None


def body_of(kind: int, flags: int, created_ms: int, payload: bytes) -> tuple[int, bytes]:
    """When the message was created, and its body, wherever it stands now."""
    created_ms, published = published_of(kind, flags, created_ms, payload)
    if flags & ATTRIBUTED or kind == SCHEDULE:
        published = published[: trailer_at(published, 0, len(published))]
    return created_ms, published


def message_of(kind: int, position: int, payload: bytes) -> int | None:
    """The message whose body the record holds; None if it holds none."""
    if kind in NEW:
        return position
    if kind == RELOCATE and len(payload) >= RELOCATE_PAYLOAD.size:
        return int(RELOCATE_PAYLOAD.unpack_from(payload)[0]) or position
    if kind == RELOCATE_FANOUT and len(payload) >= RELOCATE_FANOUT_PAYLOAD.size:
        return int(RELOCATE_FANOUT_PAYLOAD.unpack_from(payload)[0])
    return None


def holders_in(kind: int, payload: bytes) -> tuple[int, ...]:
    """The numbers of the queues that a damaged FANOUT or RELOCATE_FANOUT names; none if it makes no sense."""
    try:
        if kind == FANOUT:
            fan_out_head(payload, len(payload))
            queues = queues_of(payload)
            check_queues(queues)
            return queues
        _, _, count, size = RELOCATE_FANOUT_PAYLOAD.unpack_from(payload)
        said = payload[RELOCATE_FANOUT_PAYLOAD.size :][:size]
        return tuple(each.queue for each in holders_from(said, count, size))
    except (StructError, msgspec.MsgspecError):
        return ()
