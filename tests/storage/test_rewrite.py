"""Bytes that may only be in memory are written again: which, and in what order."""

from __future__ import annotations

import random

import pytest
from faults import GO_ON, Faulty, Image

from mq.storage import rewrite as module
from mq.storage.rewrite import rewrite
from mq.storage.segment import HEADER_BYTES, Segment

SEGMENT = Segment(number=0, base=0, capacity=10_000, created_ms=0, seed=0)
FOLIO = 2000
PATH = f"s/log/{SEGMENT.name}"


def written(start: int, stop: int, size: int, *, short: bool = False) -> tuple[bytes, list, Image]:
    """The file as it was, what was called, and the disk, after [start, stop) was written again."""
    data, calls = random.Random(1).randbytes(size), []
    image = Image({PATH: data})

    def hook(name, args):
        if name in ("pread", "forget", "pwrite", "sync"):
            calls.append((name, *args[1:]))
        if name == "pread" and short:
            fd, count, offset = args
            return image.pread(fd, min(count, 1000), offset)
        return GO_ON

    rewrite(Faulty(image, hook), "s/log", [SEGMENT], start, stop)
    return data, calls, image


def test_nothing_is_written_to_a_page_that_is_still_remembered(monkeypatch):
    """The kernel forgets a folio as a whole, so what is still to be written must be another one's."""
    monkeypatch.setattr(module, "FOLIO_BYTES", FOLIO)
    start, stop = FOLIO - 172 - HEADER_BYTES, 3 * FOLIO + 28 - HEADER_BYTES
    data, calls, _ = written(start, stop, SEGMENT.capacity)
    assert calls == [
        ("pread", 172, FOLIO - 172), ("forget", 0, FOLIO),
        ("pwrite", data[FOLIO - 172 : FOLIO], FOLIO - 172),
        ("pread", FOLIO, FOLIO), ("forget", FOLIO, FOLIO),
        ("pwrite", data[FOLIO : 2 * FOLIO], FOLIO),
        ("pread", FOLIO, 2 * FOLIO), ("forget", 2 * FOLIO, FOLIO),
        ("pwrite", data[2 * FOLIO : 3 * FOLIO], 2 * FOLIO),
        ("pread", 28, 3 * FOLIO), ("forget", 3 * FOLIO, FOLIO),
        ("pwrite", data[3 * FOLIO : 3 * FOLIO + 28], 3 * FOLIO),
        ("sync",),
    ]  # fmt: skip


@pytest.mark.parametrize("short", [False, True], ids=["whole reads", "short reads"])
@pytest.mark.parametrize("size", [SEGMENT.capacity, 5000], ids=["in the file", "beyond its end"])
def test_it_is_written_as_it_was_read_and_nothing_else_is(size, short):
    """Others may append behind it meanwhile."""
    start, stop = 1000, 6000
    data, calls, image = written(start, stop, size, short=short)
    assert image.files()[PATH] == data
    first = start + HEADER_BYTES
    last = min(size, stop + HEADER_BYTES)
    assert [(part, at) for name, part, at in (call for call in calls if call[0] == "pwrite")] == [
        (data[first:last], first)
    ]
