"""What the processes of one host share: one page of numbers.

`mark` is 4096 bytes of u64 words, mapped by every process that has the store open:

    ┌─────┬─────┬───────┬────────┬─────────┬────────┬──────┬────────┬───────────────┐
    │ key │ end │ dirty │ synced │ syncing │ failed │ head │ holder │ synced, again │
    ├─────┴───┬─┴──────┬┴────────┴┬────────┴┬───────┴────┬─┴────────┴───────────────┘
    │ waiting │ asleep │ offset   │ syncer  │ recovering │ version │ boot │ time space │ seen │
    ├───────┬─┴──────┬─┴─────┬────┴─┬───────┴┬──────────┴─┬────┴─┬────┴────────────┴──────┘
    │ files │ origin │ epoch │ bias │ barred │ generation │ tick │  … zeros
    └───────┴────────┴───────┴──────┴────────┴────────────┴──────┘
     words 64–127: which processes wait for which queues; 128–191: which are inside without LOCK  … zeros

Outside the store's lock every word is a hint, except `synced`, which only grows.  After a
power cut only `synced` means anything: everything below it was once on the disk.  It is a
lower bound, and only if the key is the store's own, and the page is the file that it was made
as (`origin_of`): that of a copy was written after, or before, the log beside it.

Words are read and written one at a time through a cast memoryview, whose stores are whole:
struct.pack_into clears before it packs, and others would see that.
"""

from __future__ import annotations

import os
from contextlib import suppress
from struct import Struct
from typing import Final, NamedTuple

from mq.errors import StorageError, Unsupported

from . import paths
from .crc import crc32c
from .disk import PAGE_BYTES, Disk, write_all

KEY: Final = 0
END: Final = 1  # the log ends here
DIRTY: Final = 2  # a write behind `end` has begun
SYNCED: Final = 3  # everything below is on the disk
SYNCING: Final = 4  # an fsync of what is below this has begun, and has not ended well yet
FAILED: Final = 5  # a write or an fsync failed; no process goes on until all have closed
HEAD: Final = 6  # the log begins here
HOLDER: Final = 7  # the process that has the lock; with KEPT, for as long as it has the store open
SYNCED_TWIN: Final = 8  # says what SYNCED says: the page has no checksum
WAITING: Final = 9  # a process waits for LOCK: the one that had it last steps aside
ASLEEP: Final = 10  # a bit for each process that has asked to be woken
OFFSET: Final = 11  # store time less the monotonic clock's, ms, as a signed number
SYNCER: Final = 12  # the process that syncs
RECOVERING: Final = 13  # the first one to come is not done yet: it is unknown where the log ends
VERSION: Final = 14  # of the page, PAGE_VERSION; 0: the page of mq 0.1.0
BOOT: Final = 15  # of whose monotonic clock OFFSET speaks: of the boot with this id; 0: not known
TIMESPACE: Final = 16  # and of the time namespace with this inode; 0: not known
SEEN: Final = 17  # store time when a process last closed the store
FILES: Final = 18  # the fingerprint of the files that the first process opened (storage/standing.py)
ORIGIN: Final = 19  # which file the page was made as, and where; 0: an older mq made it
EPOCH: Final = 20  # of the log that the page was last used with; 0: of none yet; or COPIED
# Which process may come in without LOCK (storage/bias.py): its slot + 1, or 0.  With ASKED, another one that
# has LOCK wants it to come in no more.
BIAS: Final = 21
BARRED: Final = 22  # a process that knows no barrier is, or was, here: no process comes in without LOCK
# Changes with what is declared (mq/delivery/state.py): programs read it without a lock.  Written in a turn.
GENERATION: Final = 23
# When a schedule is due next, wall time in ms; 0: there is none.  Processes that only wait for that read it
# without a lock.  Written in a turn.
TICK: Final = 24
WORDS: Final = 25  # in use
WAITS: Final = 64  # so many words from here: of each a bit for each process that waits for one of its names
WAITS_WORDS: Final = 64
INSIDE: Final = 128  # from here a word for each slot: its process is inside, or looks whether it may be
SLOTS: Final = 64
PAGE_VERSION: Final = 4  # processes that share a store share one; see FORMAT.md, Versions

# KEY, SYNCED and SYNCED_TWIN are the same words in every version.
KEPT_IN_RENEWAL: Final = frozenset({KEY, SYNCED, SYNCED_TWIN, RECOVERING})
KEPT_BY_RECOVERY: Final = KEPT_IN_RENEWAL | {OFFSET, BOOT, TIMESPACE, SEEN, ORIGIN, EPOCH}

GONE: Final = (
    "a segment was deleted or cut short; what stood there, never synced, is lost unless the file is put back"
)

KEPT: Final = 1 << 32  # a bit of HOLDER
ASKED: Final = 1 << 32  # a bit of BIAS
COPIED: Final = 1 << 32  # EPOCH of a page that took the place of a copied one: recovery is not done
SAID: Final = 1 << 32  # a bit of every ORIGIN, and of every FILES: an older page has 0 there
ORIGINS: Final = Struct("<QQQQ")
EPOCHS: Final = Struct("<QQ")  # ORIGIN and EPOCH
NO_LIMIT: Final = 1 << 64  # behind every position
LOOK_SECONDS: Final = 0.25  # a lock that is not to be had for so long is held by a process at work


def open_mark(disk: Disk, path: str, key: bytes, *, create: bool) -> memoryview:
    """Map the page; with *create* it is made anew, all zeros, if it is missing or not this store's."""
    if not create and not disk.exists(path):
        raise StorageError(path, "deleted while others have the store open: close it there first")
    fd = disk.open(path, write=True, create=create)
    try:
        page = disk.pread(fd, PAGE_BYTES, 0)
        if len(page) < PAGE_BYTES or not page.startswith(key):
            if not create:
                raise StorageError(path, "damaged while others have the store open: close it there first")
            old, fd = fd, make_mark(disk, path, key)
            disk.close(old)
        return disk.map(fd)
    finally:
        disk.close(fd)


def page_to_ask(disk: Disk, path: str) -> memoryview | None:
    """The page, for a process that waits for LOCK and does not know the store yet; None if asking is no use.

    It may be replaced before LOCK is had: only WAITING is to be written, and nothing relied on.
    """
    with suppress(OSError):
        fd = disk.open(path, write=True)
        try:
            if disk.size(fd) == PAGE_BYTES and not (page := disk.map(fd))[HOLDER] & KEPT:
                return page
        finally:
            disk.close(fd)
    return None


def origin_of(disk: Disk, fd: int, path: str) -> int:
    """What ORIGIN is on the page at *path* that *fd* is of: which file it is, in which directory.

    No device number: that changes over reboots.  The directory is there because of copies that are
    links to the same files.
    """
    directory = disk.open_directory(os.path.dirname(path))
    try:
        numbers = [((disk.inode(each) or (0, 0))[1], disk.made(each)) for each in (fd, directory)]
    finally:
        disk.close(directory)
    return SAID | crc32c(ORIGINS.pack(*numbers[0], *numbers[1]))


def is_copied(words: memoryview | list[int]) -> bool:
    """Whether nothing beside the log claims to be on the disk: it was copied at another moment."""
    return words[EPOCH] == COPIED


def make_mark(disk: Disk, path: str, key: bytes, epoch: int = 0) -> int:
    """A descriptor on a new page.  It has its name only once it is whole: it has no checksum."""
    if disk.exists(paths.aside(path)):
        disk.unlink(paths.aside(path))
    fd = disk.open(paths.aside(path), write=True, create=True)
    try:
        # Written, never ftruncated: on a full disk a hole would be a SIGBUS later.
        page = key + bytes(8 * ORIGIN - len(key)) + EPOCHS.pack(origin_of(disk, fd, path), epoch)
        write_all(disk, fd, page + bytes(PAGE_BYTES - len(page)), 0)
        disk.sync(fd)
        disk.rename(paths.aside(path), path)
    except BaseException:
        disk.close(fd)
        raise
    return fd


def renew(mark: memoryview) -> None:
    """Before recovery: forget what another version said on the page; no other process has the store open.

    The version itself is said when the log has a segment that an older version refuses: that
    one does not look for this word, and would leave it there if it recovered the store.
    """
    if mark[VERSION] not in (0, PAGE_VERSION):
        for word in range(PAGE_BYTES // 8):
            if word not in KEPT_IN_RENEWAL:
                mark[word] = 0
    mark[VERSION] = 0


def require_version(path: str, words: memoryview | list[int]) -> None:
    """Unsupported if the processes that have the store open share a page of another version."""
    if words[VERSION] != PAGE_VERSION:
        raise Unsupported(
            f"{path}: open in a process whose mq shares version {words[VERSION] or 1} of the page `mark`, and"
            f" this mq shares version {PAGE_VERSION}: use the same mq in all processes, or close the store in"
            " the others first"
        )


def no_page() -> memoryview:
    """What stands for the page while there is none: nothing is said on it."""
    return memoryview(bytearray(PAGE_BYTES)).cast("Q")


def detached(mark: memoryview) -> memoryview:
    """What the page says now, as a copy: while it is mapped its file system cannot be unmounted."""
    words = no_page()
    for index in range(WORDS):
        words[index] = mark[index]
    return words


def read_mark(disk: Disk, path: str, key: bytes) -> list[int]:
    """The words of the page as they are now; zeros if it is not there or not this store's.

    Of a copy only that it is one.
    """
    words = [0] * (PAGE_BYTES // 8)
    if disk.exists(path):
        fd = disk.open(path)
        try:
            page = disk.pread(fd, PAGE_BYTES, 0)
            if len(page) == PAGE_BYTES and page.startswith(key):
                found = memoryview(page).cast("Q").tolist()
                if found[ORIGIN] in (0, origin_of(disk, fd, path)):
                    return found
                words[EPOCH] = COPIED
        finally:
            disk.close(fd)
    return words


def copied_key(disk: Disk, path: str) -> bytes | None:
    """The key on the page at *path*, if that is not the file that the page was made as."""
    if not disk.exists(path):
        return None
    fd = disk.open(path)
    try:
        page = disk.pread(fd, PAGE_BYTES, 0)
        origin = int.from_bytes(page[8 * ORIGIN : 8 * ORIGIN + 8], "little")
        is_own = len(page) < PAGE_BYTES or origin in (0, origin_of(disk, fd, path))
        return None if is_own else page[:8]
    finally:
        disk.close(fd)


never_unmapped: list[memoryview] = []
"""Pages that stay mapped: a mapping keeps a descriptor, and here it may be another file's by now."""


def waits_word(name: str) -> int:
    """The word in which a process says that it waits for *name*; others may share it."""
    return WAITS + crc32c(name.encode()) % WAITS_WORDS


def claimed(words: memoryview | list[int]) -> int:
    """How far the page says that the log is on the disk.

    It says so twice, and the smaller one holds: both were once true, and a bit that
    flips must not make an intact log look cut off.
    """
    once, again = words[SYNCED], words[SYNCED_TWIN]
    return min(once, again) if again else once


def end_of_this_boot(words: memoryview | list[int], boot: int) -> int:
    """Where the log ended, if the page is of this *boot*: then all that was written before is there.

    What a process has written outlives it, though no sync came.  Only the power, and a failed sync, take
    it.  0: the page does not tell.
    """
    return words[END] if boot and words[BOOT] == boot and not words[FAILED] else 0


def holder(disk: Disk, path: str) -> tuple[int | None, bool]:
    """The pid that last took the lock, if the page at *path* tells; and whether it keeps it."""
    word = word_of(disk, path, HOLDER)
    return word % KEPT or None, bool(word & KEPT)


def word_of(disk: Disk, path: str, index: int) -> int:
    """One word of the page at *path*, whichever store's it is; 0 if there is none."""
    if not disk.exists(path):
        return 0
    fd = disk.open(path)
    try:
        return int.from_bytes(disk.pread(fd, 8, index * 8), "little")
    finally:
        disk.close(fd)


class View(NamedTuple):
    """What a process that only reads may rely on."""

    held: bool  # a process has the store open
    end: int
    synced: int
    head: int
    copied: bool = False  # nothing beside the log says what was on the disk

    def explains(self, later: View) -> bool:
        """Whether what looks wrong may only be due to what a writer did until a *later* look.

        One that came in between makes a log that was read to its end look torn; one that
        is there may have dropped segments, and they look missing.
        """
        return self.head != later.head if self.held else self != later

    @property
    def upto(self) -> int:
        """Where to stop reading: the log's end, if a process is there to vouch for it."""
        return self.end if self.held else NO_LIMIT
