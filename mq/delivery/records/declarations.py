"""Records of a queue itself: what it is declared to be, how long it stays, which dedup ids it remembers."""

from __future__ import annotations

from struct import Struct
from typing import Final

import msgspec

from ..attributes import Sliced
from ..options import Declaration
from .kinds import DECLARE, DEDUP, DELETE, RENEW, Draft, Event, Facts, Kind, Times, numbers

# ── DECLARE ────────────────────────────────────────────────────────────────────────

decode_declaration: Final = msgspec.msgpack.Decoder(Declaration).decode


def encode_declaration(declaration: Declaration) -> bytes:
    """Only what is not as by default, so that most take few bytes."""
    return msgspec.msgpack.encode(msgspec.to_builtins(declaration))


def declare(number: int, declaration: Declaration) -> Draft:
    return DECLARE, 0, number, encode_declaration(declaration)


def _decode_declare(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[Declaration]:
    return (decode_declaration(buffer[start:stop]),)


def _describe_declare(flags: int, event: tuple[Declaration], at: Times) -> Facts:
    found = dict(msgspec.to_builtins(event[0]))
    others = {key: found.pop(key) for key in ("was", "meta") if key in found}
    return {"name": found.pop("name"), "options": found} | others


# ── DELETE, RENEW ──────────────────────────────────────────────────────────────────

RENEW_PAYLOAD: Final = Struct("<Q")


def delete(number: int) -> Draft:
    return DELETE, 0, number, b""


def renew(number: int, until: int) -> Draft:
    return RENEW, 0, number, RENEW_PAYLOAD.pack(until)


def _decode_delete(flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    return ()


def _describe_delete(flags: int, event: Event, at: Times) -> Facts:
    return {}


def _describe_renew(flags: int, event: Event, at: Times) -> Facts:
    return {"until": at.store(event[0])}


# ── DEDUP ──────────────────────────────────────────────────────────────────────────

DEDUP_PAYLOAD: Final = Struct("<QQ")  # id, until; the dedup id follows


def dedup(number: int, id: int, until: int, key: str) -> Draft:
    return DEDUP, 0, number, DEDUP_PAYLOAD.pack(id, until) + key.encode()


def _decode_dedup(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[int, int, str]:
    payload = buffer[start:stop]
    id, until = DEDUP_PAYLOAD.unpack_from(payload)
    return id, until, payload[DEDUP_PAYLOAD.size :].decode()


def _describe_dedup(flags: int, event: tuple[int, int, str], at: Times) -> Facts:
    id, until, key = event
    return {"message": id, "dedup_id": key, "until": at.store(until)}


# ── the kinds that are here ────────────────────────────────────────────────────────

KINDS: Final = {
    DECLARE: Kind("declare", 0, _decode_declare, _describe_declare),
    DELETE: Kind("delete", 0, _decode_delete, _describe_delete),
    RENEW: Kind("renew", 0, numbers(RENEW_PAYLOAD), _describe_renew),
    DEDUP: Kind("dedup", 0, _decode_dedup, _describe_dedup),
}
