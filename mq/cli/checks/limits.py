"""What the system lets the store's processes have: descriptors, long files, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from mq.cli import output
from mq.cli.checks.finding import Finding
from mq.cli.checks.processes import named
from mq.cli.checks.subject import Subject
from mq.engine.bodies import BODY_BYTES_MAX
from mq.storage.segment import HEADER_BYTES

DESCRIPTORS: Final = 16  # that a store takes, beside a pipe for each process that waits
FULL: Final = 0.9  # of a limit
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
NAMES: Final = {"files": "Max open files", "length": "Max file size", "space": "Max address space"}


class Limits(NamedTuple):
    """Of one process; None: no limit, or not known."""

    files: int | None
    length: int | None
    space: int | None


def check(subject: Subject) -> Iterator[Finding]:
    for pid in subject.pids:
        yield from _check(subject, pid, named(pid), subject.path)
    yield from _check(subject, os.getpid(), "this shell", "")


def _check(subject: Subject, pid: int, name: str, path: str) -> Iterator[Finding]:
    limits, used = _limits(pid), _descriptors(pid)
    about = pid if path else None
    if limits.files is not None and limits.files - used < DESCRIPTORS:
        yield Finding(
            "descriptors", "warning",
            f"{name} has {used:,} of {limits.files:,} descriptors open: it may be refused one for the store",
            "raise the limit (`ulimit -n`, or LimitNOFILE= of a unit), or look for a leak", path, pid=about,
        )  # fmt: skip
    if limits.length is not None and limits.length < BODY_BYTES_MAX + HEADER_BYTES:
        yield Finding(
            "file-length", "warning",
            f"{name} may write no file longer than {output.size(limits.length)}: it refuses messages that are"
            " longer, and makes more segments", "raise the limit (`ulimit -f`, or LimitFSIZE= of a unit)",
            path, pid=about,
        )  # fmt: skip
    for used_bytes, limit, what, advice in _memory(pid, limits):
        if used_bytes > FULL * limit:
            yield Finding(
                "memory", "warning",
                f"{name} has {output.size(used_bytes)} of {output.size(limit)} {what}: it may be refused"
                " more, or be ended", advice, path, pid=about,
            )  # fmt: skip


def _limits(pid: int) -> Limits:
    """As /proc tells them: a line has a name, the limit in force, the highest that may be asked for."""
    text = ""
    with suppress(OSError):  # another account's process
        text = Path(f"/proc/{pid}/limits").read_text()
    found: dict[str, int | None] = dict.fromkeys(NAMES)
    for line in text.splitlines():
        for key, name in NAMES.items():
            if line.startswith(name):
                soft = line.removeprefix(name).split()[0]
                found[key] = None if soft == "unlimited" else int(soft)
    return Limits(**found)


def _descriptors(pid: int) -> int:
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def _memory(pid: int, limits: Limits) -> Iterator[tuple[int, int, str, str]]:
    """What it uses, of how many bytes, of which kind, and how to have more."""
    if limits.space is not None:
        with suppress(OSError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
            yield pages * PAGE_BYTES, limits.space, "of address space", "raise the limit (`ulimit -v`)"
    if found := _of_group(pid):
        yield *found, "of memory in its control group", "give the container, or the unit, more memory"


def _of_group(pid: int) -> tuple[int, int] | None:
    """What a process and those limited with it use, without files in memory, and how much they may."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if not kinds:
            group, limit, key = Path(f"/sys/fs/cgroup{place}"), "memory.max", "anon"
        elif "memory" in kinds.split(","):
            group, limit, key = Path(f"/sys/fs/cgroup/memory{place}"), "memory.limit_in_bytes", "total_rss"
        else:
            continue
        with suppress(OSError, ValueError):  # "max": there is no limit
            stat = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
            return int(stat[key]), int((group / limit).read_text())
    return None
