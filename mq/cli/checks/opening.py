"""Does the store open, and how quickly?"""

from __future__ import annotations

from collections.abc import Iterator

from mq.cli.checkpoints import unusable
from mq.cli.checks.finding import Finding
from mq.cli.checks.subject import Subject
from mq.errors import CorruptStore, StoreLocked, Unsupported
from mq.storage import paths, shared
from mq.storage.recovery import Verdict


def check(subject: Subject) -> Iterator[Finding]:
    yield from _check_problem(subject)
    if subject.broker and not subject.held:
        yield from _check_verdict(subject)
    if subject.identity:
        upto = subject.words()[shared.END] if subject.held else shared.NO_LIMIT
        for path in unusable(subject.disk, subject.path, subject.identity.key, upto):
            yield Finding(
                "checkpoint", "warning",
                "a checkpoint cannot be used: opening takes longer, and nothing is lost",
                "nothing needs to be done: the next checkpoint takes its place", path,
            )  # fmt: skip


def _check_problem(subject: Subject) -> Iterator[Finding]:
    error = subject.problem
    if error is None:
        return
    path = getattr(error, "path", subject.path)
    if _is_begun(subject):
        yield _cut_off(subject, "it is no store yet")
    elif _lost_its_format(subject):
        yield Finding(
            "format-missing", "error", "FORMAT is missing, and there is a log: the store does not open",
            "restore FORMAT from a copy, or let `mq repair` write it again",
            paths.format_file(subject.path),
        )  # fmt: skip
    elif isinstance(error, CorruptStore):
        yield Finding(
            "corrupt", "error", f"the store is corrupt, and does not open: {error}",
            "`mq verify` says what is damaged; `mq repair --dry-run`, what a repair would cost", path,
        )  # fmt: skip
    elif isinstance(error, StoreLocked):
        yield Finding(
            "locked", "error", f"the store cannot be looked into: {error}",
            "wait for that process, or see what it does", path, pid=error.pid,
        )  # fmt: skip
    else:
        what = "is not for this mq" if isinstance(error, Unsupported) else "does not open"
        yield Finding("unopened", "error", f"the store {what}: {error}", "do what the error says", path)


def _cut_off(subject: Subject, what: str) -> Finding:
    return Finding(
        "creation", "warning", f"its creation was cut off: {what}, and holds no message",
        "open it, or publish to it: its creation goes on", subject.path,
    )  # fmt: skip


def _is_begun(subject: Subject) -> bool:
    """Whether there is only what a creation makes before it makes a store."""
    disk, path = subject.disk, subject.path
    if disk.exists(paths.format_file(path)) or not set(disk.names(path)) - {"lost+found"} <= paths.NAMES:
        return False
    return not _bases(subject)


def _lost_its_format(subject: Subject) -> bool:
    return not subject.disk.exists(paths.format_file(subject.path)) and bool(_bases(subject))


def _bases(subject: Subject) -> list[int]:
    log = paths.log(subject.path)
    return paths.segment_bases(subject.disk.names(log)) if subject.disk.exists(log) else []


def _check_verdict(subject: Subject) -> Iterator[Finding]:
    """What the last process left; no process has the store open now."""
    assert subject.broker
    replica, newest = subject.broker._store.replica, subject.newest()
    if newest is None:
        yield _cut_off(subject, "it has no log yet")
        return
    if replica.verdict is Verdict.TORN:
        what, cost = "a crash cut off what was not synced yet", "the next opening leaves it out"
    elif replica.verdict is Verdict.OPEN and subject.words()[shared.KEY]:
        what, cost = "the last process did not close the store", "nothing is missing"
    else:
        return
    last = replica.log.reader.path(newest)
    yield Finding(
        "unclosed", "note", f"{what}: {cost}", "nothing needs to be done: the next opening recovers it",
        last,
    )  # fmt: skip
