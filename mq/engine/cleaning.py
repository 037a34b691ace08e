"""Cleaning: whether the oldest segment is cleaned now, and what becomes of an error.

    there is room       once garbage exceeds what is live, and a segment (storage/cleaner.py)
    the disk is full    as soon as that gives more room than it takes (pressure.py)
    an error            is noted, and cleaning tried again, later each time
    the store closes    cleaning ends between two slices

A publisher that outruns the cleaner is slowed down once the disk holds more than twice what lives, and a
few segments: that bound is a promise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final, NamedTuple

from mq.engine import pressure
from mq.engine.log import Conflict
from mq.engine.moving import Mover
from mq.engine.pressure import SizeOf
from mq.engine.replica import Replica
from mq.errors import Closed, DiskFull, MqError, StorageError, StoreLocked
from mq.notes import WARNING, Notes
from mq.storage import cleaner
from mq.storage.cleaner import Turn
from mq.storage.explain import will_pass
from mq.storage.log import Log
from mq.storage.record import FENCE_BYTES

FULL_LOOK_BYTES: Final = 64 << 10  # of log between two looks at what cleaning would give on a full disk
FULL_LOOK_SHARE: Final = 8  # or when so large a part of what lived is gone
FULL_LOOK_SECONDS: Final = 1.0  # or after so long: others may have made room
ENOUGH_BYTES: Final = 256 << 20  # of free room: the disk is not full, whatever lives
PRESSED_SEGMENTS: Final = 1  # beyond what makes the cleaner start
TROUBLE_SECONDS: Final = 1.0  # until a failed cleaning is tried again; then twice as long, and so on
TROUBLE_SECONDS_MAX: Final = 600.0
STALL_SECONDS: Final = 0.002  # for each publish while the cleaner is behind
STALL_FACTOR: Final = 8  # for each segment farther
STALL_SECONDS_MAX: Final = 0.128


class _TimeIsUp(Exception):
    """Between two slices: the store is being closed."""


class Looked(NamedTuple):
    """What was seen on a full disk when it was last looked at."""

    head: int  # of the log
    end: int
    live: int  # bytes
    until: float  # monotonic seconds: when it is time to look again
    pays: bool  # whether cleaning the oldest segment does


class Cleaning:
    until = math.inf
    """Monotonic seconds: when cleaning has to stop.  Set without a lock, once the store is being closed."""
    trouble: MqError | None = None
    """Why space is not given back, if so."""
    pressed = False
    """The cleaner is behind: publishers wait `stall_seconds`."""
    stall_seconds = 0.0

    def __init__(
        self, turn: Turn, replica: Replica, size_of: SizeOf, notes: Notes, note_pressure: Callable[[], None],
        keep_renames: Callable[[], None], *, background: bool,
    ) -> None:  # fmt: skip
        """*note_pressure* is called under the store's lock, when `pressed` may have changed.
        *keep_renames*, without it, before a segment is dropped: see checkpoints.py.

        *background*: it rests between two slices, for the other threads to go on.
        """
        self._turn, self._replica, self._size_of, self._notes = turn, replica, size_of, notes
        self._note_pressure, self._keep_renames = note_pressure, keep_renames
        self._background = background
        self._mover = Mover(replica)
        self._looked = Looked(0, 0, 0, 0.0, False)
        self._again_at, self._again_seconds = 0.0, TROUBLE_SECONDS  # monotonic: when trouble is tried again

    # ── under the store's lock ─────────────────────────────────────────────────────

    def kept(self, kinds: Collection[int], count: int) -> tuple[int, int]:
        """What an append may not take of the room kept back; the log asks."""
        return pressure.kept(self._replica.state, kinds, count)

    def is_due(self) -> bool:
        log, live = self._replica.log, self._replica.state.live_bytes()
        if self.trouble is not None and (log.trimming.names_unsure or time.monotonic() < self._again_at):
            return False
        return self._pays(live) if log.reserve.full else cleaner.is_due(log, live)

    def measure(self) -> None:
        """See whether the cleaner is behind."""
        log = self._replica.log
        over = log.disk_bytes() - 2 * self._replica.state.live_bytes()
        behind = over / log.segment_bytes - (PRESSED_SEGMENTS + 1)
        self.pressed = behind > 0 and self.trouble is None
        self.stall_seconds = min(STALL_SECONDS * STALL_FACTOR ** max(0.0, min(behind, 9)), STALL_SECONDS_MAX)
        self._note_pressure()

    # ── without it ─────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Clean all that is due.  Trouble is logged, but for a StorageError that will pass."""
        try:
            while time.monotonic() < self.until and self.look() and self.clean():
                self.trouble, self._again_seconds = None, TROUBLE_SECONDS
        except Closed:
            raise
        except _TimeIsUp:
            pass
        except (DiskFull, StoreLocked):
            pass  # tried again as soon as something was settled; at the next step
        except MqError as error:
            if isinstance(error, StorageError) and will_pass(error):
                raise
            self._note(error)

    def _note(self, error: MqError) -> None:
        if self.trouble is None:
            self._notes.put_down(
                WARNING, "%s: space is not given back, which is tried again now and then: %s",
                self._replica.path, error,
            )  # fmt: skip
        self.trouble = error
        self._again_at = time.monotonic() + self._again_seconds
        self._again_seconds = min(2 * self._again_seconds, TROUBLE_SECONDS_MAX)
        self.pressed = False

    def make_way(self, until: float) -> None:
        """Clean what pays, for a publisher that found the disk full."""
        while time.monotonic() < until and self.look() and self.clean():
            pass

    def look_anew(self) -> None:
        """Forget what was seen on a full disk: it is time to look again."""
        self._looked = Looked(0, 0, 0, 0.0, False)

    def clean(self) -> int:
        """Move what lives in the oldest segment, and drop it; the bytes given back."""
        self._keep_renames()
        while True:
            with suppress(Conflict):  # another writer was first: what it moved or settled is not moved again
                return self._clean()

    def _clean(self) -> int:
        return cleaner.clean(self._turn, self._mover, self._rest)

    def _rest(self) -> None:
        if time.monotonic() > self.until:
            raise _TimeIsUp
        if self._background:
            time.sleep(0 if self.pressed else 0.001)

    def look(self) -> bool:
        """Whether there is something to clean.  On a full disk, also in the segment that is in use."""
        return self._turn(self._look)

    def _look(self, log: Log, now_ms: int, _: int) -> bool:
        if log.reserve.full:
            return self._look_on_full_disk(log, now_ms)
        self.measure()
        self._shrink_reserve(log)
        return self.is_due()

    def _look_on_full_disk(self, log: Log, now_ms: int) -> bool:
        if not self.is_due():
            return False
        if not self.copies_fit():
            self._looked = self._looked._replace(pays=False)  # until more was settled
            return False
        if len(log.segments) == 1:
            log.rotation.roll(now_ms)
        return True

    # ── a full disk ────────────────────────────────────────────────────────────────

    def _pays(self, live: int) -> bool:
        """On a full disk: whether the oldest segment gives more than moving what lives in it takes."""
        log, looked, now = self._replica.log, self._looked, time.monotonic()
        if (
            self._replica.state.total()
            and looked.head == log.head
            and looked.end <= log.end < looked.end + FULL_LOOK_BYTES
            and live > looked.live - looked.live // FULL_LOOK_SHARE
            and now < looked.until
        ):
            return looked.pays
        used = log.used(log.segments[0])
        pays = used > FENCE_BYTES + pressure.ALWAYS_BYTES and pressure.pays(
            used, self.cost(), log.disk_bytes() - live, live
        )
        if not pays:
            self._see_room(log)
        self._looked = Looked(log.head, log.end, live, now + FULL_LOOK_SECONDS, pays)
        return pays

    def _see_room(self, log: Log) -> None:
        """Nothing is to be had from cleaning now: is there room for the garbage that is usually let lie?

        While there is not, the disk counts as full, so that all that is settled is cleaned as
        soon as that pays; and it does when nothing lives any more.
        """
        state, (whole, _) = self._replica.state, self.kept((), 0)
        self._shrink_reserve(log)
        garbage = min(state.live_bytes() + 2 * log.segment_bytes, ENOUGH_BYTES) if state.total() else 0
        if log.reserve.has(whole + garbage):
            log.reserve.hold(whole)
            log.reserve.full = False

    def _shrink_reserve(self, log: Log) -> None:
        """Once most of what it was kept back for has been settled, others may have the room."""
        whole, _ = self.kept((), 0)
        if log.reserve.held > (whole if log.reserve.full else 2 * whole):
            log.reserve.shrink(whole)

    def cost(self) -> int:
        """About what is written again to clean the oldest segment."""
        oldest = self._replica.log.segments[0]
        return pressure.cost_of(self._replica.state, self._size_of, oldest.base, oldest.limit)

    def copies_fit(self) -> bool:
        """Whether there is room for them, and afterwards enough to settle all messages."""
        least = pressure.least_for_copies(self._replica.state.total())
        return self._replica.log.reserve.is_there_for(least + self.cost())
