"""Trimming: what lives in the oldest part of the stream is appended again, and the stream purged up to there.

    first                                        last
      │░░█░░█░░│░█░░░░░█░│ …  │████░█░░│██████ → █ █
      └ purged, once what lived in it stands at the end

It is cut at a fence that holds (`fences.may_cut`): so what is shared behind the cut was decided behind it.
What lives, and how it is written again, is what the cleaner of files does (mq/engine/moving.py).  Any process
may do it, at any time: a slice that meets a Conflict is planned again, and what another one moved is not
moved twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, Final

from mq.delivery import snapshot
from mq.engine.log import Conflict
from mq.engine.maintenance import Maintenance
from mq.engine.moving import Mover, Token
from mq.engine.pressure import SizeOf
from mq.errors import Closed, CorruptStore, DiskFull, MqError, StorageError
from mq.nats.checkpoints import Kept, newest, put
from mq.nats.fences import Order
from mq.nats.log import TRIM_SHARE
from mq.nats.message import begin_of
from mq.nats.opening import StreamReplica
from mq.nats.stream import Range
from mq.notes import WARNING, Notes
from mq.storage.cleaner import SLICE_BYTES, SLICE_RECORDS, Turn
from mq.storage.tail import Draft

FLOOR_BYTES: Final = 64 << 20  # of the stream, beside twice what lives: less is not worth a trim
SHARE: Final = 4  # a part of the messages that is trimmed at once
ROOM_FACTOR: Final = 2  # so many times as much room as that part takes; it ends at a fence, which comes later
CHECKPOINT_BYTES: Final = 4 << 20  # of messages between two checkpoints, at least
CHECKPOINT_SHARE: Final = 4  # and at least as many times the size of the last one
TROUBLE_SECONDS: Final = 10.0  # until what failed is tried again


class StreamCheckpoints:
    """When the state is kept for the next opening.  All but `is_due` is called without the mutex."""

    def __init__(self, turn: Turn, replica: StreamReplica, notes: Notes, *, background: bool) -> None:
        self._turn, self._replica, self._notes = turn, replica, notes
        self._bytes = 0  # that the last one took
        self._at = 0  # what the log had taken in then, in bytes

    def is_due(self, grown: int = CHECKPOINT_BYTES) -> bool:
        log = self._replica.log
        return bool(log.taken_in - self._at > max(grown, CHECKPOINT_SHARE * self._bytes))

    def see_others(self) -> None:
        """Another process may have written one since."""
        replica = self._replica
        at = begin_of(newest(replica.connection, replica.stream) + 1)
        if self.is_due() and at > replica.checkpoint_at:
            replica.checkpoint_at, self._at = at, replica.log.taken_in

    def write_if_due(self, grown: int) -> None:
        if self.is_due(grown):
            self._try()

    def keep_renames(self) -> None:
        """Before the stream is purged: a process that is behind reads the state from here."""
        self.write()

    def _try(self) -> None:
        try:
            self.write()
        except StorageError as error:
            self._notes.put_down_rarely(
                WARNING, "%s: no checkpoint, so opening will take longer: %s", self._replica.path, error
            )
            self._at = self._replica.log.taken_in

    def write(self) -> None:
        """Keep the state as it is now."""
        replica = self._replica
        order, last_ms, taken_in, frozen = self._turn(self._freeze)
        self._bytes = put(replica.connection, replica.stream, Kept.of(order, last_ms, frozen))
        replica.checkpoint_at, self._at = begin_of(order.last[0] + 1), taken_in

    def _freeze(self, log: Any, now_ms: int, epoch: int) -> tuple[Order, int, int, snapshot.Frozen]:
        return log.order, log.last_ms, log.taken_in, snapshot.freeze(self._replica.state)


class Trimming:
    """What mq/engine/cleaning.py is for files."""

    until = math.inf
    """Monotonic seconds: when it has to stop.  Set without a lock, once the store is being closed."""
    pressed = False  # a stream has room or has not: no publisher waits for a trim
    stall_seconds = 0.0
    trouble: MqError | None = None

    def __init__(
        self, turn: Turn, replica: StreamReplica, size_of: SizeOf, notes: Notes,
        note_pressure: Callable[[], None], keep: Callable[[], None], *, background: bool,
    ) -> None:  # fmt: skip
        """*keep* writes a checkpoint."""
        self._turn, self._replica, self._notes, self._keep = turn, replica, notes, keep
        self._mover = Mover(replica)
        self._again_at = 0.0  # monotonic seconds: when trouble is tried again

    def kept(self, kinds: Collection[int], count: int) -> tuple[int, int]:
        return 0, 0

    def measure(self) -> None:
        pass

    def look_anew(self) -> None:
        pass

    def is_due(self) -> bool:
        """Whether the stream has twice as much as what lives, and a floor; called in a turn."""
        return time.monotonic() >= self._again_at and self._exceeds(FLOOR_BYTES)

    def _exceeds(self, floor: int) -> bool:
        replica = self._replica
        return bool(replica.log.bytes > 2 * replica.state.live_bytes() + floor)

    def run(self) -> None:
        """Trim all that is due.  Trouble is logged."""
        try:
            self._trim_while(self._look, self.until)
        except (Closed, DiskFull):
            pass
        except MqError as error:
            self._again_at = time.monotonic() + TROUBLE_SECONDS
            self._notes.put_down_rarely(
                WARNING, "%s: the stream is not trimmed, which is tried again: %s", self._replica.path, error
            )

    def _look(self) -> bool:
        """Whether it is due by what the server says; called without the turn."""
        replica = self._replica
        there = replica.stream.range()
        replica.log.bytes = there.bytes
        return self._turn(lambda *_: self.is_due())

    def make_way(self, until: float) -> None:
        """The stream is full: trim while that gives more than it takes, with what is kept in reserve."""
        with suppress(StorageError):
            self._trim_while(lambda: self._turn(lambda *_: self._exceeds(0)), until)

    def _trim_while(self, is_due: Callable[[], bool], until: float) -> None:
        while time.monotonic() < until and is_due() and self.trim():
            pass

    def trim(self) -> int:
        """Move what lives in the oldest part of the stream, and purge that; the bytes given back."""
        replica = self._replica
        there = replica.stream.range()
        cut = there.first + max(1, int((there.last - there.first) * self._share(there)))
        if cut >= there.last:
            return 0
        fence = replica.log.fence_from(cut, there.last)
        return self._trim_before(fence or self._slice(None, self._mark))

    def _share(self, there: Range) -> float:
        """The part of the messages to trim: what lives in it has room beside it, until that is purged."""
        room: float = self._replica.log.room(TRIM_SHARE) - there.bytes
        return min(1 / SHARE, max(0.0, room) / ROOM_FACTOR / max(1, there.bytes))

    def trim_all(self) -> int:
        """Move all that lives, and purge what was there before; the bytes given back."""
        return self._trim_before(self._slice(None, self._mark))

    def _mark(self, log: Any, now_ms: int) -> int:
        """Append a fence with nothing in it, to go on behind: its sequence."""
        return log.mark(now_ms)  # type: ignore[no-any-return]

    def _trim_before(self, cut: int) -> int:
        """Move what lives before the message *cut*, and purge up to there; the bytes given back."""
        replica = self._replica
        epoch = self._turn(lambda log, ms, epoch: epoch)
        parts = replica.state.within(0, begin_of(cut))
        while (part := self._slice(epoch, lambda *_: next(parts, None))) is not None:
            while part:
                del part[: self._slice(epoch, partial(self._move, part, begin_of(cut)))]
        return self._forget(cut)

    def _forget(self, cut: int) -> int:
        """Purge the messages before *cut*, in which nothing lives."""
        replica = self._replica
        if cut <= replica.stream.range().first:
            return 0
        self._keep()  # so that it stands behind all that is purged
        return replica.log.trim(begin_of(cut))  # type: ignore[no-any-return]

    def _slice(self, epoch: int | None, do: Callable[..., Any]) -> Any:
        def run(log: Any, now_ms: int, now_epoch: int) -> Any:
            if epoch not in (None, now_epoch):
                raise StorageError(self._replica.path, "the state was read anew meanwhile")
            return do(log, now_ms)

        while True:
            if time.monotonic() > self.until:
                raise Closed(f"{self._replica.path}: the store is being closed")
            with suppress(Conflict):  # decide again: what another process moved or settled is not moved
                return self._turn(run)

    def _move(self, tokens: list[Token], limit: int, log: Any, now_ms: int) -> int:
        """Append the first few of *tokens* again that still live before *limit*; how many were looked at."""
        moves = []
        size = seen = 0
        for token in tokens[:SLICE_RECORDS]:
            seen += 1
            if draft := self._draft(token, limit, log):
                moves.append((token, draft))
                size += len(draft[3])
                if size > SLICE_BYTES:
                    break
        if moves:
            positions = log.append_group(now_ms, [draft for _, draft in moves])
            for (token, draft), position in zip(moves, positions, strict=True):
                self._mover.moved(token, position, draft)
        return seen

    def _draft(self, token: Token, limit: int, log: Any) -> Draft | None:
        """See Mover.draft; Conflict if another process has moved it, and purged what is read here."""
        try:
            return self._mover.draft(token, 0, limit)
        except CorruptStore:
            if log.barrier() > log.end:
                raise Conflict from None
            raise


class StreamMaintenance(Maintenance):
    cleaning: Any
    checkpoints_type = StreamCheckpoints
    cleaning_type = Trimming

    def compact(
        self, progress: Callable[[int, int], None] = lambda done, total: None, *, only_to_shrink: bool = False
    ) -> None:  # fmt: skip
        """Trim the whole stream."""
        with self.working:
            self.cleaning.trim_all()
