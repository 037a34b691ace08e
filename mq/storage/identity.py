"""FORMAT: which store this is.  One line, written once, never changed.

    mq 1 <store id, 32 hex digits> <key, 16 hex digits> <crc32c of what is before it, 8 hex digits>

The id is public: (store id, message id) is unique within one history.  The key only seeds
checksums; it is not the id, so that knowing an id is not enough to make a message body
that passes as a record.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Final, NamedTuple

from mq.errors import CorruptStore, Unsupported

from . import paths
from .crc import crc32c
from .disk import Disk, write_file

VERSION: Final = 1
ID_BYTES: Final = 16
LINE: Final = re.compile(rb"(mq (\d{1,9}) ([0-9a-f]{32}) ([0-9a-f]{16})) ([0-9a-f]{8})\n")


class Identity(NamedTuple):
    store_id: str
    key: bytes

    def line(self) -> bytes:
        text = f"mq {VERSION} {self.store_id} {self.key.hex()}".encode()
        return text + b" %08x\n" % crc32c(text)


def new(key: bytes) -> Identity:
    """With an id that no other store has."""
    return Identity(os.urandom(ID_BYTES).hex(), key)


def create(disk: Disk, path: str) -> Identity:
    """Write FORMAT for a new store: whole and durable under its name, or not there."""
    identity = new(os.urandom(8))
    sync_names_above(disk, os.path.dirname(path))
    write(disk, path, identity)
    return identity


def write(disk: Disk, path: str, identity: Identity) -> None:
    """Put FORMAT there, whole and durable under its name."""
    write_file(disk, paths.aside(path), identity.line())
    disk.rename(paths.aside(path), path)
    disk.sync_directory(os.path.dirname(path))


def sync_names_above(disk: Disk, directory: str) -> None:
    """The directory, and those above that were made for it, must not be lost with their names.

    Before FORMAT is there: a process that finds it need not do that again.
    """
    while directory not in ("", "/"):
        directory = os.path.dirname(directory)
        with suppress(PermissionError):  # then it was not made by us
            disk.sync_directory(directory or ".")


def read(disk: Disk, path: str) -> Identity:
    """The identity in FORMAT; CorruptStore or Unsupported if it cannot be used."""
    fd = disk.open(path)
    try:
        line = disk.pread(fd, 256, 0)
    finally:
        disk.close(fd)
    match = LINE.fullmatch(line)
    if not match or int(match[5], 16) != crc32c(match[1]):
        raise CorruptStore(
            path, "not a store's FORMAT line; restore it from a copy, or let `mq repair` write it again", 0
        )
    if int(match[2]) != VERSION:
        raise Unsupported(
            f"{path}: store format {int(match[2])} is not format {VERSION}, which this mq reads; upgrade mq"
        )
    return Identity(match[3].decode(), bytes.fromhex(match[4].decode()))
