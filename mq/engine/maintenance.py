"""What a store does beside its work: give space back, write checkpoints, report trouble.

One thread, started when there is first something to do, woken when the log has grown
by a step.  It holds the store's lock for a slice of a millisecond or two at a time.

A publisher that outruns the cleaner is slowed down once the disk holds more than
twice what lives, and a few segments: that bound is a promise.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Final, NamedTuple, Protocol

import msgspec

from mq.delivery import fold, records, snapshot
from mq.delivery.decode import check
from mq.delivery.queue import QueueState
from mq.delivery.state import DECLARATION, Live, stands_at
from mq.delivery.traits import changes_in
from mq.engine import pressure
from mq.engine.background import Worker
from mq.engine.commit import Committer
from mq.engine.log import Conflict
from mq.engine.replica import Replica
from mq.errors import Closed, DiskFull, MqError, StorageError, StoreLocked
from mq.forks import is_held
from mq.notes import WARNING, Notes
from mq.storage import checkpoint, cleaner, paths
from mq.storage.explain import explain, will_pass
from mq.storage.locks import LOCK_SECONDS
from mq.storage.log import Log
from mq.storage.record import FENCE_BYTES
from mq.storage.recovery import Start
from mq.storage.segment import Scan, is_zero
from mq.storage.tail import Draft

MEMORY: Final = ":memory:"
Token = tuple[QueueState, Live]  # something that lives: see State.within

CHECKPOINT_BYTES: Final = 4 << 20  # of log between two checkpoints, at least
CHECKPOINT_SHARE: Final = 4  # and at least as many times the state that the last one wrote
FULL_LOOK_BYTES: Final = 64 << 10  # of log between two looks at what cleaning would give on a full disk
FULL_LOOK_SHARE: Final = 8  # or when so large a part of what lived is gone
FULL_LOOK_SECONDS: Final = 1.0  # or after so long: others may have made room
ENOUGH_BYTES: Final = 256 << 20  # of free room: the disk is not full, whatever lives
WAY_SECONDS: Final = 5.0  # a publisher on a full disk cleans for so long
FULL_REST_SECONDS: Final = 0.01  # between two looks of the thread
LET_RUN_SECONDS: Final = 20e-6  # the system makes 80 of it: as long as it takes to wake a thread
PRESSED_SEGMENTS: Final = 1  # beyond what makes the cleaner start
CLOSING_BYTES: Final = 64 << 10  # of log at close: less is read again as quickly
CLOSING_SECONDS: Final = 1.0  # for cleaning at close
TROUBLE_SECONDS: Final = (
    1.0  # until what could not be given back is tried again; then twice as long, and so on
)
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


class Owner(Protocol):
    """The store that is maintained."""

    def maintaining(self) -> AbstractContextManager[tuple[Log, int, int]]:
        """The store's lock for a slice of maintenance: the log, the time, and the state's epoch."""

    def alone_cleaning(self, seconds: float = ...) -> AbstractContextManager[bool]:
        """Whether no other process cleans or writes a checkpoint; it gets so many *seconds* to end."""

    def note_pressure(self) -> None:
        """`pressed` may have changed."""

    def let_go_if_forgotten(self) -> None:
        """Called behind each step of the thread, with no lock held."""


class Maintenance:
    def __init__(
        self, owner: Owner, replica: Replica, committer: Committer, notes: Notes, *, background: bool
    ) -> None:  # fmt: skip
        self._owner, self._replica, self._committer, self._notes = owner, replica, committer, notes
        self._background = background
        self._checkpoint_path = paths.checkpoints(replica.path)
        self.worker = Worker("mq-maintenance", replica.path, self._step, behind=owner.let_go_if_forgotten)
        self.working = threading.RLock()  # two at once would each drop the oldest segment
        self._until = math.inf  # monotonic seconds: when cleaning has to stop
        self._checkpoint_bytes = 0
        self._looked = Looked(0, 0, 0, 0.0, False)
        self.pressed = False
        self._stall_seconds = 0.0
        self.trouble: MqError | None = None  # why space is not given back, if so
        self._again_at, self._again_seconds = 0.0, TROUBLE_SECONDS  # monotonic: when that is tried again

    def nudge(self) -> None:
        """The log has grown; called under the store's lock."""
        log = self._replica.log
        if log.reserve.full and self.worker.runs():
            self.worker.ring()  # it looks when this append is done: that may have been the last ack
            return
        over = log.disk_bytes() - 2 * self._replica.state.live_bytes()
        behind = over / log.segment_bytes - (PRESSED_SEGMENTS + 1)
        self.pressed = behind > 0 and self.trouble is None
        self._stall_seconds = min(STALL_SECONDS * STALL_FACTOR ** max(0.0, min(behind, 9)), STALL_SECONDS_MAX)
        self._owner.note_pressure()
        if self._background and (self._clean_is_due() or self._checkpoint_is_due()):
            self._wake()

    def _wake(self) -> None:
        """Have the thread run; it is started if there is none, or if it has ended."""
        if self.worker.start():
            self.worker.ring()
        elif self._until == math.inf:  # else the store is being closed
            self._notes.put_down_rarely(
                WARNING, "%s: no thread can be started: publishers give space back, when they have to",
                self._replica.path,
            )  # fmt: skip

    def stall(self) -> None:
        """A publisher waits a little, for the cleaner to catch up; without a thread it cleans itself."""
        if self._background and self.worker.runs():
            time.sleep(self._stall_seconds)
        else:
            self._run(CHECKPOINT_BYTES)

    def run(self, checkpoint_bytes: int = CHECKPOINT_BYTES) -> None:
        """Do all that is due, unless another process is at it.

        A checkpoint is due when the log has grown by so many bytes.
        """
        self._run(checkpoint_bytes)
        self._notes.log()

    def _run(self, checkpoint_bytes: int) -> None:
        notes = self._notes
        with self.working:
            try:
                with explain(self._replica.path), self._owner.alone_cleaning() as ours:
                    if ours:
                        self._see_others_checkpoint()
                        with self._replica.log.failure.unheard():
                            self._run_due(checkpoint_bytes)
            except Closed:
                pass
            except StorageError as error:  # no descriptor to be had, perhaps: tried again at the next step
                notes.put_down_rarely(
                    WARNING, "%s: no space is given back just now: %s", self._replica.path, error
                )

    def _run_due(self, checkpoint_bytes: int) -> None:
        notes = self._notes
        try:
            while time.monotonic() < self._until and self._look() and self.clean():
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
            if self.trouble is None:
                notes.put_down(
                    WARNING, "%s: space is not given back, which is tried again now and then: %s",
                    self._replica.path, error,
                )  # fmt: skip
            self.trouble = error
            self._again_at = time.monotonic() + self._again_seconds
            self._again_seconds = min(2 * self._again_seconds, TROUBLE_SECONDS_MAX)
            self.pressed = False
        if self._checkpoint_is_due(checkpoint_bytes):
            try:
                with explain(self._checkpoint_path):
                    self.checkpoint()
            except StorageError as error:
                notes.put_down_rarely(
                    WARNING, "%s: no checkpoint, so opening will take longer: %s", self._replica.path, error
                )
                self._replica.checkpoint_at = self._replica.log.end

    def stop(self) -> None:
        """Have the thread stop; takes no lock."""
        self._until = time.monotonic()
        self.worker.stop()

    def finish(self) -> None:
        """Do what is due at close."""
        self._until = time.monotonic() + CLOSING_SECONDS
        self._run(CLOSING_BYTES)

    def is_working(self) -> bool:
        """Whether a thread is in the midst of it, perhaps this one."""
        return is_held(self.working)

    def wait(self) -> None:
        """Return when nothing is being done; called when nothing more is allowed to begin."""
        self._until = time.monotonic()
        with self.working:
            pass

    def _step(self) -> None:
        """What the thread does when it is woken."""
        self.run()
        if self._replica.log.reserve.full:
            time.sleep(FULL_REST_SECONDS)

    # ── space ──────────────────────────────────────────────────────────────────────

    def kept(self, kinds: Collection[int], count: int) -> tuple[int, int]:
        """What an append may not take of the room kept back; the log asks, under the store's lock."""
        return pressure.kept(self._replica.state, kinds, count)

    def _look(self) -> bool:
        """Whether there is something to clean.  On a full disk, also in the segment that is in use."""
        with self._owner.maintaining() as (log, now_ms, _):
            if log.reserve.full:
                return self._look_on_full_disk(log, now_ms)
            self.nudge()
            self._shrink_reserve(log)
            return self._clean_is_due()

    def _look_on_full_disk(self, log: Log, now_ms: int) -> bool:
        if not self._clean_is_due():
            return False
        if not self._copies_fit():
            self._looked = self._looked._replace(pays=False)  # until more was settled
            return False
        if len(log.segments) == 1:
            log.rotation.roll(now_ms)
        return True

    def _clean_is_due(self) -> bool:
        log, live = self._replica.log, self._replica.state.live_bytes()
        if self.trouble is not None and (log.trimming.names_unsure or time.monotonic() < self._again_at):
            return False
        return self._pays(live) if log.reserve.full else cleaner.is_due(log, live)

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
            used, self._cost(), log.disk_bytes() - live, live
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

    def _cost(self) -> int:
        """About what is written again to clean the oldest segment."""
        oldest = self._replica.log.segments[0]
        return pressure.cost_of(self._replica.state, self._committer.size_of, oldest.base, oldest.limit)

    def _copies_fit(self) -> bool:
        """Whether there is room for them, and afterwards enough to settle all messages."""
        least = pressure.least_for_copies(self._replica.state.total())
        return self._replica.log.reserve.is_there_for(least + self._cost())

    def clean(self) -> int:
        """Move what lives in the oldest segment, and drop it; the bytes given back."""
        while True:
            with suppress(Conflict):  # another writer was first: what it moved or settled is not moved again
                return self._clean()

    def _clean(self) -> int:
        return cleaner.clean(self._owner.maintaining, self, self._rest)

    def make_way(self) -> None:
        """Clean what pays, for a publisher that found the disk full; called without the store's lock."""
        self._looked = Looked(0, 0, 0, 0.0, False)
        until = time.monotonic() + WAY_SECONDS
        with self.working, self._owner.alone_cleaning() as ours, suppress(DiskFull, StoreLocked):
            if ours:
                self._clean_until(until)
        if not ours:
            with self._owner.alone_cleaning(WAY_SECONDS):
                pass  # another process was at it
        self._replica.log.reserve.way_made = True

    def _clean_until(self, until: float) -> None:
        while time.monotonic() < until and self._look() and self.clean():
            pass

    # ── space, asked for ───────────────────────────────────────────────────────────

    def compact(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Clean every segment that holds garbage, and all before it; *progress*: bytes done, of how many.

        What is due by itself waits meanwhile.  Raises what stands in the way.
        """
        with self.working, self._owner.alone_cleaning(LOCK_SECONDS) as ours:
            if not ours:
                raise StorageError(
                    self._replica.path, "another process has been cleaning for long; try again later"
                )
            with self._owner.maintaining() as (log, now_ms, _):
                begin, limit = log.head, self.garbage_upto()
                if limit == log.segments[-1].limit:
                    log.rotation.roll(now_ms)  # the segment in use can be cleaned once another is
            self._clean_upto(limit, begin, progress)
            progress(limit - begin, limit - begin)

    def _clean_upto(self, limit: int, begin: int, progress: Callable[[int, int], None]) -> None:
        while self._replica.log.head < limit:
            progress(self._replica.log.head - begin, limit - begin)
            self._require_room()
            self.clean()

    def _require_room(self) -> None:
        """DiskFull, saying how much is missing, if what lives in the oldest segment cannot be copied."""
        with self._owner.maintaining() as (log, _, _):
            if not self._copies_fit():
                raise DiskFull(
                    log.reader.path(log.segments[0]),
                    f"about {self._cost():,} bytes live here and are written again before its room returns,"
                    " but the disk has not so much: free as much, or receive and ack, then try again",
                )

    def garbage_upto(self) -> int:
        """Where the last segment that holds garbage ends; the log's head if there is none."""
        log, disk = self._replica.log, self._replica.disk
        for each in reversed(log.segments):
            path = paths.segment(log.directory, each.base)
            fd = disk.open(path)
            try:
                scan = Scan(disk, fd, each, each.base, min(each.limit, log.end), path)
                # Void bytes are garbage too; and behind damage it is unknown.
                if not self._all_live(scan) or not is_zero(disk, fd, each.offset(scan.end)):
                    return each.limit
            finally:
                disk.close(fd)
        return log.head

    def _all_live(self, scan: Scan) -> bool:
        """Whether each event of the segment says what lives.  One that moved a message never does."""
        messages, others = self._replica.state.positions_within(scan.segment.base, scan.segment.limit)
        live, at = sorted(messages + others), 0
        for found in scan:
            behind = at + len(found.lsns)
            if live[at:behind] != found.lsns:
                return False
            at = behind
        return True

    def _rest(self) -> None:
        if time.monotonic() > self._until:
            raise _TimeIsUp
        if self._background:
            time.sleep(0 if self.pressed else 0.001)

    def _let_others_run(self) -> None:
        """Let the other threads have the interpreter: they ask for it only when they have waited for 5 ms."""
        if self._background:
            time.sleep(LET_RUN_SECONDS)

    def within(self, base: int, limit: int) -> Iterator[list[Token]]:
        return self._replica.state.within(base, limit)

    def draft(self, token: Token, base: int, limit: int) -> Draft | None:
        """The record that stands for a message, a dedup id or a declaration from now on.

        One that recovery would refuse is an error, before anything is moved.
        """
        draft = self._draft(token, base, limit)
        if draft:
            check(draft)
        return draft

    def _draft(self, token: Token, base: int, limit: int) -> Draft | None:
        queue, what = token
        position = stands_at(queue, what)
        if position is None or not base <= position < limit:
            return None
        if what is DECLARATION:
            return self._committer.declaration(queue)
        if isinstance(what, str):
            seen = queue.dedup.seen(what)
            if seen is None or seen.until <= self._replica.clock.store_ms():
                return None  # its window is over
            return records.dedup(queue.number, seen.id, seen.until, what)
        stored = self._replica.log.read(position)
        created_ms, published = records.published_of(
            stored.kind, stored.flags, stored.time_ms, stored.payload
        )
        said, _ = records.attributes_of(stored.flags, published)
        changes = changes_in(said, queue.traits(what))
        return records.relocate(
            queue.number, what, created_ms, queue.facts(what), stored.flags, published, changes
        )

    def moved(self, token: Token, position: int, draft: Draft) -> None:
        fold.take(self._replica.state, [position], [draft], [check(draft)])

    # ── checkpoints ────────────────────────────────────────────────────────────────

    def _checkpoint_is_due(self, grown: int = CHECKPOINT_BYTES) -> bool:
        if self._replica.path == MEMORY or self._replica.log.reserve.full:
            return False
        return self._replica.log.end - self._replica.checkpoint_at > max(
            grown, CHECKPOINT_SHARE * self._checkpoint_bytes
        )

    def _see_others_checkpoint(self) -> None:
        """Another process may have written one since."""
        replica = self._replica
        if not replica.turn.exclusive:
            positions = checkpoint.positions(replica.disk, self._checkpoint_path, "state")
            replica.checkpoint_at = max([replica.checkpoint_at, *positions])

    def checkpoint(self) -> None:
        """Keep the state as it is now, for the next opening."""
        replica = self._replica
        packs_there = set(checkpoint.positions(replica.disk, self._checkpoint_path, "ids"))
        if not replica.turn.exclusive:
            # A checkpoint of another process does not keep what only we knew where to find.
            with self._owner.maintaining():
                pass  # be as far as that checkpoint, which this process may not have followed to yet
            replica.keep_only(lambda place: place[0] in packs_there)
        with self._owner.maintaining() as (log, now_ms, _):
            log.watch.stand()
            replica.disk.make_directory(self._checkpoint_path)  # as a cache, it may be deleted at any time
            marker = log.append_head(now_ms, log.head)
            # The same, if the state was read anew since: then nothing is missing.
            if not replica.turn.exclusive:
                replica.state.keep_only(lambda place: place[0] in packs_there)
            start = Start(log.end, log.segments[-1].base, marker, log.reader.checksum(marker), log.head)
            frozen = snapshot.freeze(replica.state)
        pack = checkpoint.Pack(start.position)
        state, packs, saved = snapshot.encode(frozen, pack.add, self._let_others_run)
        replica.checkpoint_at = start.position
        self._checkpoint_bytes = checkpoint.write(
            replica.disk,
            self._checkpoint_path,
            replica.identity.key,
            checkpoint.Checkpoint(checkpoint.VERSION, start, now_ms, sorted(packs), msgspec.Raw(state)),
            pack,
            lambda: log.sync(start.position),
        )
        with replica.turn.mutex:
            for held, kept in saved:
                held.keep(kept)
