"""Room of a file that is mapped: which file systems, and what becomes of a copy that finds no room."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

from mq.storage import window
from mq.storage.memory_disk import MemoryDisk
from mq.storage.real_disk import RealDisk

PAGE = 4096

MOUNTS = """
22 1 8:1 / / rw shared:1 - {kind} /dev/sda1 rw
23 22 0:5 / /elsewhere rw - btrfs /dev/sdb1 rw
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * PAGE))
    return path


def may_map(monkeypatch: pytest.MonkeyPatch, kind: str, path: str) -> bool:
    monkeypatch.setattr("mq.storage.proc._told", lambda path: MOUNTS.format(kind=kind).encode())
    return RealDisk().may_map(path)


@pytest.mark.skipif(sys.platform != "linux", reason="no other system is mapped on")
@pytest.mark.parametrize("kind", ["ext4", "ext3", "ext2", "xfs", "tmpfs"])
def test_file_systems_that_write_in_place_are_mapped(monkeypatch, kind):
    assert may_map(monkeypatch, kind, "/data")
    assert not may_map(monkeypatch, kind, "/elsewhere/data")


@pytest.mark.parametrize(
    "kind",
    ["btrfs", "zfs", "f2fs", "bcachefs", "overlay", "overlayfs", "nilfs2", "ramfs", "rootfs", "devtmpfs",
     "vfat", "exfat", "ntfs3", "fuseblk", "fuse.ext4", "fuse.bindfs", "fuse.mergerfs", "nfs4", "9p",
     "virtiofs", "ext5", "EXT4", "unheard-of", ""],
)  # fmt: skip
def test_all_others_are_not(monkeypatch, kind):
    assert not may_map(monkeypatch, kind, "/data")


def test_nor_is_what_the_system_does_not_tell_of(monkeypatch, tmp_path):
    def told(path: str) -> bytes:
        raise FileNotFoundError

    monkeypatch.setattr("mq.storage.proc._told", told)
    assert not RealDisk().may_map(str(tmp_path))
    assert not MemoryDisk().may_map("data")


def test_what_is_copied_is_in_the_file_and_what_is_written_there_is_read(file):
    disk = RealDisk()
    fd = disk.open(str(file), write=True)
    mapped = disk.window(fd, PAGE, 2 * PAGE)
    assert mapped
    assert mapped.ready(100, PAGE)
    mapped[100:104] = b"mine"
    assert file.read_bytes()[PAGE + 100 : PAGE + 104] == b"mine"
    os.pwrite(fd, b"theirs", PAGE + 104)
    assert mapped[100:110] == b"minetheirs"
    assert len(mapped[PAGE : 9 * PAGE]) == PAGE
    mapped.close()
    disk.close(fd)


def test_a_closed_one_is_neither_read_nor_written(file):
    disk = RealDisk()
    fd = disk.open(str(file), write=True)
    mapped = disk.window(fd, 0, PAGE)
    assert mapped
    mapped.close()
    mapped.close()
    with pytest.raises(ValueError):
        mapped[0:4]
    with pytest.raises(ValueError):
        mapped[0:4] = b"more"
    with pytest.raises(ValueError):
        mapped.ready(0, PAGE)
    assert file.read_bytes() == bytes(4 * PAGE)
    disk.close(fd)


def test_room_that_is_not_there_is_not_mapped(file):
    disk = RealDisk()
    fd = disk.open(str(file), write=True)
    assert disk.window(fd, 0, 4 * PAGE + 1) is None
    disk.close(fd)
    assert disk.window(fd, 0, PAGE) is None


@pytest.mark.skipif(sys.platform != "linux", reason="no other system is mapped on")
def test_room_that_is_gone_is_not_ready(file):
    """No signal: the pages are asked for first."""
    disk = RealDisk()
    fd = disk.open(str(file), write=True)
    mapped = disk.window(fd, 0, 4 * PAGE)
    assert mapped
    os.ftruncate(fd, PAGE)
    ready = [mapped.ready(start, PAGE) for start in (0, PAGE)]
    mapped.close()
    disk.close(fd)
    if int(os.uname().release.split(".")[0]) > 5:  # others may not know the question
        assert ready == [True, False]


def test_a_kernel_that_does_not_know_the_question_is_trusted(file, monkeypatch):
    monkeypatch.setattr(window, "POPULATE_WRITE", 4711)
    disk = RealDisk()
    fd = disk.open(str(file), write=True)
    mapped = disk.window(fd, 0, PAGE)
    assert mapped
    assert mapped.ready(0, PAGE)
    mapped.close()
    disk.close(fd)


def test_no_descriptor_of_a_window_is_left_when_it_is_closed(file):
    disk = RealDisk()
    fd = disk.open(str(file), write=True)
    gc.collect()  # else that may come below, and close what other tests have left
    before = sorted(os.listdir("/proc/self/fd"))
    mapped = disk.window(fd, 0, PAGE)
    assert mapped
    mapped.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    disk.close(fd)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="a mapping keeps no descriptor any more")
def test_a_descriptor_that_the_program_took_from_a_window_stays_the_programs(file, tmp_path):
    """docs/decisions/0029."""
    disk = RealDisk()
    fd = disk.open(str(file), write=True)
    mapped = disk.window(fd, 0, PAGE)
    assert isinstance(mapped, window.FileWindow)
    assert mapped.descriptor > 2
    own = os.open(tmp_path / "own", os.O_RDWR | os.O_CREAT)
    os.dup2(own, mapped.descriptor)
    mapped.close()
    assert os.write(mapped.descriptor, b"still there") == 11
    os.dup2(fd, mapped.descriptor)
    mapped.close()
    window.never_unmapped.remove(mapped)
    os.close(own)
    disk.close(fd)
