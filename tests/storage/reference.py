"""A reader of the format that was written from FORMAT.md and shares no line with mq.

If it and mq read the same out of the golden stores, FORMAT.md says what the code does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from struct import calcsize, unpack_from
from typing import NamedTuple

KINDS = {
    1: "FENCE", 2: "CLOSED", 3: "HEAD", 4: "LOST", 16: "DECLARE", 17: "PUBLISH", 18: "DELIVER", 19: "ACK",
    20: "NACK", 21: "RELEASE", 22: "EXTEND", 23: "PURGE", 24: "RELOCATE",
}  # fmt: skip
PAYLOADS = {
    "FENCE": "<QQQQ", "CLOSED": "<", "HEAD": "<Q", "DELIVER": "<QQ", "ACK": "<QI", "NACK": "<QQ",
    "RELEASE": "<Q", "EXTEND": "<QQ", "PURGE": "<Q", "RELOCATE": "<QQIBQQ",
}  # fmt: skip


def crc32c(data: bytes, start: int = 0) -> int:
    crc = start ^ 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


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
    created: int
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
    assert (magic, version, reserved, features) == (b"mq-log\r\n", 1, 0, 0)
    assert (own_id, own_key, crc) == (store_id, key, crc32c(data[:68]))
    assert path.name == f"{base:020}.seg"
    entries = list(_entries(data, base, crc32c(key + base.to_bytes(8, "little"))))
    end = entries[-1].lsn + 24 + _size(entries[-1]) if entries else base
    return Segment(number, base, capacity, created, entries, end, data[72 + end - base :])


def _size(entry: Entry) -> int:
    return calcsize(PAYLOADS.get(entry.kind, "<")) + len(entry.rest)


def _entries(data: bytes, base: int, seed: int) -> Iterator[Entry]:
    at = 72
    while at + 24 <= len(data):
        lsn = base + at - 72
        crc, length, low, lag, ms, kind, flags, queue = unpack_from("<IIIIIBBH", data, at)
        whole = data[at + 4 : at + 24 + length]
        if low != lsn % 2**32 or len(whole) != 20 + length or crc32c(whole, seed) != crc:
            return
        payload, name = whole[20:], KINDS[kind]
        layout = PAYLOADS.get(name, "<")
        claims = None if lag == 0xFFFF_FFFF else lsn - lag
        fields = unpack_from(layout, payload)
        yield Entry(lsn, name, flags, queue, ms, claims, fields, payload[calcsize(layout) :])
        at += 24 + length


def read_mark(path: Path, key: bytes) -> dict[str, int]:
    data = path.read_bytes()
    assert (len(data), data[:8], data[72:].strip(b"\0")) == (4096, key, b"")
    names = ("end", "dirty", "synced", "syncing", "failed", "head", "holder", "synced, again")
    return dict(zip(names, unpack_from("<8Q", data, 8), strict=True))
