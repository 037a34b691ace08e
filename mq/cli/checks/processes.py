"""The processes that have the store open: is one of them stopped, stuck, dead, or of another world?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from mq.cli import output
from mq.cli.checks.finding import Finding
from mq.cli.checks.subject import Subject
from mq.storage import paths, shared
from mq.storage.bias import inside
from mq.storage.disk import Disk, Patience
from mq.storage.proc import command_of
from mq.storage.standing import fingerprint_at

STUCK_SECONDS: Final = 1.0  # a turn takes microseconds; one that cleans, some milliseconds
NAP_SECONDS: Final = 0.01
COMMAND_COLUMNS: Final = 60
STOPPED: Final = frozenset("Tt")  # by a signal; by a debugger


class Turn(NamedTuple):
    """Which process has the turn, by LOCK or as the owner, if one has it."""

    is_taken: bool
    pid: int | None
    slot: int = -1
    """Of the owner, if it is inside without LOCK."""


def check(subject: Subject) -> Iterator[Finding]:
    words, stopped = subject.words(), [pid for pid in subject.pids if state_of(pid) in STOPPED]
    if words[shared.KEY]:
        yield from _check_page(subject, words)
        yield from _check_dead(subject, words)
    turn = _stuck_turn(subject)
    if turn:
        yield _stuck(subject, turn)
    for pid in stopped:
        if turn is None or turn.pid != pid:
            yield Finding(
                "stopped", "warning",
                f"{named(pid)} is stopped: what it holds comes back by its visibility timeouts only",
                f"`kill -CONT {pid}` lets it go on; `kill {pid}` ends it", subject.path, pid=pid,
            )  # fmt: skip


def state_of(pid: int) -> str:
    """As ps shows it: R, S, D, T, …; "" if the system does not say."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    return ""


def named(pid: int | None) -> str:
    if pid is None:
        return "a process that the system does not name (in another container, perhaps)"
    command = command_of(pid)
    return f"process {pid}" + (f" ({output.excerpt(command, COMMAND_COLUMNS)})" if command else "")


# ── the turn ───────────────────────────────────────────────────────────────────────


def _stuck_turn(subject: Subject) -> Turn | None:
    """The one turn that lasted for all of STUCK_SECONDS, if it was one."""
    patience = Patience(STUCK_SECONDS)
    first = turn = _turn(subject)
    end = subject.words()[shared.END]
    while turn.is_taken and turn == first and subject.words()[shared.END] == end:
        if patience.is_over():
            return turn
        time.sleep(NAP_SECONDS)
        turn = _turn(subject)
    return None


def _turn(subject: Subject) -> Turn:
    disk, words = subject.disk, subject.words()
    holder = words[shared.HOLDER] % shared.KEPT or None
    lock = paths.lock(subject.path)
    if disk.exists(lock) and _is_locked(disk, lock):
        known = disk.lockers(lock)
        return Turn(True, holder if holder in known or not known else known[0])
    slot = words[shared.BIAS] % shared.ASKED - 1
    if 0 <= slot < shared.SLOTS and words[inside(slot)] and _has_slot(subject, slot):
        return Turn(True, holder, slot)
    return Turn(False, None)


def _is_locked(disk: Disk, path: str) -> bool:
    """Whether a process has the lock of the file."""
    return _is_held(disk, disk.open(path))


def _is_held(disk: Disk, fd: int) -> bool:
    """Whether a process has the lock of *fd*; it is tried, and let go of at once, and *fd* closed."""
    try:
        if not disk.lock(fd, shared=True):
            return True
        disk.unlocker(fd)()
        return False
    finally:
        disk.close(fd)


def _has_slot(subject: Subject, slot: int) -> bool:
    """Whether the process with this slot lives."""
    fd = subject.disk.open(paths.mark(subject.path))
    try:
        return subject.disk.byte_is_locked(fd, slot)
    finally:
        subject.disk.close(fd)


def _stuck(subject: Subject, turn: Turn) -> Finding:
    words, pid = subject.words(), turn.pid
    state = state_of(pid) if pid else ""
    name, path = named(pid), paths.lock(subject.path)
    if words[shared.HOLDER] & shared.KEPT and state not in STOPPED:
        return Finding(
            "exclusive", "note", f"{name} has the store open with exclusive=True: no other process may write",
            "nothing needs to be done: it lets go when it closes the store", path, pid=pid,
        )  # fmt: skip
    if words[shared.RECOVERING] and state not in STOPPED:
        return Finding(
            "recovering", "warning", f"{name} opens the store and recovers it: the others wait",
            "wait: after a crash, that takes as long as to read the log", path, pid=pid,
        )  # fmt: skip
    if state in STOPPED:
        why, advice = "is stopped", f"`kill -CONT {pid}` lets it go on; `kill -9 {pid}` ends it, and the"
        advice += " others go on"
    elif state == "D":
        why, advice = "waits for the disk", "look whether the disk hangs (`dmesg`); it goes on when that does"
    else:
        why = "does not leave it"
        advice = "see what it does; ended with `kill -9`, it loses nothing, and the others go on"
    return Finding(
        "stuck", "error", f"{name} has the turn, and {why}: no process publishes, receives or acks", advice,
        path, pid=pid,
    )  # fmt: skip


# ── the page ───────────────────────────────────────────────────────────────────────


def _check_page(subject: Subject, words: list[int]) -> Iterator[Finding]:
    path = paths.mark(subject.path)
    if not subject.held:
        return
    others = ", ".join(map(str, subject.pids)) or "in all containers"
    if words[shared.FAILED]:
        yield Finding(
            "failed", "error",
            "a write or a sync failed: no process goes on with the store until all have closed it",
            f"check the disk (`dmesg`), then end the processes that have it open ({others}), and open it"
            " again", path,
        )  # fmt: skip
    if words[shared.VERSION] != shared.PAGE_VERSION and not words[shared.RECOVERING]:
        yield Finding(
            "page-version", "error",
            f"it is open in a process of another mq, whose page has version {words[shared.VERSION] or 1}",
            "use the same mq in all processes, or close the store there first", path,
        )  # fmt: skip
    elif words[shared.FILES] and words[shared.FILES] != fingerprint_at(subject.disk, subject.path):
        yield Finding(
            "replaced", "error",
            "files of the store were deleted or replaced while it is open: what its processes write now"
            " goes to the old files", f"close the store in all processes ({others}), then open it again",
            subject.path,
        )  # fmt: skip


def _check_dead(subject: Subject, words: list[int]) -> Iterator[Finding]:
    """What processes that died have left on the page."""
    # Twice: one that lives has left its turn meanwhile, perhaps, and appended nothing since.
    is_half_done = _is_half_done(subject, words) and _is_half_done(subject, subject.words())
    if is_half_done and subject.words()[shared.END] == words[shared.END]:
        yield Finding(
            "died-inside", "note", "a process died in the middle of an operation",
            "nothing needs to be done: the next operation finishes it, or leaves it out",
            paths.mark(subject.path),
        )  # fmt: skip
    if bells := _deaf(subject, words):
        yield Finding(
            "died-waiting", "note",
            f"{output.count(len(bells), 'process', 'processes')} died while waiting for messages",
            "nothing needs to be done: the next one that waits takes its place", bells[0],
        )  # fmt: skip


def _is_half_done(subject: Subject, words: list[int]) -> bool:
    """Whether an operation has begun that no process is inside of."""
    slot = words[shared.BIAS] % shared.ASKED - 1
    was_owner = 0 <= slot < shared.SLOTS and words[inside(slot)] and not _has_slot(subject, slot)
    return bool(was_owner or (words[shared.DIRTY] and not _turn(subject).is_taken))


def _deaf(subject: Subject, words: list[int]) -> list[str]:
    """Pipes that are to be rung, and at which no process listens."""
    if not subject.held:
        return []
    asleep = words[shared.ASLEEP]
    for word in range(shared.WAITS, shared.WAITS + shared.WAITS_WORDS):
        asleep |= words[word]
    found = []
    for slot in range(shared.SLOTS):
        path = paths.of(paths.bells(subject.path), str(slot))
        if asleep >> slot & 1 and subject.disk.exists(path) and not _is_heard(subject.disk, path):
            found.append(path)
    return found


def _is_heard(disk: Disk, path: str) -> bool:
    """Whether a process listens at the pipe."""
    try:
        fd = disk.open_fifo(path)
    except OSError:  # not for this account to open
        return True
    return _is_held(disk, fd)
