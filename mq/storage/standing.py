"""Whether the store that a process has open is still the one at its path.

    /srv/data/           directory   may be moved, or a link above it may lead elsewhere now
      FORMAT LOCK mark   files       may be deleted, or put back from a backup
      CLEANER
      log/               directory
        ….seg            the one that is written to: may be cut short, too

Locks and the shared page work only between processes that have the same files open.  An
administrator, or a cleaner of temporary files, may replace a file while a process has it open:
then this process and those that come later no longer see each other.  And a program may close
descriptors that are not its own, and get their numbers for files of its own.

So the process compares: each descriptor against the file that it was opened on, and against
the file that has the name now.  It does so before it relies on a name, and once a second
while it writes.  A difference ends the work of this broker for good (`Watch.stand`).

A process that joins others compares, too: the page holds the `fingerprint` of the files that
the first process opened.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from . import paths
from .crc import crc32c
from .disk import Disk, Inode, is_anothers
from .explain import REOPEN, closed_by_program
from .shared import SAID

CHECK_MS: Final = 1000  # between two comparisons, while the log grows
NUMBERS: Final = Struct("<QQ")


class Trouble(NamedTuple):
    """What is not as it was."""

    path: str
    reason: str
    for_all: bool  # it is the same for all processes that share the page
    stolen: bool = False  # a descriptor is another file's: it must not be touched


def fingerprint_at(disk: Disk, path: str) -> int:
    """Of the files that have the names now, for a process that has not opened them."""
    names = ("", paths.FORMAT, paths.LOCK, paths.MARK)
    return _fingerprint([disk.inode_at(paths.of(path, name)) for name in (*names, paths.LOG)])


def _fingerprint(inodes: list[Inode | None]) -> int:
    return SAID | crc32c(b"".join(NUMBERS.pack(*(each or (0, 0))) for each in inodes))


class Standing:
    def __init__(self, disk: Disk, path: str, held: Callable[[], dict[str, int]]) -> None:
        """*held*: the descriptors on which the store depends, by name; "" is its directory, the anchor."""
        self._disk, self._path, self._held = disk, path, held
        self._log_path = paths.log(path)
        self._log = disk.inode_at(self._log_path)

    def fingerprint(self) -> int:
        """Of the files that all processes that share the page must have open."""
        inodes = [self._disk.inode(fd) for name, fd in sorted(self._held().items()) if name != paths.CLEANER]
        return _fingerprint([*inodes, self._log])

    def unanchored(self) -> Trouble | None:
        """Whether the directory's descriptor, by which all names are looked up, is another file's by now."""
        return self.stolen(self._path, self._held()[""])

    def moved(self) -> Trouble | None:
        """What is wrong with the directories.  May be asked at any time, in any thread."""
        if found := self.unanchored():
            return found
        fd = self._held()[""]
        try:
            now = self._disk.inode_at(self._path)
            log = self._disk.inode_at(self._log_path)
        except OSError:  # not to be looked at any more, say by a process that has given up its rights
            return None
        if now != self._disk.inode(fd):
            what = "another directory has this name now" if now else "the directory is gone from here"
            reason = (
                f"{what}; the store that was opened here is {self._where(fd)}, with all that was published"
                " and settled since. Nothing was written to the new one: close this broker, then open the"
                " path that you mean"
            )
            return Trouble(self._path, reason, for_all=False)
        return None if log == self._log else self._replaced(self._log_path, log is None)

    def trouble(self, segment: str, segment_fd: int, size: int) -> Trouble | None:
        """What is wrong, if anything.  The *segment* that is written to must have *size* bytes.

        Asked with the store's mutex: others open and close the descriptors.
        """
        if found := self.moved():
            return found
        files = {paths.of(self._path, name): fd for name, fd in self._held().items() if name}
        for path, fd in {**files, segment: segment_fd}.items():
            if fd < 0:
                continue
            if not self._disk.owns(fd):
                return self._stolen(path, fd)
            try:
                now = self._disk.inode_at(path)
            except OSError:
                continue
            if now != self._disk.inode(fd):
                return self._replaced(path, now is None)
        if segment_fd >= 0 and self._disk.size(segment_fd) < size:
            reason = f"the file was cut short while it was written to; what stood behind is lost: {REOPEN}"
            return Trouble(segment, reason, for_all=True)
        return None

    def stolen(self, path: str, fd: int) -> Trouble | None:
        """The same, of one descriptor only; None too if it cannot be told."""
        return self._stolen(path, fd) if is_anothers(self._disk, fd) else None

    def _where(self, fd: int) -> str:
        place = self._disk.whereabouts(fd)
        if not place or place == self._path:
            return "elsewhere"
        return "deleted" if place.endswith(" (deleted)") else f"at {place}"

    def _replaced(self, path: str, gone: bool) -> Trouble:
        reason = (
            f"{'deleted' if gone else 'replaced'} while the store was open, as a restore or a cleaner of"
            f" temporary files does; what was published and settled meanwhile went to the old file: {REOPEN}"
        )
        return Trouble(path, reason, for_all=True)

    def _stolen(self, path: str, fd: int) -> Trouble:
        lost = "what was published and settled in the last second may be lost"
        return Trouble(path, closed_by_program(fd, lost), for_all=True, stolen=True)
