"""What Linux says in /proc: where a file is mounted, which processes lock it, which boot this is."""

from __future__ import annotations

import os
from contextlib import suppress

from . import network


def file_system(path: str) -> str:
    """What is mounted where *path* is; "" if the system does not say."""
    found = mount(path)
    return found.kind if found else ""


def mount(path: str) -> network.Mount | None:
    """The same, with its options; None if the system does not say."""
    try:
        return network.mount_at(os.path.realpath(path), os.fsdecode(_told("/proc/self/mountinfo")))
    except OSError:  # not Linux, or no /proc
        return None


def lockers(file: os.stat_result) -> list[int]:
    """The processes that have the lock of *file*; OSError if the system does not say."""
    rows = [line.split() for line in _told("/proc/locks").decode().splitlines()]
    inode = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    return sorted({int(row[4]) for row in rows if row[1] == "FLOCK" and row[5] == inode})


def clocks() -> tuple[int, int]:
    """The boot, and the time namespace of this process; 0 for what the system does not say."""
    boot = space = 0
    with suppress(OSError, ValueError):
        told = _told("/proc/sys/kernel/random/boot_id")
        boot = int(told.strip().replace(b"-", b""), 16) % (1 << 64)
    with suppress(OSError):
        space = os.stat("/proc/self/ns/time").st_ino
    return boot, space


def whereabouts(fd: int) -> str:
    """The path of the file that the descriptor is of; "" if the system does not say."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def command_of(pid: int) -> str | None:
    """What a process was started with, if the system says."""
    with suppress(OSError):
        words = _told(f"/proc/{pid}/cmdline").rstrip(b"\0").split(b"\0")
        return b" ".join(words).decode(errors="backslashreplace") or None
    return None


def _told(path: str) -> bytes:
    """What the system says in a file of /proc.

    Bytes: to read text in an encoding Python imports a module, and that cannot be had any more in a
    program that has changed its root or its user, or has no descriptor left.
    """
    with open(path, "rb") as file:
        return file.read()
