"""FORMAT: one line, whole or not there, and nothing else passes for it."""

from __future__ import annotations

import pytest
from faults import CHANGES, Faulty, Image, PowerCut, cut_at
from logfiles import IDENTITY

from mq.errors import CorruptStore, Unsupported
from mq.storage import identity

LINE = b"mq 1 00112233445566778899aabbccddeeff 0123456789abcdef 9d39b31a\n"


def read(line: bytes) -> identity.Identity:
    return identity.read(Image({"s/FORMAT": line}), "s/FORMAT")


def reseal(text: bytes) -> bytes:
    return text + b" %08x\n" % identity.crc32c(text)


def test_golden_bytes_of_the_format_line():
    assert IDENTITY.line() == LINE
    assert read(LINE) == IDENTITY


def test_no_flipped_bit_passes():
    for at in range(len(LINE) * 8):
        damaged = bytearray(LINE)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(CorruptStore, match="restore it"):
            read(bytes(damaged))


@pytest.mark.parametrize("size", range(len(LINE)))
def test_no_truncation_passes(size):
    with pytest.raises(CorruptStore):
        read(LINE[:size])


@pytest.mark.parametrize("more", [b"\n", b"\0", b" ", LINE, bytes(300)], ids=repr)
def test_nothing_may_follow(more):
    with pytest.raises(CorruptStore):
        read(LINE + more[:1000])


@pytest.mark.parametrize("version", [0, 2, 10, 999_999_999])
def test_another_format_is_refused_by_name(version):
    with pytest.raises(Unsupported, match=f"store format {version} is not format 1"):
        read(reseal(b"mq %d 00112233445566778899aabbccddeeff 0123456789abcdef" % version))


def changing_calls() -> int:
    disk = Faulty(Image())
    identity.create(disk, "s/FORMAT")
    return sum(disk.counts[name] for name in CHANGES)


@pytest.mark.parametrize("partly", [False, True], ids=["before", "half-way"])
@pytest.mark.parametrize("call", range(changing_calls()))
def test_a_new_store_is_whole_under_its_name_or_not_there(call, partly):
    disk = Image()
    with pytest.raises(PowerCut):
        identity.create(Faulty(disk, cut_at(disk, call, partly=partly)), "s/FORMAT")
    if disk.exists("s/FORMAT"):
        identity.read(disk, "s/FORMAT")
    made = identity.create(disk, "s/FORMAT")
    assert identity.read(disk, "s/FORMAT") == made


def test_two_stores_differ_in_id_and_key():
    one, two = (identity.create(Image(), "s/FORMAT") for _ in range(2))
    assert one.store_id != two.store_id
    assert one.key != two.key
    assert bytes.fromhex(one.store_id)[:8] != one.key
