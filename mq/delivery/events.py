"""What a record means to the delivery layer: its kind, and what its payload holds.

    kind      payload
    ───────   ──────────────────────────────────────────────────────────────
    DECLARE   msgpack: name, all options, and the totals so far
    PUBLISH   the body
    DELIVER   message id, deadline           (its own position is the receipt)
    ACK       message id, size of the body
    NACK      message id, due, then the reason as UTF-8
    RELEASE   message id
    EXTEND    message id, new deadline
    PURGE     cutoff, then message id and size of the body for each that stays
    RELOCATE  message id, creation time, attempts, place, receipt, deadline or due, then
              the body: the message stands here now

A message's id is the position of its PUBLISH record.  Deadlines are milliseconds of
store time, dues milliseconds of wall time, both since 1970.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

import msgspec

DECLARE: Final = 16
PUBLISH: Final = 17
DELIVER: Final = 18
ACK: Final = 19
NACK: Final = 20
RELEASE: Final = 21
EXTEND: Final = 22
PURGE: Final = 23
RELOCATE: Final = 24

KIND_NAMES: Final = {
    1: "fence", 2: "closed", 3: "head", 4: "lost", DECLARE: "declare", PUBLISH: "publish",
    DELIVER: "deliver", ACK: "ack", NACK: "nack", RELEASE: "release",
    EXTEND: "extend", PURGE: "purge", RELOCATE: "relocate",
}  # fmt: skip

# Bits of a PUBLISH record's flags: how the body was given.
BYTES: Final = 0x00
TEXT: Final = 0x10
MSGPACK: Final = 0x20
BODY_BITS: Final = 0x30

# A bit of a DELIVER record's flags: the delivery before this one had timed out.
TIMED_OUT: Final = 0x10

DELIVER_PAYLOAD: Final = Struct("<QQ")
ACK_PAYLOAD: Final = Struct("<QI")
NACK_PAYLOAD: Final = Struct("<QQ")
RELEASE_PAYLOAD: Final = Struct("<Q")
EXTEND_PAYLOAD: Final = Struct("<QQ")
PURGE_PAYLOAD: Final = Struct("<Q")
KEPT_PAYLOAD: Final = Struct("<QI")
RELOCATE_PAYLOAD: Final = Struct("<QQIBQQ")

# Places of a relocated message.
WAITING: Final = 0
DELAYED: Final = 1
IN_FLIGHT: Final = 2

DECLARATION_BYTES: Final = 512  # what a queue itself counts in the log: more than a declaration takes
MESSAGE_OVERHEAD_BYTES: Final = 96  # what a message costs in the log beside its body, moved and settled once

REASON_BYTES_MAX: Final = 1024


class Options(msgspec.Struct, frozen=True):
    """A queue's durable options.  Durations are seconds."""

    visibility_timeout: float = 30.0


class Now(msgspec.Struct, frozen=True, gc=False):
    """The time, in milliseconds since 1970.  `store` never goes back; `wall` may."""

    store: int
    wall: int


class Declaration(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """All there is to know of a queue beside its messages: supersedes what was declared before."""

    name: str
    visibility_timeout: float = Options().visibility_timeout
    published: int = 0
    acked: int = 0
    failed: int = 0

    @property
    def options(self) -> Options:
        return Options(visibility_timeout=self.visibility_timeout)


encode_declaration: Final = msgspec.msgpack.Encoder().encode
decode_declaration: Final = msgspec.msgpack.Decoder(Declaration).decode


def body_of(kind: int, created_ms: int, payload: bytes) -> tuple[int, bytes]:
    """When the message was created, and its body, wherever it stands now."""
    if kind == RELOCATE:
        return RELOCATE_PAYLOAD.unpack_from(payload)[1], payload[RELOCATE_PAYLOAD.size :]
    return created_ms, payload


def message_of(kind: int, position: int, payload: bytes) -> int | None:
    """The message whose body the record holds; None if it holds none."""
    if kind == PUBLISH:
        return position
    if kind == RELOCATE and len(payload) >= RELOCATE_PAYLOAD.size:
        return int(RELOCATE_PAYLOAD.unpack_from(payload)[0])
    return None


def encode_reason(reason: str) -> bytes:
    """As UTF-8, cut where it gets too long to keep."""
    return reason.encode(errors="replace")[:REASON_BYTES_MAX]
