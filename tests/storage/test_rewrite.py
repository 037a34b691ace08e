"""Bytes that may only be in memory are written again: which, and in what order."""

from __future__ import annotations

import errno
import os
import random
from typing import Any

import pytest
from faults import EIO, GO_ON, Faulty, Image

from mq.storage import rewrite as module
from mq.storage.disk import PAGE_BYTES
from mq.storage.real_disk import RealDisk
from mq.storage.rewrite import rewrite
from mq.storage.segment import HEADER_BYTES, Segment

SEGMENT = Segment(number=0, base=0, capacity=100_000, created_ms=0, seed=0)
PAGE, FOLIO = PAGE_BYTES, 4 * PAGE_BYTES
PATH = f"s/log/{SEGMENT.name}"
CALLS = ("pread", "forget", "pwrite", "pwrite_direct", "sync")


class Direct(Image):
    """A disk that writes past the cache, which it does not have."""

    refuses = 0  # this errno, always

    def pwrite_direct(self, fd: int, data: bytes, offset: int) -> int:
        assert offset % PAGE == len(data) % PAGE == 0
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        return self.pwrite(fd, data, offset)


class Written:
    """The file as it was, what was called, and the disk, after a part of it was written again."""

    def __init__(self, start: int, stop: int, *, size: int = SEGMENT.capacity, **options: Any) -> None:
        self.data, self.calls = random.Random(1).randbytes(size), []
        self.image = Direct({PATH: self.data})
        self.image.refuses = options.pop("refuses", 0)
        self._options = options
        rewrite(Faulty(self.image, self._hook), "s/log", [SEGMENT], start - HEADER_BYTES, stop - HEADER_BYTES)

    def _hook(self, name: str, args: tuple[Any, ...]) -> Any:
        if name in CALLS:
            self.calls.append((name, *args[1:]))
        most = self._options.get(f"short_{name}")
        if most and name == "pread":
            return self.image.pread(args[0], min(args[1], most), args[2])
        if most and name == "pwrite_direct":
            return self.image.pwrite(args[0], args[1][:most], args[2])
        return GO_ON

    @property
    def file(self) -> bytes:
        return self.image.files()[PATH]


@pytest.fixture(autouse=True)
def small_folios(monkeypatch):
    monkeypatch.setattr(module, "FOLIO_BYTES", FOLIO)


def test_whole_pages_go_past_the_cache_and_are_read_back_from_the_disk():
    """The kernel drops a folio as a whole, so all of it is read before any of it is written."""
    start, stop = FOLIO - 172, 2 * FOLIO + 28
    it = Written(start, stop)
    data = it.data
    assert it.calls == [
        ("pread", PAGE, FOLIO - PAGE), ("pwrite_direct", data[FOLIO - PAGE : FOLIO], FOLIO - PAGE),
        ("pread", FOLIO, FOLIO), ("pwrite_direct", data[FOLIO : 2 * FOLIO], FOLIO),
        ("pread", PAGE, 2 * FOLIO), ("pwrite_direct", data[2 * FOLIO : 2 * FOLIO + PAGE], 2 * FOLIO),
        ("sync",),
        ("forget", 0, FOLIO), ("pread", PAGE, FOLIO - PAGE),
        ("forget", FOLIO, FOLIO), ("pread", FOLIO, FOLIO),
        ("forget", 2 * FOLIO, FOLIO), ("pread", PAGE, 2 * FOLIO),
    ]  # fmt: skip
    assert it.file == data


@pytest.mark.parametrize("refuses", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSPC], ids=errno.errorcode.get)
def test_where_the_system_refuses_that_what_is_dirty_is_synced_first_and_the_pages_dropped(refuses):
    """A page that is dirty would stay, and with it that it was tried."""
    it = Written(100, 300, refuses=refuses)
    page = it.data[:PAGE]
    assert it.calls == [
        ("pread", PAGE, 0), ("pwrite_direct", page, 0),
        ("sync",), ("forget", 0, FOLIO), ("pwrite", page, 0),
        ("sync",), ("forget", 0, FOLIO), ("pread", PAGE, 0),
    ]  # fmt: skip
    assert it.file == it.data


def test_the_last_page_is_filled_up_if_the_file_ends_in_it():
    it = Written(100, 5000, size=4500)
    assert [name for name, *_ in it.calls] == ["pread", "pread", "pwrite_direct", "sync", "forget", "pread"]
    assert it.file == it.data + bytes(2 * PAGE - 4500)


@pytest.mark.parametrize(
    "options",
    [{"short_pread": 1000}, {"short_pwrite_direct": 5000}, {"short_pwrite_direct": 3000}],
    ids=["short reads", "short writes", "writes of less than a page"],
)
@pytest.mark.parametrize("size", [SEGMENT.capacity, 21_000], ids=["in the file", "beyond its end"])
def test_it_is_written_as_it_was_read(size, options):
    it = Written(1000, 22_000, size=size, **options)
    assert it.file.startswith(it.data)
    assert it.file.rstrip(b"\0") == it.data.rstrip(b"\0")
    assert ("sync",) in it.calls


def test_a_disk_that_fails_leaves_the_bytes_in_memory():
    """The kernel has dropped the pages when it tries; the next recovery may find the disk well again."""
    image = Direct({PATH: bytes(PAGE) + b"x" * PAGE})

    def fail(name: str, args: tuple[Any, ...]) -> Any:
        if name == "pwrite_direct":
            image._files[PATH][PAGE : 2 * PAGE] = bytes(PAGE)
            raise OSError(EIO, os.strerror(EIO))
        return GO_ON

    with pytest.raises(OSError, match=os.strerror(EIO)):
        rewrite(Faulty(image, fail), "s/log", [SEGMENT], PAGE, PAGE + 50)
    assert image.files()[PATH] == bytes(PAGE) + b"x" * PAGE


def test_a_disk_that_does_not_have_what_it_said_it_has_is_told():
    """Also after a sync that reported success."""
    image = Direct({PATH: b"x" * PAGE})

    def lose(name: str, args: tuple[Any, ...]) -> Any:
        if name == "forget":
            image._files[PATH][100:200] = bytes(100)
        return GO_ON

    with pytest.raises(OSError, match="does not hold what was just written") as caught:
        rewrite(Faulty(image, lose), "s/log", [SEGMENT], 0, 50)
    assert (caught.value.errno, caught.value.filename) == (EIO, PATH)


def test_a_real_disk_writes_whole_pages_past_the_cache_and_other_writes_go_on_as_before(tmp_path):
    disk, path = RealDisk(), str(tmp_path / "file")
    fd = disk.open(path, write=True, create=True)
    try:
        disk.pwrite(fd, b"a" * 100, 0)
        try:
            assert disk.pwrite_direct(fd, b"b" * PAGE, PAGE) == PAGE
        except OSError as error:
            assert error.errno in module.REFUSED  # a tmpfs, say
            disk.pwrite(fd, b"b" * PAGE, PAGE)
        disk.pwrite(fd, b"c", 100)  # not a page, and not where one begins
        assert disk.pread(fd, 3 * PAGE, 0) == b"a" * 100 + b"c" + bytes(PAGE - 101) + b"b" * PAGE
    finally:
        disk.close(fd)
