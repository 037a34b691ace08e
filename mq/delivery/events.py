"""What a record means to the delivery layer: its kind, and what its payload holds.

    kind      payload
    ───────   ──────────────────────────────────────────────────────────────
    DECLARE   msgpack {name, and the options that it changes}
    PUBLISH   the body
    DELIVER   message id, deadline           (its own position is the receipt)
    ACK       message id, size of the body
    NACK      message id, due, then the reason as UTF-8
    RELEASE   message id
    EXTEND    message id, new deadline
    PURGE     cutoff, bytes freed

A message's id is the position of its PUBLISH record.  Deadlines are milliseconds of
store time, dues milliseconds of wall time, both since 1970.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

import msgspec

DECLARE: Final = 16
PUBLISH: Final = 17
DELIVER: Final = 18
ACK: Final = 19
NACK: Final = 20
RELEASE: Final = 21
EXTEND: Final = 22
PURGE: Final = 23

KIND_NAMES: Final = {
    1: "fence", 2: "closed", DECLARE: "declare", PUBLISH: "publish", DELIVER: "deliver", ACK: "ack",
    NACK: "nack", RELEASE: "release", EXTEND: "extend", PURGE: "purge",
}  # fmt: skip

# Bits of a PUBLISH record's flags: how the body was given.
BYTES: Final = 0x00
TEXT: Final = 0x10
MSGPACK: Final = 0x20
BODY_BITS: Final = 0x30

DELIVER_PAYLOAD: Final = Struct("<QQ")
ACK_PAYLOAD: Final = Struct("<QI")
NACK_PAYLOAD: Final = Struct("<QQ")
RELEASE_PAYLOAD: Final = Struct("<Q")
EXTEND_PAYLOAD: Final = Struct("<QQ")
PURGE_PAYLOAD: Final = Struct("<QQ")

REASON_BYTES_MAX: Final = 1024


class Options(msgspec.Struct, frozen=True):
    """A queue's durable options.  Durations are seconds."""

    visibility_timeout: float = 30.0


OPTION_NAMES: Final = frozenset(Options.__struct_fields__)


class Now(msgspec.Struct, frozen=True, gc=False):
    """The time, in milliseconds since 1970.  `store` never goes back; `wall` may."""

    store: int
    wall: int


def encode_declare(name: str, changes: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode({"name": name, **changes})


def decode_declare(payload: bytes) -> tuple[str, dict[str, Any]]:
    """The queue's name and the options that the declaration changes."""
    changes = msgspec.msgpack.decode(payload, type=dict[str, Any])
    return changes.pop("name"), changes


def encode_reason(reason: str) -> bytes:
    """As UTF-8, cut where it gets too long to keep."""
    return reason.encode(errors="replace")[:REASON_BYTES_MAX]
