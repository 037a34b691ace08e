"""Room on the disk, the reserve that is kept back of it, and what could be given back.

Free room is what the file system says that this account has: that counts the quota of a project or of
a data set, and not that of a user, which no call tells without its tools (`quota -s`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import mq
from mq.cli import output
from mq.cli.checks.finding import Finding
from mq.cli.checks.subject import Subject
from mq.engine import pressure
from mq.storage import paths
from mq.storage.reserve import Reserve
from mq.storage.rotation import ALLOCATE_BYTES

SEGMENT_BYTES: Final = 64 << 20  # where the store does not say
INODES: Final = 100  # a store makes a file for each segment and checkpoint
GARBAGE_SEGMENTS: Final = 4  # beyond twice what lives: the cleaner starts before


def check(subject: Subject) -> Iterator[Finding]:
    free = _free(subject)
    yield from _check_disk(subject, free)
    yield from _check_inodes(subject)
    is_made = subject.newest() and subject.disk.exists(paths.mark(subject.path))
    if subject.broker and is_made:  # else no process has opened it yet
        yield from _check_reserve(subject, subject.broker, free)
        yield from _check_garbage(subject, subject.broker)


def _free(subject: Subject) -> int:
    found = os.statvfs(_log(subject))
    return found.f_bavail * found.f_frsize


def _log(subject: Subject) -> str:
    """What is to be written to may be on another file system than the store's directory."""
    log = paths.log(subject.path)
    return log if subject.disk.exists(log) else subject.path


def _capacity(subject: Subject) -> int:
    """Of the segment in use; of the first one, if there is none yet."""
    newest = subject.newest()
    return newest.capacity if newest else SEGMENT_BYTES


def _check_disk(subject: Subject, free: int) -> Iterator[Finding]:
    path = _log(subject)
    capacity = _capacity(subject)
    if free < ALLOCATE_BYTES:
        yield Finding(
            "disk-full", "error", f"the disk is full ({output.size(free)} free): publishes are refused",
            "free some space there, or receive and ack: that goes on, and gives room back", path,
        )  # fmt: skip
    elif free < capacity:
        yield Finding(
            "disk-low", "warning", f"the disk has {output.size(free)} free: less than a segment takes",
            "free some space there before it is full; `mq compact --dry-run` says what the store would give",
            path,
        )  # fmt: skip


def _check_inodes(subject: Subject) -> Iterator[Finding]:
    found, path = os.statvfs(_log(subject)), _log(subject)
    if not found.f_files or found.f_favail >= INODES:  # some file systems have no fixed number of them
        return
    severity, ends = ("warning", "soon") if found.f_favail else ("error", "now")
    yield Finding(
        "inodes", "error" if severity == "error" else "warning",
        f"the file system has {output.count(found.f_favail, 'file')} (inodes) left: {ends} no segment can be"
        " begun", "remove files there that are not needed: many small ones, most likely", path,
    )  # fmt: skip


def _check_reserve(subject: Subject, broker: mq.Broker, free: int) -> Iterator[Finding]:
    state, path = broker._store.replica.state, paths.reserve(subject.path)
    there = Reserve(subject.disk, path).size()
    needed = pressure.least_for_copies(state.total())
    if there >= needed:
        return
    what = "is missing" if there == 0 else f"is short ({output.size(there)} of {output.size(needed)})"
    if free < needed - there:
        yield Finding(
            "reserve", "error",
            f"the reserve {what}, and the disk has no room for it: deliveries and acks may be refused",
            "free some space there", path,
        )  # fmt: skip
    else:
        yield Finding(
            "reserve", "warning", f"the reserve {what}: on a full disk, deliveries and acks might be refused",
            "leave the file alone: the next opening, or publish, makes it again", path,
        )  # fmt: skip


def _check_garbage(subject: Subject, broker: mq.Broker) -> Iterator[Finding]:
    found, capacity = broker.stats(), _capacity(subject)
    garbage = found.disk_bytes - found.live_bytes
    if garbage > found.live_bytes + GARBAGE_SEGMENTS * capacity:
        yield Finding(
            "garbage", "note",
            f"{output.size(garbage)} of {output.size(found.disk_bytes)} is garbage: the cleaner is behind",
            "a process that has it open gives it back; `mq compact` does so at once", _log(subject),
        )  # fmt: skip
