"""The file system that the store is on, and how it is mounted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mq.cli.checks.finding import Finding
from mq.cli.checks.subject import Subject
from mq.storage import paths, proc
from mq.storage.network import Mount, is_network

TRIED: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"})
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
NO_BARRIER: Final = frozenset({"nobarrier", "barrier=0"})


def check(subject: Subject) -> Iterator[Finding]:
    own, log = proc.mount(subject.path), proc.mount(paths.log(subject.path))
    if own:
        yield from _check(own, subject.path)
    if own and log and log != own:
        yield from _check(log, paths.log(subject.path))
        yield Finding(
            "log-elsewhere", "warning",
            f"the log is on another file system ({log.place}) than the reserve: when that is full, deliveries"
            " and acks may be refused", "keep all of the store on one file system",
            paths.log(subject.path),
        )  # fmt: skip


def _check(mount: Mount, path: str) -> Iterator[Finding]:
    if is_network(mount.kind):
        yield Finding(
            "network", "error",
            f"on a network file system ({mount.kind}), where locks keep no process out: it is refused",
            "move the store to a disk of this computer", path,
        )  # fmt: skip
    elif mount.kind in IN_MEMORY:
        yield Finding(
            "in-memory", "warning", f"on a file system in memory ({mount.kind}): a restart loses all of it",
            "use a directory on a disk, unless nothing in it has to last", path,
        )  # fmt: skip
    elif mount.kind == "overlay":
        yield Finding(
            "overlay", "note", "in the file system of a container (overlay): it goes when the container does",
            "mount a volume there, unless nothing in it has to last", path,
        )  # fmt: skip
    elif mount.kind not in TRIED:
        yield Finding(
            "file-system", "note",
            f"on {mount.kind}, where mq was not tried: it is safe if that keeps what it has synced",
            "use ext4, xfs, btrfs, zfs or f2fs if you can choose", path,
        )  # fmt: skip
    if "ro" in mount.options:
        yield Finding(
            "read-only", "error", f"{mount.place} is mounted read-only: nothing can be published or received",
            f"look why (`dmesg`): a disk that fails is mounted so; `mount -o remount,rw {mount.place}`", path,
        )  # fmt: skip
    if mount.options & NO_BARRIER:
        yield Finding(
            "no-barrier", "warning",
            f"{mount.place} is mounted without barriers: a power cut may take what was synced",
            "mount it without `nobarrier`, unless the disk has a battery for its cache", path,
        )  # fmt: skip
