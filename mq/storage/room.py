"""Room for what is to be appended: reserved on the disk, in a new segment if need be.

    room ──► reserved already?  yes: go on
             no: a MiB more of the last segment ──► no room there: a new segment ──► a full disk:
                                                    publishes are refused; what takes messages
                                                    out may use what was kept back (reserve.py)

A full disk is noticed here, before anything is torn.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from . import rotation
from .closing import Closing
from .explain import NO_ROOM, pass_on, storage_error
from .real_disk import file_bytes_max
from .record import CLOCK_BYTES, FENCE_BYTES
from .reserve import Reserve
from .rotation import Rotation
from .tail import Tail
from .watch import Watch

GRANT_BYTES: Final = 256 << 10  # of that room publishes may use so much before the reserve is looked at
AHEAD_BYTES: Final = 128 << 10  # the reserve grows in steps of this, if the disk has so much
LOOK_MS: Final = 1000  # how often what happens rarely is looked for while records are appended


class Room:
    def __init__(
        self, tail: Tail, segments: Rotation, closing: Closing, reserve: Reserve, watch: Watch
    ) -> None:  # fmt: skip
        self._tail, self._rotation, self._closing = tail, segments, closing
        self._disk, self._reserve, self._watch = tail.disk, reserve, watch
        self._again_ms = 0  # `_grow` found no room, and looks again then

    def make(self, now_ms: int, size: int, kinds: Collection[int], count: int) -> int:
        """Reserve *size* bytes at the end, in a new segment if need be; the position of the first.

        What takes messages out may use the room kept back for that; then everything comes through here,
        until there is room to keep back again.  So do the first append after an idle time, which wakes the
        thread that syncs, and one each second, to look whether the files are still the store's.  The one
        that is written to is looked at each time: the size of another one is not to be changed.
        """
        tail, reserve = self._tail, self._reserve
        tail.grows()
        self._watch.stand_again(now_ms)
        self._watch.stand_by(tail.writing)
        if not self._closing.said_open:
            self._closing.say_open(now_ms)
        refusable = not tail.owner.refusable.isdisjoint(kinds)
        whole, least = tail.owner.kept(kinds, count)
        asked, elsewhere = size + rotation.STARVED_BYTES, False
        before = tail.fd, tail.allocated
        while True:
            try:
                if refusable and reserve.full and not reserve.way_made:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # clean first, then come again
                begun = elsewhere or self._segment_ends(now_ms, size)
                if refusable and (begun or reserve.full or whole > reserve.held or self._is_used_up(size)):
                    self._hold(whole)
                if begun:
                    elsewhere = False
                    self._rotation.rotate(now_ms, size)
                self._allocate(size)
                break
            except OSError as error:
                tail.room = 0
                if error.errno in NO_ROOM:
                    reserve.full = True
                    if not refusable and self._is_too_long(error):
                        elsewhere = True
                        continue
                    if not refusable and error.errno != errno.EFBIG and reserve.give(asked, least):
                        asked *= 4  # what a file system needs beside the room itself, it does not say
                        continue
                else:
                    pass_on(error)
                    self._watch.stand()  # perhaps the program closed a descriptor
                tail.owner.grown()  # perhaps there is something to clean
                raise storage_error(tail.directory, error) from error
        reserve.full = reserve.full and not refusable
        reserve.way_made = reserve.way_made and refusable
        if not refusable and not reserve.full and whole > reserve.held and now_ms >= self._again_ms:
            self._grow(now_ms, whole)
        # A publish comes by again before there are more messages than room was kept back for.
        enough = self._closing.said_open and not reserve.full and whole <= reserve.held
        tail.room = min(tail.allocated, tail.end + size + GRANT_BYTES) if enough else 0
        tail.map(enough=enough)
        tail.look_ms = min(tail.latest_ms, now_ms + LOOK_MS)
        if reserve.full or before != (tail.fd, tail.allocated):
            tail.owner.grown()
        return tail.end

    def _hold(self, whole: int) -> None:
        """Keep *whole* bytes back, and some for messages to come, if there is room for that."""
        if not self._reserve.full:
            try:
                self._reserve.hold(whole + AHEAD_BYTES)
                return
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
        self._reserve.hold(whole)

    def _grow(self, now_ms: int, whole: int) -> None:
        """Keep *whole* bytes back for messages that were not seen as they came, if the disk has so much.

        What takes messages out does not need that.  But without it each such record is given its room by
        itself, and is written, not copied.
        """
        try:
            self._hold(whole)
        except OSError:
            self._again_ms = now_ms + LOOK_MS  # a full disk takes long to say so

    def _segment_ends(self, now_ms: int, size: int) -> bool:
        """Whether *size* bytes go into a new segment: for room, or so that it says what time it is."""
        tail = self._tail
        if not tail.segments:
            return True
        clock_was_set = self._rotation.clock_was_set() and not self._reserve.full
        return tail.end + size > tail.segments[-1].limit or now_ms > tail.latest_ms or clock_was_set

    def _is_used_up(self, size: int) -> bool:
        """Whether there are no *size* bytes reserved at the end."""
        return self._tail.end + size > self._tail.allocated

    def _is_too_long(self, error: OSError) -> bool:
        """Whether this file may not grow (RLIMIT_FSIZE), and a new one may."""
        used = self._tail.end - self._tail.segments[-1].base
        return error.errno == errno.EFBIG and used > FENCE_BYTES + CLOCK_BYTES

    def _allocate(self, size: int) -> None:
        """Reserve *size* bytes in the last segment, and some more if the disk has them."""
        if not self._is_used_up(size):
            return
        # As far as this process knew: another one may have reserved more, which the file's size says.
        tail = self._tail
        last, there = tail.segments[-1], self._disk.size(tail.fd)
        tail.reserved(last, there)
        if not self._is_used_up(size):
            return
        usual = [] if self._reserve.full else [rotation.ALLOCATE_BYTES]
        for step in (*usual, rotation.STARVED_BYTES, 0):
            target = min(last.limit, max(tail.end + size, tail.allocated + step))
            try:
                if last.offset(target) > file_bytes_max():  # the system says so only where the file ends
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
                self._disk.allocate(tail.fd, last.offset(tail.allocated), target - tail.allocated)
            except OSError as error:
                with suppress(OSError):  # some file systems keep what they had found so far
                    self._disk.truncate(tail.fd, there)
                if error.errno not in NO_ROOM or not step:
                    raise
            else:
                tail.allocated = target
                return
