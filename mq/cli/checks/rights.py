"""Who may read and write the store: owners, groups and modes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from mq.cli import output
from mq.cli.checks.files import names
from mq.cli.checks.finding import Finding
from mq.cli.checks.subject import Subject
from mq.storage import paths

RIGHTS: Final = 0o666  # what the files of a store have in common; directories have 0o111 beside
TO_ALL: Final = stat.S_IWOTH
OWN: Final = paths.NAMES - {"lost+found"} | {paths.FORMAT}


def check(subject: Subject) -> Iterator[Finding]:
    found = {path: os.stat(path) for path in _files(subject) if os.path.exists(path)}
    if own := found.get(paths.format_file(subject.path)):
        yield from _check_owners(subject, found, own)
    if subject.path in found and found[subject.path].st_mode & TO_ALL:
        yield Finding(
            "open-to-all", "warning", "every account of this computer may write here, and remove the store",
            f"`chmod o-w {output.escape(subject.path)}`", subject.path,
        )  # fmt: skip
    yield from _check_this_account(subject, found)


def _files(subject: Subject) -> Iterator[str]:
    yield subject.path
    path = subject.path
    for directory in (path, paths.log(path), paths.checkpoints(path), paths.bells(path)):
        for name in names(subject, directory):
            if directory != path or name in OWN:
                yield os.path.join(directory, name)


def _check_owners(
    subject: Subject, found: dict[str, os.stat_result], own: os.stat_result
) -> Iterator[Finding]:  # fmt: skip
    """New files get the owner and mode of FORMAT: what differs was made, or changed, by something else."""
    others = [path for path, each in found.items() if path != subject.path and _differs(each, own)]
    if not others:
        return
    first, wanted = found[others[0]], f"{own.st_uid}:{own.st_gid}"
    more = f", and {output.count(len(others) - 1, 'file')} more" if others[1:] else ""
    yield Finding(
        "owner", "warning",
        f"owner {first.st_uid}:{first.st_gid}, mode {stat.S_IMODE(first.st_mode):o}{more}; FORMAT has"
        f" {wanted}, {stat.S_IMODE(own.st_mode):o}: processes of its account may be refused",
        f"`chown -R {wanted} {output.escape(subject.path)}`, and `chmod` what is closed to it", others[0],
    )  # fmt: skip


def _differs(each: os.stat_result, own: os.stat_result) -> bool:
    """Whether an account that may write FORMAT may perhaps not write this."""
    if own.st_uid not in (0, each.st_uid):
        return True
    if own.st_mode & stat.S_IWGRP and own.st_gid != each.st_gid:
        return True
    wanted = stat.S_IMODE(own.st_mode) & RIGHTS
    return stat.S_IMODE(each.st_mode) & wanted != wanted


def _check_this_account(subject: Subject, found: dict[str, os.stat_result]) -> Iterator[Finding]:
    closed = [path for path in found if not os.access(path, os.R_OK)]
    barred = [path for path in found if not os.access(path, os.W_OK) and not _is_mounted_ro(path)]
    if closed:
        yield Finding(
            "unreadable", "error", f"this account ({os.geteuid()}) may not read it",
            "run as the account of the store, or change its mode", closed[0],
        )  # fmt: skip
    elif barred:
        yield Finding(
            "unwritable", "note", f"this account ({os.geteuid()}) may read the store, and not write to it",
            "run as the account of the store to publish, receive or repair", barred[0],
        )  # fmt: skip


def _is_mounted_ro(path: str) -> bool:
    with suppress(OSError):
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    return False
