"""A disk in memory that forgets, tears and fails as real kernels and disks do.

    write ──► page cache ──(sync, or any time before)──► platter
    create, rename, unlink ──► directory in memory ──(sync_directory, or any time)──► platter
    store into the mapped page ──► page cache ──(any time, word by word)──► platter
    copy into a window ──► page cache, a part first, then the rest; then as a write

Every file is what all processes read now (`cache`), what the platter surely has (`base`),
and what lies between (`pending`), cut at sectors; directories likewise.  Two deaths:

    after_kill    the process is gone, the kernel lives: cache and pending stay
    after_power   only the platter is left: `base`, and of `pending` what a Fate decides

An fsync that fails marks its pages clean: they stay in the cache, a later fsync has
nothing to do and says so, and whether the platter has them is for the Fate to decide.
As on ext4 such a page is stuck: what is written to it again, by any process, does not
get to the platter either, and is gone when the page is dropped.

    forget          drops the pages that are stuck, whole, but for a page that is mapped;
                    a page that is only dirty is written out first, and nothing is seen of it
    pwrite_direct   drops the pages of its folio, mapped or not, and then writes: to the
                    platter with the next sync, or any time before

What is assumed of a disk, as SQLite does by default: overwriting a sector leaves the
bytes that the write does not change as they were; what was on the platter and is
overwritten is afterwards old or new, byte by byte.  Only room never written before may
turn up as garbage, or as what another file left there.

Not modelled: EINTR, which Python's own calls retry.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from .fate import Fate

SECTOR_BYTES = 512
PAGE_BYTES = 4096
FOLIO_BYTES = 2 << 20  # pages that writing past the cache drops together
PAGE_WORDS = 512
SHORT = -1  # the fault of a write that writes only a part


class PowerCut(BaseException):
    """The machine is off.  Not an Exception: no handler under test may swallow it."""


class Write(NamedTuple):
    """One sector's share of a write."""

    order: int
    offset: int
    data: bytes
    clean: bool = False  # an fsync failed on it: no later one brings it to the platter

    @property
    def page(self) -> int:
        return self.offset // PAGE_BYTES


class Growth(NamedTuple):
    order: int
    size: int
    clean: bool = False


class Change(NamedTuple):
    """To a directory: *gone* is no name any more, *name* is one; a rename is both."""

    order: int
    gone: str | None
    name: str | None
    node: File | Directory | None
    clean: bool = False


class File:
    __slots__ = ("base", "cache", "direct", "forgot", "inode", "past", "pending", "windows", "words")

    def __init__(self, content: bytes = b"", inode: int = 0) -> None:
        self.inode = inode
        self.cache = self.base = content
        self.pending: list[Write | Growth] = []
        self.words: list[int] | None = None  # of the mapped page, which is then not in `cache`
        self.past: dict[int, list[int]] = {}  # values of words that the platter may have instead
        self.forgot = False  # what passed for clean was dropped, and not synced again since
        self.direct: tuple[int, bytes] | None = None  # a write past the cache that has begun
        self.windows: list[Window] = []  # that processes have open

    def content(self) -> bytes:
        return self.cache if self.words is None else array("Q", self.words).tobytes()

    def write(self, order: int, offset: int, data: bytes) -> None:
        cache = self.content()
        if offset > len(cache):
            cache += bytes(offset - len(cache))
        self.cache = cache[:offset] + data + cache[offset + len(data) :]
        if self.words is not None:
            self.words = array("Q", self.cache).tolist()
        stuck = self._stuck()
        at = 0
        while at < len(data):
            size = min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, len(data) - at)
            sector = Write(order, offset + at, data[at : at + size])
            self.pending.append(sector._replace(clean=sector.page in stuck))
            at += size
        if len(self.cache) > len(cache):
            self.pending.append(Growth(order, len(self.cache)))

    def _stuck(self) -> set[int]:
        """The pages that an fsync has failed on."""
        return {each.page for each in self.pending if isinstance(each, Write) and each.clean}

    def grow(self, order: int, size: int) -> None:
        if size > len(self.cache):
            self.cache += bytes(size - len(self.cache))
            self.pending.append(Growth(order, size))

    def shrink(self, size: int) -> None:
        """The platter may keep the longer file until the next sync."""
        self.cache = self.cache[:size]

    def store(self, index: int, value: int) -> None:
        assert self.words is not None
        past = self.past.setdefault(index, [])
        if self.words[index] not in past:
            past.append(self.words[index])
        self.words[index] = value

    def synced(self) -> None:
        """The dirty pages are on the platter; with them what stands in the same sectors."""
        self.past, self.forgot = {}, False
        if not any(each.clean for each in self.pending):
            self.base, self.pending = self.content(), []
            return
        content = bytearray(self.base)
        dirty = set()
        for each in self.pending:
            if isinstance(each, Write) and not each.clean:
                dirty.add(each.offset // SECTOR_BYTES)
                _put(content, each.offset, each.data)
        for sector in dirty:
            start = sector * SECTOR_BYTES
            _put(content, start, self.cache[start : min(start + SECTOR_BYTES, len(content))])
        self.base = bytes(content)
        self.pending = [
            each for each in self.pending
            if each.clean and (
                each.offset // SECTOR_BYTES not in dirty
                if isinstance(each, Write) else each.size > len(content)
            )
        ]  # fmt: skip

    def marked_clean(self) -> None:
        self.pending = [each._replace(clean=True) for each in self.pending]

    def forget(self, offset: int, size: int) -> None:
        """Drop the pages in [offset, offset + size) that are stuck: the platter never got them.

        A page that a process has mapped stays, and the kernel does not say so.
        """
        if self.words is None:
            pages = set(range(-(-offset // PAGE_BYTES), (offset + size) // PAGE_BYTES))
            self._lose(self._stuck() & pages - set().union(*(each.pages() for each in self.windows)))

    def begin_direct(self, offset: int, data: bytes) -> None:
        """Drop the folios that writing *data* touches, mapped or not: a read now comes from the platter."""
        self.direct = offset, data
        self._show_the_platter(self._stuck_beside(offset, data))

    def end_direct(self, order: int, offset: int, data: bytes) -> None:
        """They are written; of what was pending there, the platter may have any until the next sync."""
        pages = range(offset // PAGE_BYTES, (offset + len(data)) // PAGE_BYTES)
        self._show_the_platter(gone := self._stuck_beside(offset, data))
        self.direct = None
        self.pending = [
            each._replace(clean=False) if isinstance(each, Write) and each.page in pages else each
            for each in self.pending
            if isinstance(each, Growth) or each.page in pages or each.page not in gone
        ]
        self.write(order, offset, data)

    def fail_direct(self, offset: int, data: bytes) -> None:
        """They are dropped, and not written."""
        self.direct = None
        self._lose(self._stuck_beside(offset, data))

    def _stuck_beside(self, offset: int, data: bytes) -> set[int]:
        per = FOLIO_BYTES // PAGE_BYTES
        folios = range(offset // FOLIO_BYTES * per, -(-(offset + len(data)) // FOLIO_BYTES) * per)
        return self._stuck() & set(folios)

    def _lose(self, pages: set[int]) -> None:
        self._show_the_platter(pages)
        self.forgot = self.forgot or bool(pages)
        self.pending = [each for each in self.pending if isinstance(each, Growth) or each.page not in pages]

    def _show_the_platter(self, pages: set[int]) -> None:
        content = bytearray(self.cache)
        for start in (page * PAGE_BYTES for page in pages):
            stop = min(start + PAGE_BYTES, len(content))
            content[start:stop] = self.base[start:stop].ljust(stop - start, b"\0")
        self.cache = bytes(content)

    def clone(self) -> File:
        """As it is once the kernel has done what it has begun."""
        new = File.__new__(File)
        new.direct, new.windows = None, []
        new.inode = self.inode
        new.cache, new.base, new.pending = self.cache, self.base, self.pending.copy()
        new.words = self.words and self.words.copy()
        new.forgot = self.forgot
        new.past = {index: values.copy() for index, values in self.past.items()}
        if self.direct:
            new.end_direct(max((each.order for each in self.pending), default=0), *self.direct)
        return new

    def after_eviction(self, fate: Fate) -> File:
        """As clone, but the clean pages were dropped and are read from the platter again."""
        new = self.clone()
        if any(each.clean for each in self.pending):
            content = bytearray(fate.file(self.base, [each for each in self.pending if each.clean], []))
            new.base = bytes(content)
            new.pending = [each for each in self.pending if not each.clean]
            content += bytes(max(0, len(self.cache) - len(content)))
            for each in new.pending:
                if isinstance(each, Write):
                    _put(content, each.offset, each.data)
            new.cache = bytes(content)
        return new

    def after_power(self, fate: Fate, stale: list[bytes]) -> File:
        content = self.base
        if self.pending:
            content = fate.file(content, self.pending, stale)
        if self.past and len(content) == 8 * PAGE_WORDS:
            assert self.words is not None
            words = array("Q", content)
            for index, values in self.past.items():
                words[index] = fate.word([*values, self.words[index]])
            content = words.tobytes()
        return File(content, self.inode)


class Directory:
    __slots__ = ("base", "inode", "names", "pending")

    def __init__(self, inode: int = 0) -> None:
        self.inode = inode
        self.names: dict[str, File | Directory] = {}
        self.base: dict[str, File | Directory] = {}
        self.pending: list[Change] = []

    def change(self, change: Change) -> None:
        self.pending.append(change)
        _apply(self.names, change)

    def synced(self) -> None:
        settled: set[str | None] = set()
        for change in self.pending:
            if not change.clean:
                _apply(self.base, change)
                settled |= {change.gone, change.name}
        self.pending = [
            each for each in self.pending if each.clean and not {each.gone, each.name} & (settled - {None})
        ]

    def marked_clean(self) -> None:
        self.pending = [
            # Directories and renames cannot be made anew: file systems with a journal keep them.
            each if isinstance(each.node, Directory) or each.gone else each._replace(clean=True)
            for each in self.pending
        ]  # fmt: skip

    def clone(self, file: Callable[[File], File]) -> Directory:
        seen: dict[int, File | Directory] = {}

        def copy(node: File | Directory) -> File | Directory:
            if id(node) not in seen:
                seen[id(node)] = file(node) if isinstance(node, File) else node.clone(file)
            return seen[id(node)]

        new = Directory(self.inode)
        new.names = {name: copy(node) for name, node in self.names.items()}
        new.base = {name: copy(node) for name, node in self.base.items()}
        new.pending = [each._replace(node=each.node and copy(each.node)) for each in self.pending]
        return new

    def after_power(self, fate: Fate, old: dict[str, bytes]) -> Directory:
        names = dict(self.base)
        for change in self.pending:
            kept = fate.change(change)
            if kept:
                _apply(names, kept)
        new = Directory(self.inode)
        seen: dict[int, File | Directory] = {}
        for name, node in names.items():
            if id(node) not in seen:
                if isinstance(node, Directory):
                    seen[id(node)] = node.after_power(fate, old)
                else:
                    stale = self._stale(name, node, old) if node.pending else []
                    seen[id(node)] = node.after_power(fate, stale)
            new.names[name] = seen[id(node)]
        new.base = dict(new.names)
        return new

    def _stale(self, name: str, node: File, old: dict[str, bytes]) -> list[bytes]:
        """What may have stood where *node* now has its room."""
        found = [old[name]] if name in old else []
        return found + [
            each.cache for each in self.names.values() if isinstance(each, File) and each is not node
        ]


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content += bytes(offset - len(content))
    content[offset : offset + len(data)] = data


def _apply(names: dict[str, File | Directory], change: Change) -> None:
    if change.gone is not None:
        names.pop(change.gone, None)
    if change.name is not None and change.node is not None:
        names[change.name] = change.node


class Words:
    """The mapped page.  Every store is a call of its own, at which a process may be killed."""

    __slots__ = ("_disk", "_file", "_words")

    def __init__(self, disk: SimulatedDisk, file: File) -> None:
        self._disk, self._file = disk, file
        assert file.words is not None
        self._words = file.words

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        if self._words[index] != value:
            self._disk.step("store")
            self._file.store(index, value)

    def arrive(self, index: int, value: int) -> None:
        """What a processor has kept to itself until now: no call."""
        if self._words[index] != value:
            self._file.store(index, value)

    def __len__(self) -> int:
        return len(self._words)

    def tolist(self) -> list[int]:
        return self._words.copy()

    def release(self) -> None:
        pass


class Window:
    """A part of a file, mapped.  A copy is two calls: a process that dies between them leaves it torn.

    One that is SHORT is the last thing that its process does; at least half of it is there.
    """

    __slots__ = ("_disk", "_file", "_offset", "_path", "_size")

    def __init__(self, disk: SimulatedDisk, path: str, file: File, offset: int, size: int) -> None:
        self._disk, self._path, self._file, self._offset, self._size = disk, path, file, offset, size
        file.windows.append(self)

    def pages(self) -> range:
        return range(self._offset // PAGE_BYTES, -(-(self._offset + self._size) // PAGE_BYTES))

    def __getitem__(self, part: slice) -> bytes:
        start, stop = self._within(part)
        if self._disk._dead:
            raise PowerCut
        return self._file.content()[start:stop]

    def __setitem__(self, part: slice, data: bytes) -> None:
        start, stop = self._within(part)
        assert stop - start == len(data) == part.stop - part.start, "not a part of the window"
        chance = self._disk.calls
        short = self._disk.step("copy", self._path) == SHORT
        least = len(data) // 2 if short else 0
        size = least + chance * 7 % (len(data) - least)
        # The order is the processor's: at times the last bytes are the first that are there.
        cut = size if chance % 2 else len(data) - size
        parts = [(start, data[:cut]), (start + cut, data[cut:])]
        first, second = parts if chance % 2 else reversed(parts)
        self._file.write(self._disk._order, *first)
        if not short:
            self._disk.step("torn", self._path)
            self._file.write(self._disk._order, *second)

    def _within(self, part: slice) -> tuple[int, int]:
        """From where to where, in the file."""
        if self not in self._file.windows:
            raise ValueError("the window is closed")
        start, stop = self._offset + part.start, self._offset + min(part.stop, self._size)
        end = -(-len(self._file.cache) // PAGE_BYTES) * PAGE_BYTES
        assert 0 <= part.start <= part.stop and stop <= end, "SIGBUS: the file ends before"
        return start, stop

    def ready(self, start: int, size: int) -> bool:
        if self not in self._file.windows:
            raise ValueError("the window is closed")
        try:
            self._disk.step("ready", self._path, changes=False)
        except OSError:
            return False
        return self._offset + start + size <= -(-len(self._file.cache) // PAGE_BYTES) * PAGE_BYTES

    def close(self) -> None:
        if self in self._file.windows:
            self._file.windows.remove(self)


class SimulatedDisk:
    """The face of mq.storage.disk.Disk.

    *cut_at*: the number of the call at which the power goes; that call does nothing,
    and neither does any after it.  *faults*: errno, or SHORT, by number of call.
    `on_change(kind)` is called before every call that changes something, and may look
    at copies of this disk.

    *capacity*: so many bytes of pages there are for files; then it is full.  *keeps_part*:
    a reservation that does not fit takes what there is before it fails, as on ext4.
    """

    direct = True  # files can be written past the page cache

    def __init__(
        self, *, cut_at: int = 0, faults: dict[int, int] | None = None, capacity: int | None = None,
        keeps_part: bool = False,
    ) -> None:  # fmt: skip
        self.root = Directory()
        self.old: dict[str, bytes] = {}  # by file name, what a store before this one left on the platter
        self.calls = 0
        self.kinds: list[str] = []  # of the calls, in order
        self.on_change: Callable[[str], None] | None = None
        self.boot = 1  # which one; the monotonic clock begins anew with each
        self.fired = 0  # the call at which the last fault struck
        self._cut_at, self._faults = cut_at, dict(faults or {})
        self.faulty = bool(faults)
        self.capacity, self.keeps_part, self.tells_free = capacity, keeps_part, True
        self._dead = False
        self._order = 0
        self._files: dict[int, tuple[str, File | Directory]] = {}
        self.anchored: tuple[str, Directory] | None = None  # below this path, names are looked up in there
        self._next_fd = 3
        self._locks: dict[int, tuple[File | Directory, bool]] = {}
        self._byte_locks: dict[tuple[int, int], File | Directory] = {}  # by descriptor and byte

    # ── deaths ─────────────────────────────────────────────────────────────────────

    def after_kill(self, evicted: Fate | None = None) -> SimulatedDisk:
        """What the next process finds.  *evicted* decides about pages that a failed fsync marked clean."""
        new = self._successor()
        new.root = self.root.clone(
            (lambda file: file.after_eviction(evicted)) if evicted else (lambda file: file.clone())
        )
        return new

    def after_power(self, fate: Fate) -> SimulatedDisk:
        """What the next boot finds."""
        new = self._successor()
        new.boot += 1
        fate.begin(sorted({each.order for _, file in self.walk() for each in file.pending}))
        new.root = self.root.after_power(fate, self.old)
        return new

    def _successor(self) -> SimulatedDisk:
        new = SimulatedDisk(capacity=self.capacity, keeps_part=self.keeps_part)
        new.tells_free = self.tells_free
        new.old, new._order, new.boot = self.old, self._order, self.boot
        return new

    def lay_out(self, files: dict[str, bytes]) -> None:
        """Put them on the platter, as an earlier machine left them, without a call."""
        for path, content in files.items():
            directory = self.root
            *above, name = path.split("/")
            for each in above:
                inner = directory.names.setdefault(each, Directory())
                assert isinstance(inner, Directory)
                directory.base[each] = inner
                directory = inner
            directory.names[name] = directory.base[name] = File(content)

    def has_clean_pages(self) -> bool:
        return any(each.clean for _, file in self.walk() for each in file.pending)

    def has_forgotten(self) -> bool:
        """Whether pages that passed for clean were dropped, as the kernel may at any time."""
        return any(file.forgot for _, file in self.walk())

    def loose_ends(self) -> int:
        """How many pieces, names and words may or may not be on the platter."""
        todo, count = [self.root], 0
        for directory in todo:
            count += len(directory.pending)
            for node in directory.names.values():
                if isinstance(node, Directory):
                    todo.append(node)
                else:
                    count += len(node.pending) + len(node.past)
        return count

    def walk(self) -> Iterator[tuple[str, File]]:
        """Every file, by its path."""
        todo = [("", self.root)]
        while todo:
            path, directory = todo.pop()
            for name, node in directory.names.items():
                if isinstance(node, Directory):
                    todo.append((f"{path}{name}/", node))
                else:
                    yield path + name, node

    def inodes(self) -> dict[str, int]:
        """The number of every file by its path, and of every directory by its path and a slash."""
        found, todo = {}, [("", self.root)]
        for path, directory in todo:
            found[path] = directory.inode
            for name, node in directory.names.items():
                if isinstance(node, Directory):
                    todo.append((f"{path}{name}/", node))
                else:
                    found[path + name] = node.inode
        return found

    def content(self) -> dict[str, bytes]:
        """Every file's bytes, as they are read now."""
        return {path: file.content() for path, file in self.walk()}

    # ── the face ───────────────────────────────────────────────────────────────────

    def step(self, kind: str, path: str = "", *, changes: bool = True) -> int:
        """Count a call; what stands against it: 0, or SHORT.  An errno is raised."""
        if self._dead:
            raise PowerCut
        self.calls += 1
        self.kinds.append(kind)
        if changes and self.on_change:
            self.on_change(kind)
        if self.calls == self._cut_at:
            self._dead = True
            raise PowerCut
        fault = self._faults.get(self.calls, 0)
        if fault:
            self.fired = self.calls
            if fault > 0:
                raise OSError(fault, os.strerror(fault), path)
        self._order += 1
        return fault

    def words_of(self, path: str) -> list[int] | None:
        """Of a mapped page, without a call."""
        if not self.exists(path):
            return None
        directory, name = self._parent(path)
        node = directory.names[name]
        return node.words if isinstance(node, File) else None

    def strike(self, fault: int) -> None:
        """The next call meets this fault."""
        self._faults[self.calls + 1] = fault

    def path_of(self, fd: int) -> str:
        if fd not in self._files:
            raise _error(errno.EBADF, "")
        return self._files[fd][0]

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        directory, name = self._parent(path)
        node = directory.names.get(name)
        makes = create and node is None
        self.step("create" if makes else "open", path, changes=makes)
        if makes:
            node = File(inode=self._order)
            directory.change(Change(self._order, None, name, node))
        if not isinstance(node, File):
            raise _error(errno.EISDIR if node else errno.ENOENT, path)
        fd, self._next_fd = self._next_fd, self._next_fd + 1
        self._files[fd] = path, node
        return fd

    def anchor(self, path: str) -> int:
        fd = self.open_directory(path)
        self.anchored = path, self._directory_of(fd)
        return fd

    def open_directory(self, path: str) -> int:
        self.step("open", path, changes=False)
        fd, self._next_fd = self._next_fd, self._next_fd + 1
        self._files[fd] = path, self._directory(path)
        return fd

    def _directory_of(self, fd: int) -> Directory:
        node = self._files[fd][1]
        assert isinstance(node, Directory)
        return node

    def inode(self, fd: int) -> tuple[int, int] | None:
        return (0, self._files[fd][1].inode) if fd in self._files else None

    def inode_at(self, path: str) -> tuple[int, int] | None:
        before = self.anchored
        if before and path == before[0]:
            self.anchored = None  # by its name, wherever that leads
        try:
            directory, name = self._parent(path)
            return (0, directory.names[name].inode) if name in directory.names else None
        except FileNotFoundError:
            return None
        finally:
            self.anchored = before

    def owns(self, fd: int) -> bool:
        return fd in self._files

    def made(self, fd: int) -> int:
        return 0  # no number is given out twice

    def links(self, path: str) -> int:
        return int(self.exists(path))

    def close_rest(self) -> None:
        pass

    def whereabouts(self, fd: int) -> str:
        return ""

    def after_fork(self) -> Self:
        return self  # no process forks here

    def resemble(self, path: str) -> bool:
        return True

    def close(self, fd: int, /) -> None:
        if self._dead:
            raise PowerCut
        if self.anchored and self._files[fd][1] is self.anchored[1]:
            self.anchored = None
        del self._files[fd]
        self._locks.pop(fd, None)
        self._byte_locks = {key: file for key, file in self._byte_locks.items() if key[0] != fd}

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        path, file = self._files[fd]
        fault = self.step("pread", path, changes=False)
        if fault == SHORT:
            size = max(1, size // 2)
        return file.content()[offset : offset + size]

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:
        path, file = self._files[fd]
        if self.step("pwrite", path) == SHORT:
            data = data[: max(1, len(data) // 2)]
        fits = self._fitting(file, offset + len(data)) - offset
        if fits < len(data):
            if fits <= 0:
                raise _error(errno.ENOSPC, path)
            data = data[:fits]
        file.write(self._order, offset, bytes(data))
        return len(data)

    def pwrite_direct(self, fd: int, data: bytes, offset: int) -> int:
        path, file = self._files[fd]
        if offset % PAGE_BYTES or len(data) % PAGE_BYTES or not self.direct:
            raise _error(errno.EINVAL, path)
        try:
            fault = self.step("pwrite", path)
        except OSError:
            file.fail_direct(offset, data)
            raise
        if fault == SHORT:
            file.fail_direct(offset, data)
            half = len(data) // 2
            data = data[: half - half % SECTOR_BYTES]
            file.write(self._order, offset, data)
        else:
            file.end_direct(self._order, offset, data)
        return len(data)

    def begin_direct(self, fd: int, data: bytes, offset: int) -> Callable[[], None]:
        """The first half of `pwrite_direct`, alone; and what completes it if its process dies."""
        file, order = self._files[fd][1], self._order
        file.begin_direct(offset, data)
        return lambda: file.end_direct(order, offset, data)

    def size(self, fd: int) -> int:
        return len(self._files[fd][1].content())

    def allocate(self, fd: int, offset: int, size: int) -> None:
        path, file = self._files[fd]
        self.step("allocate", path)
        fits = self._fitting(file, offset + size)
        if fits < offset + size:
            if self.keeps_part:
                file.grow(self._order, fits)
            raise _error(errno.ENOSPC, path)
        file.grow(self._order, offset + size)

    def truncate(self, fd: int, size: int) -> None:
        path, file = self._files[fd]
        self.step("truncate", path)
        file.shrink(size)

    def free(self, path: str) -> int | None:
        return None if self.capacity is None or not self.tells_free else max(0, self.free_bytes())

    def free_bytes(self) -> int:
        """What there is room for."""
        assert self.capacity is not None
        files = {id(file): file for file in (*(each for _, each in self.walk()), *self._open_files())}
        return self.capacity - sum(map(_pages, files.values())) * PAGE_BYTES

    def _open_files(self) -> Iterator[File]:
        """Those that were unlinked keep their room until they are closed."""
        return (file for _, file in self._files.values() if isinstance(file, File))

    def _fitting(self, file: File, size: int) -> int:
        """How long the file can become, at most *size*."""
        if self.capacity is None:
            return size
        return min(size, _pages(file) * PAGE_BYTES + max(0, self.free_bytes()))

    def forget(self, fd: int, offset: int, size: int) -> None:
        if self._dead:
            raise PowerCut
        self._files[fd][1].forget(offset, size)

    def sync(self, fd: int) -> None:
        path, file = self._files[fd]
        self._sync("sync", path, file)

    def sync_directory(self, path: str) -> None:
        self._sync("sync_directory", path, self._directory(path))

    def _sync(self, kind: str, path: str, node: File | Directory) -> None:
        try:
            self.step(kind, path)
        except OSError:
            node.marked_clean()
            raise
        node.synced()

    def names(self, path: str) -> list[str]:
        self.step("names", path, changes=False)
        return list(reversed(self._directory(path).names))

    def exists(self, path: str) -> bool:
        try:
            directory, name = self._parent(path)
        except FileNotFoundError:
            return False
        return name in directory.names

    def make_directory(self, path: str) -> None:
        directory, below = self.root, path
        if self.anchored and path.startswith(f"{self.anchored[0]}/"):
            directory, below = self.anchored[1], path[len(self.anchored[0]) :]
        for name in _parts(below):
            if name not in directory.names:
                self.step("make_directory", path)
                directory.change(Change(self._order, None, name, Directory(self._order)))
            directory = self._enter(directory, name, path)

    def rename(self, old: str, new: str) -> None:
        self.step("rename", old)
        directory, name = self._parent(old)
        target, new_name = self._parent(new)
        if name not in directory.names:
            raise _error(errno.ENOENT, old)
        node = directory.names[name]
        if target is directory:
            directory.change(Change(self._order, name, new_name, node))
        else:  # into another directory: two changes, either of which may be lost
            target.change(Change(self._order, None, new_name, node))
            directory.change(Change(self._order, name, None, None))

    def unlink(self, path: str) -> None:
        self.step("unlink", path)
        directory, name = self._parent(path)
        if name not in directory.names:
            raise _error(errno.ENOENT, path)
        directory.change(Change(self._order, name, None, None))

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        file = self._files[fd][1]
        others = [held for owner, (at, held) in self._locks.items() if at is file and owner != fd]
        if others and not (shared and all(others)):
            self._locks.pop(fd, None)  # an exchange that fails loses what was held
            return False
        self._locks[fd] = file, shared
        return True

    def unlocker(self, fd: int) -> Callable[[], object]:
        return lambda: self._locks.pop(fd, None)

    def lock_byte(self, fd: int, at: int) -> bool:
        taken = not self.byte_is_locked(fd, at)
        if taken:
            self._byte_locks[fd, at] = self._files[fd][1]
        return taken

    def byte_is_locked(self, fd: int, at: int) -> bool:
        file = self._files[fd][1]
        return any(
            each is file and byte == at and owner != fd for (owner, byte), each in self._byte_locks.items()
        )

    def heed_barriers(self) -> bool:
        return True

    def barrier(self) -> bool:
        return True

    def pause(self, seconds: float) -> None:
        pass

    def clocks(self) -> tuple[int, int]:
        return self.boot, 1

    def lockers(self, path: str) -> list[int]:
        return []

    def file_system(self, path: str) -> str:
        return ""

    def make_fifo(self, path: str) -> None:
        pass

    def open_fifo(self, path: str) -> int:
        return self.open(path, write=True, create=True)

    def ring(self, fd: int) -> None:
        pass

    def listen(self, fd: int, seconds: float) -> None:
        pass

    def map(self, fd: int) -> memoryview:
        file = self._files[fd][1]
        if file.words is None:
            file.words = array("Q", file.cache).tolist()
        return Words(self, file)  # type: ignore[return-value]

    def may_map(self, path: str) -> bool:
        return self.direct  # what is mapped must be written again past the cache

    def window(self, fd: int, offset: int, size: int) -> Window | None:
        path, file = self._files[fd]
        assert isinstance(file, File)
        assert offset % PAGE_BYTES == 0 and offset + size <= len(file.cache), "mapped, and not reserved"
        try:
            self.step("window", path, changes=False)
        except OSError:
            return None
        return Window(self, path, file, offset, size)

    # ── paths ──────────────────────────────────────────────────────────────────────

    def _directory(self, path: str) -> Directory:
        directory, below = self.root, path
        if self.anchored and f"{path}/".startswith(f"{self.anchored[0]}/"):
            directory, below = self.anchored[1], path[len(self.anchored[0]) :]
        for name in _parts(below):
            directory = self._enter(directory, name, path)
        return directory

    def _parent(self, path: str) -> tuple[Directory, str]:
        head, _, name = path.rpartition("/")
        return self._directory(head), name

    def _enter(self, directory: Directory, name: str, path: str) -> Directory:
        node = directory.names.get(name)
        if not isinstance(node, Directory):
            raise _error(errno.ENOTDIR if node else errno.ENOENT, path)
        return node


@cache
def _parts(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _pages(file: File) -> int:
    return -(-(len(file.cache) if file.words is None else PAGE_BYTES) // PAGE_BYTES)


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
