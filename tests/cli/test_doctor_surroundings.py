"""mq doctor: each finding about what surrounds a store, in the situation that it is about.

Where a situation needs root, or cannot be had on this system, its test is skipped by name.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import Run
from ill import Hold, findings, hold, names_of, quick

import mq
from mq.engine.cleaning import Cleaning
from mq.storage import proc

__all__ = ["hold", "quick"]  # fixtures

needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount")


# ── room on the disk ───────────────────────────────────────────────────────────────


@contextmanager
def mounted(store: Path, options: str) -> Iterator[None]:
    store.mkdir()
    options += ",mode=755"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(store)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this system lets nobody mount here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(store)], check=True)


def fill_up(store: Path, leave: int) -> None:
    """A file of another program on the disk; *leave* bytes are free then."""
    free = os.statvfs(store).f_bavail * os.statvfs(store).f_frsize
    fd = os.open(store / "lost+found", os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(fd, 0, free - leave)
    os.close(fd)


@needs_root
def test_a_disk_that_fills_up(run: Run, store: Path) -> None:
    with mounted(store, "size=16m,nr_inodes=1000"):
        with mq.open(store) as broker:
            broker.queue("mail").publish_many(["x" * 100] * 50)
        assert names_of(findings(run)) == set() and findings(run)["in-memory"]["severity"] == "warning"
        fill_up(store, 1536 << 10)
        assert findings(run)["disk-low"]["severity"] == "warning"
        (store / "lost+found").unlink()
        fill_up(store, 0)
        found = findings(run)
        assert found["disk-full"]["severity"] == "error" and not {"disk-low", "reserve"} & set(found)
        os.truncate(store / "reserve", 0)
        (store / "lost+found").unlink()
        fill_up(store, 0)
        assert findings(run)["reserve"]["severity"] == "error"


@needs_root
def test_a_disk_without_inodes(run: Run, store: Path) -> None:
    with mounted(store, "size=16m,nr_inodes=60"):
        with mq.open(store) as broker:
            broker.queue("mail").publish("x")
        assert findings(run)["inodes"]["severity"] == "warning"
        (store / "lost+found").mkdir()
        with pytest.raises(OSError, match="No space left"):
            for number in range(60):
                (store / "lost+found" / str(number)).touch()
        assert findings(run)["inodes"]["severity"] == "error"


@pytest.mark.parametrize("left, says", [(None, "is missing"), (4096, "is short")])
def test_a_reserve_that_is_missing_or_short(
    run: Run, store: Path, filled: list[int], left: int | None, says: str
) -> None:
    if left is None:
        (store / "reserve").unlink()
    else:
        os.truncate(store / "reserve", left)
    found = findings(run)["reserve"]
    assert found["severity"] == "warning" and says in found["what"]
    with mq.open(store):
        pass
    assert "reserve" not in findings(run)


def test_a_backup_that_was_never_opened_needs_no_reserve(run: Run, store: Path, filled: list[int]) -> None:
    store.rename("original")
    run("-s", "original", "backup", "data")
    assert names_of(findings(run)) == set()


def test_garbage(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cleaning, "is_due", lambda self: False)
    with mq.open(store, sync="never", segment_bytes=4096) as broker:
        for _ in range(50):
            broker.queue("mail").publish("x" * 1000)
        assert "garbage" not in findings(run)
        broker.queue("mail").purge()
    assert findings(run)["garbage"]["severity"] == "note"


# ── the clock ──────────────────────────────────────────────────────────────────────


WALL = """
real = time.time_ns
time.time_ns = lambda: real() + {seconds} * 1_000_000_000
hold(lambda broker: broker.queue("mail").publish("x"))
"""


def test_a_clock_that_was_never_set(run: Run, filled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    assert findings(run)["clock-unset"]["severity"] == "error"


def test_a_store_from_the_future(run: Run, store: Path) -> None:
    with mq.open(store, clock=lambda: time.time() + 6 * 3600) as broker:
        broker.queue("mail").publish("x")
        assert findings(run)["clock-custom"]["severity"] == "note"
    found = findings(run)["clock-behind"]
    assert found["severity"] == "warning" and "clock is 6.0 h behind" in found["what"]


@pytest.mark.parametrize("seconds, name, says", [
    (-86_400, "clock-jumped", "set forward by 24.0 h"), (3600, "clock-behind", "is 60.0 min behind"),
])  # fmt: skip
def test_a_clock_that_jumped(run: Run, store: Path, hold: Hold, seconds: int, name: str, says: str) -> None:
    hold(WALL.format(seconds=seconds))
    found = findings(run)[name]
    assert found["severity"] == "warning" and says in found["what"]


def test_store_time_that_is_not_the_clocks(run: Run, store: Path, hold: Hold) -> None:
    made = hold(WALL.format(seconds=-86_400))
    assert made.communicate("")
    with mq.open(store) as broker:
        broker.queue("mail").publish("y")
    found = findings(run)
    assert (
        not {"clock-jumped", "clock-behind"} & set(found)
        and "24.0 h behind the clock" in found["store-time"]["what"]
    )


@needs_root
def test_a_process_in_another_time_namespace(run: Run, filled: list[int], hold: Hold) -> None:
    unshare = ("unshare", "--time", "--monotonic", "100000")
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system has no time namespaces")
    hold(before=unshare)
    assert findings(run)["timespace"]["severity"] == "warning"


# ── the file system ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("line, name, severity", [
    ("rw - nfs4 server:/x rw", "network", "error"),
    ("rw - fuse.sshfs x rw", "network", "error"),
    ("rw - overlay x rw", "overlay", "note"),
    ("rw - vfat /dev/sdb1 rw", "file-system", "note"),
    ("rw - ext4 /dev/sdb1 rw,nobarrier", "no-barrier", "warning"),
    ("rw - ext4 /dev/sdb1 rw,barrier=0,data=ordered", "no-barrier", "warning"),
    ("ro,noatime - xfs /dev/sdb1 rw", "read-only", "error"),
    ("rw - xfs /dev/sdb1 ro", "read-only", "error"),
])  # fmt: skip
def test_a_mount_as_the_kernel_tells_it(
    run: Run, store: Path, filled: list[int], monkeypatch: pytest.MonkeyPatch, line: str, name: str,
    severity: str,
) -> None:  # fmt: skip
    told = proc._told
    lines = f"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / {store.resolve()} {line}\n"
    monkeypatch.setattr(
        proc, "_told", lambda path: lines.encode() if path.endswith("mountinfo") else told(path)
    )
    found = findings(run)
    assert found[name]["severity"] == severity and names_of(found) <= {name}


@needs_root
def test_a_store_that_is_mounted_read_only(run: Run, filled: list[int]) -> None:
    mount = "mount --bind data data && mount -o remount,ro,bind data && exec "
    command = [sys.executable, "-m", "mq", "doctor", "--json"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount + '"$@"', "sh", *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not done.stdout:
        pytest.skip("this system lets nobody mount here")
    found = {json.loads(line).get("name") for line in done.stdout.splitlines()}
    assert done.returncode == 1 and found - {"overlay", "disk-low"} == {"read-only", None}


def test_a_log_on_another_file_system(run: Run, store: Path, filled: list[int]) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or proc.file_system(str(shm)) != "tmpfs" or proc.file_system(".") == "tmpfs":
        pytest.skip("there is no other file system here")
    place = shm / f"mq-doctor-{os.getpid()}"
    try:
        shutil.move(store / "log", place)
        (store / "log").symlink_to(place)
        found = findings(run)
        assert found["log-elsewhere"]["severity"] == found["in-memory"]["severity"] == "warning"
    finally:
        shutil.rmtree(place)


# ── limits ─────────────────────────────────────────────────────────────────────────


LIMITED = "hold(lambda broker: resource.setrlimit(resource.{name}, ({limit}, resource.RLIM_INFINITY)))"
SPACE = "int(int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() * 1.05)"
FILES = "len(os.listdir('/proc/self/fd')) + 5"


@pytest.mark.parametrize(
    "limit, value, name",
    [("RLIMIT_FSIZE", "1 << 20", "file-length"), ("RLIMIT_AS", SPACE, "memory")],
)
def test_a_process_under_a_limit(
    run: Run, filled: list[int], hold: Hold, limit: str, value: str, name: str
) -> None:
    process = hold(LIMITED.format(name=limit, limit=value))
    found = findings(run)[name]
    assert (found["severity"], found["pid"]) == ("warning", process.pid)


def test_a_process_that_has_no_descriptors_left(run: Run, filled: list[int], hold: Hold) -> None:
    soft = LIMITED.format(name="RLIMIT_NOFILE", limit=FILES).replace(
        "resource.RLIM_INFINITY", "resource.getrlimit(resource.RLIMIT_NOFILE)[1]"
    )
    process = hold(soft)
    assert findings(run)["descriptors"]["pid"] == process.pid


def test_a_shell_under_a_limit(run: Run, filled: list[int]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        found = findings(run)["file-length"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found["pid"] is None and "1.0 MiB" in found["what"]


@needs_root
def test_a_process_whose_control_group_is_full(run: Run, filled: list[int], hold: Hold) -> None:
    group = Path(f"/sys/fs/cgroup/memory/mq-doctor-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(48 << 20))
    except OSError:
        pytest.skip("this system has no control groups of the first kind")
    try:
        process = hold(f"""
open("{group}/cgroup.procs", "w").write(str(os.getpid()))
held = bytearray()
def fill(broker):
    stat = lambda: dict(row.split() for row in open("{group}/memory.stat"))
    while int(stat()["total_rss"]) < 0.93 * (48 << 20):
        held.extend(os.urandom(1 << 18))
hold(fill)
""")
        found = findings(run)["memory"]
        assert found["pid"] == process.pid and "control group" in found["what"]
        process.kill()
        process.wait()
    finally:
        group.rmdir()
