"""What a turn without LOCK asks of the system: locks of single bytes, and a barrier for all processors."""

from __future__ import annotations

import os
import sys
from collections import namedtuple

import pytest

from mq.storage import barrier
from mq.storage import real_disk as disk_module
from mq.storage.memory_disk import MemoryDisk
from mq.storage.real_disk import RealDisk

Uname = namedtuple("Uname", ["machine"])


@pytest.fixture
def two(tmp_path):
    """Two openings of one file, as two processes have them."""
    disk = RealDisk()
    (tmp_path / "page").write_bytes(bytes(64))
    return disk, *(disk.open(str(tmp_path / "page"), write=True) for _ in range(2))


def test_a_byte_has_one_owner_until_its_descriptor_is_closed(two):
    disk, one, other = two
    assert disk.lock_byte(one, 3) == disk_module.HAVE_BYTE_LOCKS == (sys.platform == "linux")
    assert disk.lock_byte(one, 3), "its own lock stands in the way of nobody"
    assert not disk.lock_byte(other, 3)
    assert disk.lock_byte(other, 4)
    assert disk.byte_is_locked(other, 3) and not disk.byte_is_locked(one, 3)
    disk.close(one)
    assert not disk.byte_is_locked(other, 3)
    assert disk.lock_byte(other, 3)


def test_locks_of_bytes_and_of_the_whole_file_know_nothing_of_each_other(two):
    disk, one, other = two
    assert disk.lock(one) and disk.lock_byte(other, 0)
    assert not disk.lock(other)
    assert disk.lock_byte(one, 1)


def test_a_byte_stays_locked_when_the_child_of_a_fork_closes_its_descriptor(two):
    disk, one, other = two
    assert disk.lock_byte(one, 7)
    if (pid := os.fork()) == 0:
        os.close(one)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert disk.byte_is_locked(other, 7)


def test_a_descriptor_that_is_another_file_s_by_now_is_not_locked(two, tmp_path):
    disk, one, _ = two
    os.close(one)
    (tmp_path / "theirs").write_bytes(b"")
    theirs = os.open(tmp_path / "theirs", os.O_RDWR)
    assert theirs == one, "the program has got the number"
    assert not disk.lock_byte(one, 0)
    os.close(theirs)


def test_a_process_that_heeds_barriers_can_make_one():
    assert RealDisk().heed_barriers() == RealDisk().barrier()


def test_where_no_number_of_the_call_is_known_there_is_no_barrier(monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: Uname("vax"))
    assert barrier._find() is None
    monkeypatch.setattr(barrier, "_membarrier", None)
    assert not barrier.heed() and not barrier.barrier()


def test_a_call_that_the_system_refuses_is_no_barrier(monkeypatch):
    monkeypatch.setattr(barrier, "_membarrier", lambda command: -1)
    assert not barrier.heed() and not barrier.barrier()


def test_a_disk_in_memory_has_neither():
    disk = MemoryDisk()
    assert not disk.heed_barriers() and not disk.barrier()
