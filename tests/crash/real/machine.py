"""What this machine lets a test do to a disk: mount one, cut its power, fill it up, give it bad blocks.

    own mount namespace                    seen by this process and those it starts, and by no other
      └─ a tmpfs                           everything below is in memory
           ├─ ext4.img, xfs.img, …         sparse; each on a loop device that goes with its mount
           └─ ext4/, xfs/, …               mounted there

When the last process of the namespace dies, killed or not, the kernel takes down mounts,
loop devices and images: nothing of this can be left on the machine but an empty directory.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from contextlib import suppress
from enum import IntEnum
from functools import cache
from types import TracebackType
from typing import Final, Self

SHUTDOWN: Final = 0x8004587D  # FS_IOC_SHUTDOWN: _IOR('X', 125, __u32), the same for ext4 and xfs
FIEMAP: Final = 0xC020660B
CLONE_NEWNS: Final = 0x20000
PUNCH_HOLE: Final = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
TMPFS_BYTES: Final = 1 << 30  # a bound; what is not written takes no memory
PATIENCE_SECONDS: Final = 60.0
SIZES: Final = {"ext4": 64 << 20, "xfs": 300 << 20}  # mkfs.xfs refuses less
# Blocks as on a disk of usual size; and no zeroing of tables later, behind our back, which
# would give room in the image back.
OPTIONS: Final = {"ext4": ("-b", "4096", "-E", "lazy_itable_init=0")}
PACKAGES: Final = {"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "gcc": "gcc", "strace": "strace"}


class Cut(IntEnum):
    """How a file system goes down.  See the table in this package's head."""

    ALL_FLUSHED = 0
    LOG_FLUSHED = 1
    NOTHING_FLUSHED = 2


def lacking(*tools: str) -> str:
    """What is missing here of *tools* (programs, or "mount"), and what to do; "" if nothing is."""
    for tool in tools:
        if tool == "mount":
            if reason := cannot_mount():
                return reason
        elif not find(tool):
            return f"no {tool} here (apt-get install {PACKAGES.get(tool, tool)})"
    return ""


def find(tool: str) -> str | None:
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@cache
def cannot_mount() -> str:
    """Why no file system can be mounted here; "" if it can.  Tries it, once."""
    if os.name != "posix" or not hasattr(os, "geteuid") or not os.path.exists("/proc/self/ns/mnt"):
        return "file systems can be mounted on Linux only"
    if os.geteuid() != 0:
        return "mounting file systems takes root"
    if reason := lacking("mkfs.ext4"):
        return reason
    try:
        with Image("ext4", "probe"):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no file system can be mounted here: {error}"


@cache
def base() -> str:
    """The tmpfs in the namespace of our own; made on first use."""
    directory = tempfile.mkdtemp(prefix="mq-real-")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        os.rmdir(directory)
        raise OSError(ctypes.get_errno(), "a mount namespace of our own was refused")
    # Ours are not to be seen outside; what others mount may still come in, and go.
    run("mount", "--make-rslave", "/")
    run("mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "mq-real", directory)
    atexit.register(_take_down, directory, os.getpid())
    return directory


def _take_down(directory: str, owner: int) -> None:
    if os.getpid() == owner:
        subprocess.run(["umount", "--lazy", directory], check=False)
        with suppress(OSError):
            os.rmdir(directory)


def run(*command: str) -> None:
    done = subprocess.run([find(command[0]) or command[0], *command[1:]], capture_output=True, text=True)
    if done.returncode:
        raise OSError(errno.EIO, f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


class Image:
    """A file system in a file, mounted at `path`."""

    def __init__(self, kind: str, name: str, size: int = 0, where: str = "") -> None:
        self.kind = kind
        where = where or base()
        self.file, self.path = os.path.join(where, f"{name}.img"), os.path.join(base(), name)
        with open(self.file, "wb") as image:
            image.truncate(size or SIZES[kind])
        run(f"mkfs.{kind}", "-q", *OPTIONS.get(kind, ()), self.file)
        os.makedirs(self.path, exist_ok=True)
        self.mounted = False
        self.mount()

    def mount(self) -> None:
        run("mount", "-t", self.kind, "-o", "loop", self.file, self.path)
        self.mounted = True

    def unmount(self, patience: float = PATIENCE_SECONDS) -> None:
        if self.mounted:
            give_up = time.monotonic() + patience
            while True:  # a process that was killed may still hold something for a moment
                try:
                    run("umount", self.path)
                    break
                except OSError:
                    if time.monotonic() > give_up:
                        raise
                    time.sleep(0.01)
            self.mounted = False

    def free_bytes(self) -> int:
        now = os.statvfs(self.path)
        return now.f_bavail * now.f_frsize

    def cut(self, how: Cut) -> None:
        """From here on every call on it fails, and what is not on the disk never gets there."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.unmount(0.0)
        except OSError:  # a store that was killed in this process still has its files mapped
            subprocess.run(["umount", "--lazy", self.path], check=False)
        os.unlink(self.file)


class WeakDisk:
    """A file system whose disk can lose the ability to write some of its blocks, and get it back.

    The image is all there, in a tmpfs of its own, but for those blocks: they are holes,
    and the tmpfs has no room left.  So writing there is an I/O error, as it is on a disk
    with no spare sectors, and the kernel does what it does then.

    But the loop device takes a write that is cut short for a whole one, so one that
    begins on good blocks and ends on bad ones would be reported as done.
    """

    def __init__(self, kind: str, name: str) -> None:
        self._where = os.path.join(base(), f"{name}-disk")
        os.makedirs(self._where, exist_ok=True)
        size = SIZES[kind]
        run("mount", "-t", "tmpfs", "-o", f"size={2 * size}", "mq-real", self._where)
        self._size = size
        try:
            self.image = Image(kind, name, where=self._where)
        except BaseException:
            run("umount", "--lazy", self._where)
            raise

    def fail(self, path: str, start: int) -> None:
        """Nothing of the file at *path* from *start* on, where a page begins, can be written to the disk."""
        assert start % 4096 == 0
        with open(self.image.file, "r+b") as disk:
            os.posix_fallocate(disk.fileno(), 0, self._size)
            for logical, physical, length in extents(path):
                skipped = max(0, start - logical)
                if skipped < length:
                    punch_hole(disk.fileno(), physical + skipped, length - skipped)
        used = os.statvfs(self._where)
        taken = (used.f_blocks - used.f_bfree) * used.f_frsize
        run("mount", "-o", f"remount,size={taken}", self._where)

    def heal(self) -> None:
        run("mount", "-o", f"remount,size={2 * self._size}", self._where)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.heal()
            self.image.__exit__(None, None, None)
        finally:
            subprocess.run(["umount", "--lazy", self._where], check=False)


def punch_hole(fd: int, offset: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(size)):
        raise OSError(ctypes.get_errno(), "fallocate")


def extents(path: str) -> list[tuple[int, int, int]]:
    """Where the file's bytes are: offset in the file, offset on the disk, length."""
    head, each = struct.Struct("QQIIII"), struct.Struct("QQQQQIIII")
    count = 256
    buffer = bytearray(head.pack(0, (1 << 64) - 1, 0, 0, count, 0) + bytes(each.size * count))
    with open(path, "rb") as file:
        fcntl.ioctl(file.fileno(), FIEMAP, buffer)
    found = head.unpack_from(buffer)[3]
    return [each.unpack_from(buffer, head.size + index * each.size)[:3] for index in range(found)]


def forget_pages(path: str) -> None:
    """Drop what the kernel has of the file in memory and takes for clean."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
