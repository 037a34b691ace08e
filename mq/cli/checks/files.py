"""The files of the store: strangers, leftovers, copies, and what is no file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from mq.cli import output
from mq.cli.checks.finding import Finding
from mq.cli.checks.subject import Subject
from mq.engine.listener import SLOTS
from mq.errors import MqError
from mq.storage import irregular, paths, shared

NAMED_MAX: Final = 3
FILES: Final = frozenset({paths.FORMAT, paths.LOCK, paths.CLEANER, paths.MARK, paths.RESERVE})
DIRECTORIES: Final = frozenset({paths.LOG, paths.CHECKPOINT, paths.WAKE, paths.QUARANTINE})


def check(subject: Subject) -> Iterator[Finding]:
    yield from _check_kinds(subject)
    yield from _check_strangers(subject)
    yield from _check_leftovers(subject)
    yield from _check_copy(subject)
    yield from _check_quarantine(subject)


def names(subject: Subject, directory: str) -> list[str]:
    """What is in a directory of the store; nothing, if it is not there, or no directory."""
    with suppress(MqError, OSError):
        return sorted(subject.disk.names(directory))
    return []


# ── what is no file ────────────────────────────────────────────────────────────────


def _check_kinds(subject: Subject) -> Iterator[Finding]:
    """Something else may have the name of a file, or of a directory."""
    expected = dict.fromkeys(FILES, stat.S_IFREG) | dict.fromkeys(DIRECTORIES, stat.S_IFDIR)
    places = [(paths.of(subject.path, name), kind) for name, kind in sorted(expected.items())]
    log, bells = paths.log(subject.path), paths.bells(subject.path)
    segments = [name for name in names(subject, log) if paths.SEGMENT.fullmatch(name)]
    places += [(os.path.join(log, name), stat.S_IFREG) for name in segments]
    places += [(os.path.join(bells, name), stat.S_IFIFO) for name in names(subject, bells) if _is_bell(name)]
    for path, kind in places:
        if os.path.lexists(path):
            try:
                irregular.require(kind, path, None)
            except OSError as error:
                what, _, advice = str(error.strerror).partition("; ")
                yield Finding("irregular", "error", what, advice, path)


def _is_bell(name: str) -> bool:
    return name.isascii() and name.isdecimal() and int(name) < SLOTS


# ── strangers, and what is left over ───────────────────────────────────────────────


def _check_strangers(subject: Subject) -> Iterator[Finding]:
    path = subject.path
    yield from _strangers(subject, path, lambda name: name in paths.NAMES | {paths.FORMAT})
    yield from _strangers(subject, paths.log(path), _is_of_log)
    yield from _strangers(subject, paths.checkpoints(path), _is_of_checkpoints)
    yield from _strangers(subject, paths.bells(path), _is_bell)


def _is_of_log(name: str) -> bool:
    return bool(paths.SEGMENT.fullmatch(name)) or name == paths.SEGMENT_ASIDE


def _is_of_checkpoints(name: str) -> bool:
    return bool(paths.CHECKPOINT_FILE.fullmatch(name.removesuffix(paths.ASIDE)))


def _strangers(subject: Subject, directory: str, is_ours: Callable[[str], bool]) -> Iterator[Finding]:
    found = [name for name in names(subject, directory) if not is_ours(name)]
    if found:
        more = f" and {len(found) - NAMED_MAX:,} more" if found[NAMED_MAX:] else ""
        what = f"{', '.join(output.escape(output.plain(name)) for name in found[:NAMED_MAX])}{more}"
        why, is_log = "the store neither needs it nor touches it", directory == paths.log(subject.path)
        if directory == paths.checkpoints(subject.path):
            why = "the next checkpoint removes what is not its own"
        elif is_log:
            why = "the store does not open with it"
        yield Finding(
            "foreign", "error" if is_log else "warning", f"no file of the store: {what}",
            f"move it elsewhere: {why}", directory,
        )  # fmt: skip


def _check_leftovers(subject: Subject) -> Iterator[Finding]:
    """What was being made when a process died; while one lives, it may be at it just now."""
    if subject.held:
        return
    log, checkpoints = paths.log(subject.path), paths.checkpoints(subject.path)
    for directory in (subject.path, log, checkpoints):
        for name in names(subject, directory):
            path = os.path.join(directory, name)
            if name.endswith(paths.ASIDE) and _is_left(subject, directory, path):
                yield Finding(
                    "leftover", "note", "left of what was cut off: a creation, a repair, a backup; it means"
                    " nothing", "nothing needs to be done: what is made again takes its place", path,
                )  # fmt: skip
    yield from _check_unlinked(subject)


def _is_left(subject: Subject, directory: str, path: str) -> bool:
    """Whether it is the store's, and there is something in it."""
    if os.path.isdir(path):
        return path == paths.aside(paths.log(subject.path)) and bool(names(subject, path))
    return directory != subject.path or os.path.basename(path) in paths.NAMES


def _check_unlinked(subject: Subject) -> Iterator[Finding]:
    """Segments that the log does not have any more."""
    if not subject.broker:
        return
    head = subject.words()[shared.HEAD]
    if gone := [each.base for each in subject.broker._store.replica.log.segments if each.limit <= head]:
        yield Finding(
            "leftover", "note",
            f"{output.count(len(gone), 'segment')} that the log does not need any more: a process died before"
            " it removed them", "nothing needs to be done: the next opening removes them",
            paths.segment(paths.log(subject.path), gone[0]),
        )  # fmt: skip


def _check_quarantine(subject: Subject) -> Iterator[Finding]:
    directory = paths.quarantine(subject.path)
    if found := names(subject, directory):
        yield Finding(
            "quarantine", "note", f"{output.count(len(found), 'copy', 'copies')} of what a repair wrote over",
            "remove them once you have looked at them: the store does not need them", directory,
        )  # fmt: skip


# ── copies ─────────────────────────────────────────────────────────────────────────


def _check_copy(subject: Subject) -> Iterator[Finding]:
    mark = paths.mark(subject.path)
    with suppress(MqError, OSError):
        if subject.disk.exists(mark) and shared.copied_key(subject.disk, mark) is not None:
            yield Finding(
                "copied", "warning",
                "copied file by file: if the store was in use meanwhile, the copy may lack what was written",
                "use `mq backup` to copy a store that is in use; opened once, this is a store of its own",
                subject.path,
            )  # fmt: skip
    log = paths.log(subject.path)
    for path in [mark, paths.lock(subject.path), *(os.path.join(log, name) for name in names(subject, log))]:
        if os.path.isfile(path) and os.stat(path).st_nlink > 1:
            yield Finding(
                "linked", "warning", "this file has another name elsewhere: two stores might write to it",
                "open the copy once, which gives it files of its own, or copy it with `mq backup`", path,
            )  # fmt: skip
            return
