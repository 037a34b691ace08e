"""System calls that fail: by a library before the C library, by strace, and by a disk with bad blocks."""

from __future__ import annotations

import errno
import mmap
import os
import shutil

import pytest

from mq.storage.disk import PAGE_BYTES
from mq.storage.real_disk import RealDisk
from mq.storage.rewrite import rewrite
from mq.storage.segment import HEADER_BYTES, Segment

from . import faults, machine
from .audience import Audience, Books
from .conftest import skip
from .machine import Cut, WeakDisk
from .processes import Child, Ended, Nursery
from .rounds import Scene, fault_round, meet, timeless

ROUNDS = 24
SCRIPT = "crash.real.scripts:"


@pytest.mark.parametrize(
    "call, where, first, what, kind",
    [
        ("pwrite", "/data/log", 20, errno.EIO, "StoreFailed"),
        ("pwrite", "/data/log", 20, errno.ENOSPC, "StoreFailed"),
        ("fdatasync", "/data/log", 10, errno.EIO, "StoreFailed"),
        ("fsync", "/data/log", 3, errno.EIO, "StoreFailed"),
        ("posix_fallocate", "/data/log", 3, errno.ENOSPC, "DiskFull"),
        ("posix_fallocate", "/data/reserve", 1, errno.EDQUOT, "DiskFull"),
        ("open", "/data/log", 3, errno.EMFILE, "StorageError"),
        ("open", "/data/LOCK", 1, errno.EACCES, "StorageError"),
        ("rename", "/data/FORMAT", 1, errno.EIO, "StorageError"),
    ],
)
def test_a_call_fails_for_good(call, where, first, what, kind, faulty_nursery: Nursery, tmp_path):
    """P1-P9: each of these is met for certain, and says so by an error of the tree."""
    scene = Scene(faulty_nursery, str(tmp_path / "data"), str(tmp_path / "notes"), "a fault")
    fault = (call, where, first, 1000, what)
    meet(scene, scene.work("always", "publish", fault), fault)
    assert scene.ledger.failures[0].split()[0] == kind


def test_writes_that_are_short(faulty_nursery: Nursery, tmp_path):
    """P1-P9: the rest of each is written too, and no caller is told."""
    scene = Scene(faulty_nursery, str(tmp_path / "data"), str(tmp_path / "notes"), "short")
    fault = ("pwrite", "/data/log", 1, 1000, faults.SHORT)
    meet(scene, scene.work("always", "publish", fault), fault)
    assert not scene.ledger.failures
    assert len(scene.ledger.returned) >= 30


def test_a_kill_inside_a_write(faulty_nursery: Nursery, tmp_path):
    """P1-P9: the kernel ends a write of several pages for it, and what is there is torn."""
    scene = Scene(faulty_nursery, str(tmp_path / "data"), str(tmp_path / "notes"), "cut")
    for number in range(12):
        fault = ("pwrite", "/data/log", number % 6 + 1, 1, faults.CUT)
        meet(scene, scene.work("always", "publish", fault), fault)
    assert scene.verdicts["torn"] > 3


def test_any_call_may_fail_at_any_time(faulty_nursery: Nursery, tmp_path):
    """P1-P9: errors of the tree only, and a re-open mends what they left."""
    scene = Scene(faulty_nursery, str(tmp_path / "data"), str(tmp_path / "notes"), "faults")
    for _ in range(ROUNDS):
        fault_round(scene)
    kinds = {failure.split()[0] for failure in scene.ledger.failures}
    assert kinds <= {"StoreFailed", "DiskFull", "StorageError", "CorruptStore"}


def test_any_call_may_fail_at_any_time_among_topics_and_schedules(faulty_nursery: Nursery, tmp_path):
    """P1-P6, P8, P9: no fan-out in part, no tick twice or skipped, order kept in groups."""
    audience = Audience(faulty_nursery, str(tmp_path / "data"), str(tmp_path / "notes"), "faults")
    for _ in range(ROUNDS // 2):
        audience.fault_round()
    assert len(Books(audience.notes).told) > 20


def test_recovery_killed_at_every_call(faulty_nursery: Nursery, tmp_path):
    """P8: once, and again somewhere in the next try; what it finds is always the same."""
    scene = Scene(faulty_nursery, str(tmp_path / "data"), str(tmp_path / "notes"), "recovery")
    scene.kill(scene.traffic("busy"))
    whole = str(tmp_path / "whole")
    shutil.copytree(scene.store, whole)
    expected = timeless(scene.look(power=False))["queues"]
    number, status = 0, -9
    while status == -9:
        number += 1
        shutil.rmtree(scene.store)
        shutil.copytree(whole, scene.store)
        ended: list[int] = []
        for call in (number, number * 7 % 20 + 1):
            fault = ("*", scene.store, call, 1, faults.KILL)
            child = faulty_nursery.start("crash.real.traffic:reopen", scene.store, scene.notes, fault)
            ended.append(child.wait())
        status = ended[0]
        found = faulty_nursery.run("crash.real.traffic:look", scene.store)
        assert timeless(found)["queues"] == expected, f"killed at call {number}"
    assert number > 10


@pytest.mark.parametrize(
    "call, error",
    [("fdatasync", errno.EIO), ("fdatasync", errno.ENOSPC), ("pwrite", errno.EIO), ("pwrite", errno.ENOSPC)],
)
def test_after_a_failure_nothing_is_tried_again(call, error, faulty_nursery: Nursery, tmp_path):
    """P6."""
    faulty_nursery.run(SCRIPT + "fail_once", str(tmp_path / "data"), call, error)
    assert faulty_nursery.run(SCRIPT + "numbers", str(tmp_path / "data")) in ([0, 1, 2], [0, 1, 2, 3])


@pytest.mark.parametrize(
    "injection",
    [
        "fdatasync:error=EIO:when=9+",
        "pwrite64:error=ENOSPC:when=25",
        "fallocate:error=ENOSPC:when=4+",
        "unlinkat:error=EIO:when=2",
        "pwrite64:signal=KILL:when=33",
    ],
)
def test_calls_that_strace_tampers_with(injection, need, nursery: Nursery, tmp_path):
    """P1-P9: the same from outside of the process."""
    need("strace")
    call = injection.partition(":")[0]
    traced = tmp_path / "traced"
    wrapper = ("strace", "-f", "-qqq", "-o", str(traced), "-e", f"trace={call}")
    try:
        with Nursery(wrapper=wrapper) as probe:
            probe.run(SCRIPT + "numbers", str(tmp_path / "probe"))
    except (Ended, BrokenPipeError):
        skip("strace may not trace here (ptrace is not allowed)")
    scene = Scene(nursery, str(tmp_path / "data"), str(tmp_path / "notes"), injection)
    scene.kill(scene.traffic("busy"))
    with Nursery(wrapper=(*wrapper, "-e", f"inject={injection}")) as tampered:
        args = (scene.store, scene.notes, "strace", "always", scene.ledger.next_number, "busy", 60)
        tampered.start("crash.real.traffic:traffic", *args).killed_or_done()
    assert ("killed by SIGKILL" if "signal=KILL" in injection else "(INJECTED)") in traced.read_text()
    scene.ledger.read()
    scene.look(power=False)


@pytest.fixture(params=["ext4", "xfs"])
def weak(request, need):
    need("mount", f"mkfs.{request.param}")
    with WeakDisk(request.param, f"weak-{request.param}") as disk:
        yield disk


def begin_on_bad_blocks(script: str, disk: WeakDisk, nursery: Nursery, tmp_path) -> tuple[str, Child]:
    """A store, and the process that has been told to go on in it, where the disk takes nothing."""
    store = f"{disk.image.path}/data"
    ready, go = tmp_path / "ready", tmp_path / "go"
    child = nursery.start(SCRIPT + script, store, str(ready), str(go))
    child.until(lambda: ready.exists() and bool(ready.read_text()))
    disk.fail(first_segment(store), int(ready.read_text()))
    go.touch()
    return store, child


def first_segment(store: str) -> str:
    return f"{store}/log/{0:020}.seg"


def fail_an_fsync(disk: WeakDisk, nursery: Nursery, tmp_path) -> str:
    """A store whose last message was written, and whose fdatasync then failed: the disk has nothing of it."""
    store, child = begin_on_bad_blocks("write_over_bad_blocks", disk, nursery, tmp_path)
    child.result()
    return store


def test_what_a_failed_fsync_left_in_memory_is_written_again(weak: WeakDisk, nursery: Nursery, tmp_path):
    """P1, P8: what a re-open has shown, is on the disk; the pages that it read had passed for clean."""
    store = fail_an_fsync(weak, nursery, tmp_path)
    weak.heal()
    shown = nursery.run(SCRIPT + "numbers", store)
    assert shown in ([0], [0, 1])
    weak.image.cut(Cut.NOTHING_FLUSHED)
    weak.image.unmount()
    weak.image.mount()
    assert nursery.run(SCRIPT + "numbers", store) == shown


def test_what_a_failed_fsync_lost_is_no_damage(weak: WeakDisk, nursery: Nursery, tmp_path):
    """P1, P7: the pages are gone from memory before the store is opened again."""
    store = fail_an_fsync(weak, nursery, tmp_path)
    weak.heal()
    machine.forget_pages(first_segment(store))
    assert nursery.run(SCRIPT + "numbers", store) == [0]


def test_a_disk_that_is_still_broken_is_not_called_well(weak: WeakDisk, nursery: Nursery, tmp_path):
    """P1: the store does not open as long as what it would show cannot be written."""
    store = fail_an_fsync(weak, nursery, tmp_path)
    with pytest.raises(Ended, match=r"mq\.(StorageError|StoreFailed|DiskFull)"):
        nursery.run(SCRIPT + "numbers", store)
    weak.heal()
    shown = nursery.run(SCRIPT + "numbers", store)
    assert shown in ([0], [0, 1])
    weak.image.cut(Cut.NOTHING_FLUSHED)
    weak.image.unmount()
    weak.image.mount()
    assert nursery.run(SCRIPT + "numbers", store) == shown


def test_a_failure_that_another_program_was_told_of_first(weak: WeakDisk, nursery: Nursery, tmp_path):
    """P1: the kernel says so to each descriptor that was open; one that is opened later hears nothing."""
    store, child = begin_on_bad_blocks("outgrow_bad_blocks", weak, nursery, tmp_path)
    child.until(lambda: (tmp_path / "ready-2").exists())
    fd = os.open(first_segment(store), os.O_RDWR)
    try:
        with pytest.raises(OSError, match=r"No space|Input/output"):
            os.fsync(fd)
    finally:
        os.close(fd)
    weak.heal()
    (tmp_path / "go-2").touch()
    child.result()
    assert nursery.run(SCRIPT + "numbers", store)[0] == 0


class NoDirect(RealDisk):
    """As on a file system that does not write past its cache."""

    def pwrite_direct(self, fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.mark.parametrize("how", ["not mapped", "mapped", "O_DIRECT refused"])
@pytest.mark.parametrize("size", [3000, 300_000])
def test_what_was_appended_to_a_page_whose_fsync_failed_is_written_with_it(weak: WeakDisk, size, how):
    """P1: ext4 drops such a page with what was appended; and does not drop one that a process has mapped."""
    segment = Segment(number=0, base=0, capacity=1 << 20, created_ms=0, seed=0)
    path = f"{weak.image.path}/{segment.name}"
    first, other = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    page = mmap.mmap(-1, PAGE_BYTES)
    try:
        os.posix_fallocate(first, 0, HEADER_BYTES + segment.capacity)
        os.pwrite(first, b"h" * PAGE_BYTES, 0)
        os.fsync(first)
        weak.fail(path, PAGE_BYTES)
        os.pwrite(first, b"a" * size, PAGE_BYTES)
        with pytest.raises(OSError, match=r"No space|Input/output"):
            os.fdatasync(first)
        weak.heal()
        if how == "mapped":
            page = mmap.mmap(other, 4 * PAGE_BYTES)
            assert page[PAGE_BYTES : PAGE_BYTES + 3000] == b"a" * 3000
        os.pwrite(other, b"b" * 500, PAGE_BYTES + size)
        start = PAGE_BYTES - HEADER_BYTES
        disk = NoDirect() if how == "O_DIRECT refused" else RealDisk()
        rewrite(disk, weak.image.path, [segment], start, start + size + 500)
    finally:
        page.close()
        os.close(first)
        os.close(other)
    weak.image.cut(Cut.NOTHING_FLUSHED)
    weak.image.unmount()
    weak.image.mount()
    with open(path, "rb") as file:
        assert file.read(2 * PAGE_BYTES + size).rstrip(b"\0") == b"h" * PAGE_BYTES + b"a" * size + b"b" * 500
