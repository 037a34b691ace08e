"""A checkpoint: the state at one position of the log, so that opening reads only what follows.

    checkpoint/<position>.state   ┌───────┬─────┬────────┬────────┬─────────┐
                                  │ magic │ key │ crc32c │ length │ msgpack │
                                  └───────┴─────┴────────┴────────┴─────────┘
    checkpoint/<position>.ids     arrays of u64, one after the other

It is a cache.  If it is missing, old, foreign or damaged, opening takes longer, and
that is all.  It says nothing that the log does not say: it is put under its name only
when the log is synced up to its position, and used only if the record before that
position is the one that it saw.

Long arrays are written once.  A later checkpoint names them in the file where they
are; files that the newest checkpoint does not name are removed.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from struct import Struct
from typing import Final, NamedTuple

import msgspec

from . import paths
from .crc import crc32c
from .disk import Disk, write_file
from .recovery import Start

Buffer = bytes | memoryview | msgspec.Raw
BLOCK_BYTES: Final = 1 << 20  # copied, checked and written in one call
NIL: Final = msgspec.Raw(b"\xc0")
MAGIC: Final = b"mq-ckpt\n"
HEADER: Final = Struct("<8s8sIQ")
VERSION: Final = 4  # of what the layer above keeps: another one is passed over


class Place(NamedTuple):
    """Where an array is: in which .ids file, at which offset, how many words; and its checksum."""

    pack: int
    offset: int
    words: int
    crc: int


class Checkpoint(msgspec.Struct):
    version: int
    start: Start
    last_ms: int  # the time of the last record before the position
    packs: list[int]  # the .ids files that the state names
    state: msgspec.Raw  # the layer above's

    @property
    def position(self) -> int:
        return self.start.position


class Pack:
    """The arrays that a new checkpoint adds."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.parts: list[bytes] = []
        self._offset = 0

    def add(self, words: array[int]) -> Place:
        data = _little(words).tobytes()
        place = Place(self.position, self._offset, len(words), crc32c(data))
        self.parts.append(data)
        self._offset += len(data)
        return place


def _little(words: array[int]) -> array[int]:
    """The words as they are on disk."""
    if sys.byteorder == "little":
        return words
    swapped = words[:]
    swapped.byteswap()
    return swapped


def write(
    disk: Disk, directory: str, key: bytes, checkpoint: Checkpoint, state: Iterable[Buffer], pack: Pack,
    sync_log: Callable[[], None],
) -> int:  # fmt: skip
    """Make it durable and the newest, then remove what it does not name; its size.

    *state*: what it holds of the layer above, in parts.  They may be long, and are never copied all at
    once: no other thread would run meanwhile.
    """
    head = msgspec.msgpack.encode(msgspec.structs.replace(checkpoint, state=NIL)).removesuffix(bytes(NIL))
    body = list(_blocks([head, *state]))
    crc, size = crc32c(key), sum(map(len, body))
    for block in body:
        crc = crc32c(block, crc)
    body[0] = HEADER.pack(MAGIC, key, crc, size) + body[0]
    path = paths.state(directory, checkpoint.position)
    ids = paths.ids(directory, pack.position)
    try:
        if pack.parts:
            write_file(disk, ids, *_blocks(pack.parts))
        write_file(disk, paths.aside(path), *body)
    except OSError:
        # They are of no use, and on a full disk they would stay for long.
        for name in (ids, paths.aside(path)):
            with suppress(OSError):
                disk.unlink(name)
        raise
    sync_log()
    disk.rename(paths.aside(path), path)
    disk.sync_directory(directory)
    _remove_others(disk, directory, checkpoint)
    return HEADER.size + size


def _blocks(parts: Iterable[Buffer]) -> Iterator[bytes]:
    """The same bytes, BLOCK_BYTES or so in each."""
    waiting: list[Buffer] = []
    size = 0
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), BLOCK_BYTES):
            waiting.append(view[at : at + BLOCK_BYTES])
            size += len(waiting[-1])
            if size >= BLOCK_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def newest(disk: Disk, directory: str, key: bytes, upto: int) -> Checkpoint | None:
    """The newest that is whole, this store's, and not ahead of *upto*."""
    for position in sorted(positions(disk, directory, "state"), reverse=True):
        if position <= upto and (found := _read(disk, paths.state(directory, position), key)):
            return found
    return None


def drop_behind(disk: Disk, directory: str, end: int) -> None:
    """Remove those of positions behind the log's *end*: in a copy they may be newer than the log."""
    dropped = [position for position in positions(disk, directory, "state") if position > end]
    for position in dropped:
        disk.unlink(paths.state(directory, position))
    if dropped:
        disk.sync_directory(directory)


def positions(disk: Disk, directory: str, kind: str) -> list[int]:
    """Of the files of this *kind* that are there."""
    try:
        names = disk.names(directory)
    except OSError:
        return []
    matches = [match for name in names if (match := paths.CHECKPOINT_FILE.fullmatch(name))]
    return [int(match[1]) for match in matches if match[2] == kind]


def load(disk: Disk, directory: str, place: Place) -> array[int] | None:
    """The array at *place*; None if it is not there any more, or damaged."""
    words = array("Q")
    try:
        fd = disk.open(paths.ids(directory, place.pack))
        try:
            data = disk.pread(fd, place.words * 8, place.offset)
        finally:
            disk.close(fd)
    except OSError:
        return None
    if len(data) != place.words * 8 or crc32c(data) != place.crc:
        return None
    words.frombytes(data)
    return _little(words)


def _read(disk: Disk, path: str, key: bytes) -> Checkpoint | None:
    try:
        fd = disk.open(path)
        try:
            data = disk.pread(fd, disk.size(fd), 0)
        finally:
            disk.close(fd)
    except OSError:
        return None
    if len(data) < HEADER.size:
        return None
    magic, own_key, crc, length = HEADER.unpack_from(data)
    body = data[HEADER.size :]
    if magic != MAGIC or own_key != key or len(body) != length or crc32c(body, crc32c(key)) != crc:
        return None
    try:
        found = msgspec.msgpack.decode(body, type=Checkpoint)
    except msgspec.MsgspecError:
        return None
    return found if found.version == VERSION else None


def _remove_others(disk: Disk, directory: str, kept: Checkpoint) -> None:
    names = {os.path.basename(paths.state(directory, kept.position))}
    names.update(os.path.basename(paths.ids(directory, pack)) for pack in kept.packs)
    for name in disk.names(directory):
        if name not in names:
            with suppress(OSError):  # the next one tries again
                disk.unlink(os.path.join(directory, name))
