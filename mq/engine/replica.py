"""What this process knows: the state, and up to where it has applied the log.

    log:  ──── applied ────┬──── appended by others ────┬──── torn, if one died inside ──►
                           │                            └ mark: dirty    adopt what is whole, fence the rest
                           └ mark: end                  follow: read it, check it, apply it

    applied = VOID    an operation was interrupted, or what is to be followed was dropped meanwhile:
                      the state is forgotten, and read again from the newest checkpoint and the log

All of it is touched in a turn only, but by `read`, which takes one when it has to.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from mq.delivery import fold, records
from mq.delivery.backlog import Arrays, Chunk
from mq.delivery.queue import QueueState
from mq.delivery.schedules import NEVER
from mq.delivery.state import State
from mq.engine.clock import Clock
from mq.engine.loading import Loaded, Loader, Parts
from mq.engine.turn import VOID, Turn
from mq.engine.waiters import Waiters
from mq.errors import Closed, CorruptStore, MqError, StorageError
from mq.storage import paths, recovery, shared
from mq.storage.disk import Disk, Patience
from mq.storage.explain import REOPEN, pass_on, storage_error
from mq.storage.identity import Identity
from mq.storage.log import Log
from mq.storage.shared import DIRTY, END
from mq.storage.standing import Trouble
from mq.storage.syncing import SYNC_SECONDS

FOLLOW_BYTES: Final = 16 << 10  # a process that is farther behind begins to catch up without LOCK
HOLD_BYTES: Final = 256 << 10  # followed with LOCK held at first, some milliseconds; each time twice as much
KEEP_UP_BYTES: Final = 16 << 10  # followed between two attempts to get LOCK: a millisecond or two
READS_MAX: Final = 2  # readings of the whole log without LOCK, before one with it
JOIN_NAP_SECONDS: Final = 0.002  # while another process writes again what no sync has confirmed


class Replica:
    log: Log
    """Once `has_log`."""
    state: State
    """Once the log was read; of what is `applied`."""
    identity: Identity
    """Which store the log is of."""
    verdict: recovery.Verdict
    """On what was found when the log was read first."""

    def __init__(
        self, turn: Turn, clock: Clock, waiters: Waiters, path: str, disk: Disk, *, read_only: bool
    ) -> None:  # fmt: skip
        self.turn, self.waiters, self.clock, self.path, self.disk = turn, waiters, clock, path, disk
        self._read_only = read_only
        self._log_path, self._mark_path = paths.log(path), paths.mark(path)
        self.has_log = False
        self.applied = VOID
        self._seen = 0  # what `applied` was when it was last taken from the log, and not void
        self.page_is_behind = False  # see `show_generation`
        self._free: Callable[[], None] | None = None  # what queues held that were purged, or deleted
        self.epoch = 0  # how often the state was read from the disk
        self.checkpoint_at = 0  # where the newest checkpoint stands that was found, or stands in the way
        self._parts: Parts | None = None  # while much of what a checkpoint held is read again

    # ── reading it all ─────────────────────────────────────────────────────────────

    def identify(self, identity: Identity) -> None:
        """The log that is to be read is that store's."""
        self.identity = identity
        self._loader = Loader(self.disk, self.path, identity, self._load_again)

    def load(self, synced: int, upto: int = shared.NO_LIMIT, *, copied: bool = False) -> Loaded:
        """The state as of *upto*; *synced* is what the page claims to be on the disk."""
        return self._loader.load(synced, upto, copied=copied)

    def tag(self) -> str:
        """What tells the receipts of the store that is read now from another's."""
        return f"{self.identity.store_id[:6]}{self.log.epoch:04x}"

    def take_log(self, log: Log, verdict: recovery.Verdict) -> None:
        self.log, self.verdict, self.has_log = log, verdict, True

    def join(self, use: Callable[[recovery.Survey, int], None]) -> None:
        """Read the log of the processes that are here, as *use* opens it; called with LOCK."""
        state, found, upto = self._read_and(use)
        self.clock.join(self.turn.mark, found.last_ms)
        self.take_state(state, upto)

    def _read_and(
        self, use: Callable[[recovery.Survey, int], None]
    ) -> tuple[State, recovery.Survey, int]:  # fmt: skip
        """Read the log as it is now, and *use* what was found; called with LOCK, which it may let go of.

        The others go on meanwhile, and may drop what is being read.  A process that is always
        too late would never get in, so after some attempts it has them wait: with LOCK held,
        nothing new is dropped.
        """
        for attempt in itertools.count():
            found = self._read_now() if attempt >= READS_MAX else self.turn.without_lock(self._read_now)
            if found:
                with suppress(FileNotFoundError):  # all that was read has gone since
                    use(*found[1:])
                    return found
        raise AssertionError  # not reached: there is always another attempt

    def _read_now(self) -> tuple[State, recovery.Survey, int] | None:
        """The log as it is now, and where it ends; None if others dropped a part before it was read."""
        for again in (False, True):
            # The head first: if a segment goes that this end still needs, it is seen to have moved.
            head, upto = self.turn.mark[shared.HEAD], self.turn.mark[END]
            try:
                synced = min(shared.claimed(self.turn.mark), upto)  # it may have grown since
                state, found, position = self._loader.load(synced, upto)
            except FileNotFoundError:
                if not self.disk.exists(self._log_path):
                    raise
                return None
            if not found.error and found.end == upto:
                self.checkpoint_at = position
                found.segments = [each for each in found.segments if each.limit > found.head]
                return state, found, upto
            if self.turn.mark[shared.HEAD] != head:
                return None
            if not again:
                self.wait_for_rewrite()
        raise found.error or StorageError(
            self._log_path,
            f"the log ends at {found.end}, and not at {upto}, as others here say: {shared.GONE}; {REOPEN}",
        )

    def wait_for_rewrite(self) -> None:
        """Before bytes are called damaged: see `Syncing.wait_for_rewrite`, which needs a log and a lock."""
        if self._read_only:
            self._wait_while(self._is_syncing)
        elif self.has_log:
            self.log.syncing.wait_for_rewrite()
        else:
            try:
                self._wait_while(lambda: not self.disk.lock(self.turn.page_fd))
            finally:
                self.disk.unlocker(self.turn.page_fd)()

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        patience = Patience(SYNC_SECONDS)
        while condition() and not patience.is_over():
            self.disk.pause(JOIN_NAP_SECONDS)

    def _is_syncing(self) -> bool:
        """Whether a process syncs the log, or died in that: what it was about may be written again."""
        return shared.read_mark(self.disk, self._mark_path, self.identity.key)[shared.SYNCING] != 0

    def take_state(self, state: State, applied: int) -> None:
        self.state = state
        self.epoch += 1
        state.board.discarded.keeps = self._free is not None
        state.name_the_nameless()
        self.waiters.bind(state, applied)
        self.show_generation()
        # When all that depends on it is done: before, an interruption leaves it void.
        self.applied = self._seen = applied
        self.waiters.wake_all()

    def free_by(self, free: Callable[[], None]) -> None:
        """*free* is called, in a turn, once there is something to free: `state.board.discarded`."""
        self._free = free
        self.state.board.discarded.keeps = True

    def free(self) -> None:
        """Have freed what queues held that were purged, or deleted; in a turn."""
        if self._free and self.state.board.discarded:
            self._free()

    def _load_again(self, number: int, priority: int, chunk: Chunk) -> Arrays:
        """Ids that the checkpoint kept, and a newer one of another process does not."""
        if self.applied == VOID:
            raise recovery.StaleCheckpoint  # and the log that we know may be gone as well
        parts = self._parts or Parts(self.disk, self.path, self.identity, self.applied)
        return parts.part(number, priority, chunk)

    def keep_only(self, is_kept: Callable[[tuple[int, ...]], bool]) -> None:
        """Read now what a checkpoint held that is not kept any more; called without LOCK.

        It may take as long as an opening, and other processes are to go on meanwhile.
        """
        with self.turn.mutex:
            if self.applied == VOID:  # then it is read anew, from the checkpoint that is there
                return
            self._parts = Parts(self.disk, self.path, self.identity, self.applied)
            try:
                self.state.keep_only(is_kept)
            finally:
                self._parts = None

    # ── what others appended ───────────────────────────────────────────────────────

    def catch_up(self) -> None:
        """Be where the log is: apply what others appended, adopt what a process did not finish.

        A process that is far behind lets the others go on, and follows without LOCK, as long as
        that halves the distance.  Beside writers that are faster than it follows, it would never
        arrive: what is left then is followed with LOCK held, a part at a time.  The parts
        double, so they outgrow whatever the others append in between.
        """
        log, mark = self.log, self.turn.mark
        before, hold = shared.NO_LIMIT, HOLD_BYTES
        try:
            while True:
                log.failure.check()
                if mark[END] < (known := max(self.applied, self._seen)):
                    log.failure.lose(self._gone_back(known))
                behind = mark[END] - log.end
                if self.applied != log.end or log.unsettled:  # an operation was interrupted
                    self._attach_again()
                elif behind > FOLLOW_BYTES:
                    if before == shared.NO_LIMIT or HOLD_BYTES < behind <= before // 2:
                        self._follow_without_lock(mark[END])
                        before = behind
                    else:
                        self._apply_with_lock(mark[END], hold)
                        before, hold = 0, 2 * hold
                        if mark[END] != log.end and mark[shared.WAITING]:
                            self.turn.without_lock(self.turn.step_aside)
                elif behind:
                    self._apply_with_lock(mark[END])
                elif mark[DIRTY]:
                    log.following.adopt(self.clock.store_ms())
                else:
                    return self.show_generation()
        except OSError as error:
            if self.turn.is_left():
                return self.turn.enter()
            pass_on(error)
            log.watch.stand()  # perhaps the program closed a descriptor
            raise storage_error(self.path, error) from error

    def _gone_back(self, known: int) -> Trouble:
        """The page says less than this process has read or written: else that would be written over."""
        reason = (
            f"it says that the log ends at {self.turn.mark[END]}, and it was at {known} already: an older"
            f" copy was written over it while the store was open, as a restore in place does: {REOPEN}"
        )
        return Trouble(self._mark_path, reason, for_all=True)

    def show_generation(self) -> None:
        """Put it on the page, and when a schedule is due; in a turn.

        Also that of a process which died before it could.
        """
        mark, generation = self.turn.mark, self.state.generation
        tick = self.state.calendar.first() % NEVER
        if mark[shared.TICK] != tick:
            mark[shared.TICK] = tick
        if mark[shared.GENERATION] < generation:  # one that reads a part again knows an older one
            mark[shared.GENERATION] = generation
        self.page_is_behind = False

    def expect_tick(self, when: int) -> None:
        """Say on the page that a schedule may be due then; in a turn, before the record that says so.

        So a process that dies behind that record, before it could say it, leaves no tick unseen.
        """
        if not 0 < self.turn.mark[shared.TICK] <= when:
            self.turn.mark[shared.TICK] = when

    def keep_up(self) -> None:
        """Another process has LOCK: follow what it appends meanwhile, not so much that LOCK is missed."""
        if self.applied == VOID:  # also before there is a log
            return
        log, upto = self.log, self.turn.mark[END]
        if self.applied == log.end < upto and not log.unsettled:
            try:
                self._apply(upto, KEEP_UP_BYTES)
            except OSError as error:
                pass_on(error)  # else the state is void, and `catch_up` looks again

    def _follow_without_lock(self, upto: int) -> None:
        """Others may have LOCK meanwhile, but one that had the last turn lets this process catch up first.

        Else it would come in without LOCK soon, and write faster than it is followed.  `step_aside` has an
        end after some milliseconds.
        """

        def follow() -> None:
            while self.applied == self.log.end < upto:
                # Said again for each part: a process that had to wait for LOCK itself, and has it now, says
                # that none waits any more.
                self.turn.mark[shared.WAITING] = 1
                self._apply(upto, KEEP_UP_BYTES)

        self.turn.without_lock(follow)
        self.turn.mark[shared.WAITING] = 0

    def _apply_with_lock(self, upto: int, enough: int = shared.NO_LIMIT) -> None:
        """`_apply`; a large queue that the records concern is loaded without LOCK, if it is not yet."""
        state = self.state
        if not self.turn.exclusive:
            state.apart = self.turn.without_lock
        try:
            self._apply(upto, enough)
        finally:
            state.apart = None

    def _apply(self, upto: int, enough: int = shared.NO_LIMIT) -> None:
        """Apply the log up to an end that the page named: what is below one never changes.

        Not all of it, if more than *enough* bytes: at least so many, in whole groups.
        """
        log = self.log
        self.applied = VOID
        try:
            fold.apply(self.state, log.follow(upto, enough))
            self.free()
            if self.state.renamed:
                self.waiters.rebind()
            # Not shown here: without LOCK, a newer one of another process could be written over.
            self.page_is_behind = self.state.generation > self.turn.mark[shared.GENERATION]
            self.applied = self._seen = log.end
        except (FileNotFoundError, recovery.StaleCheckpoint):
            return  # it went on for so long that what we knew is gone: read all that is there now
        self.clock.passed(log.last_ms)
        self.state.board.seen = log.last_ms
        if self.waiters.asleep:
            self.waiters.wake_ready()

    def _attach_again(self) -> None:
        """Forget the state, and read it anew."""
        self.applied = VOID

        def use(found: recovery.Survey, upto: int) -> None:
            self.log.rebase(found.segments, upto, closed=found.verdict is recovery.Verdict.CLEAN)

        state, found, upto = self._read_and(use)
        self.clock.passed(found.last_ms)
        self.take_state(state, upto)

    # ── one message ────────────────────────────────────────────────────────────────

    def read(self, queue: QueueState, id: int, position: int) -> tuple[int, int, bytes] | None:
        """The record's flags, when the message was created, and what was published; None if it is gone.

        Called without the mutex: the record may move, and its segment go, meanwhile.
        """
        again = False
        while True:
            try:
                stored = self.log.read(position)
            except (Closed, CorruptStore) as error:
                if isinstance(error, CorruptStore) and not again:
                    again = True
                    self.wait_for_rewrite()
                    continue
                # It may have moved since, and the process that moved it be another one.
                now_at = self.turn.look(partial(self._position, queue.number, id, error))
                if now_at is None:
                    return None
                if now_at == position and isinstance(error, CorruptStore):
                    # The log knows the record by its position, which is the id only until it moves.
                    reason = error.reason.replace(f"message {position}", f"message {id}")
                    raise CorruptStore(error.path, reason, error.offset, (id,)) from error
                position = now_at
            else:
                flags = stored.flags
                return flags, *records.published_of(stored.kind, flags, stored.time_ms, stored.payload)

    def _position(self, number: int, id: int, error: MqError) -> int | None:
        """Where the message is now; it could not be read."""
        if isinstance(error, CorruptStore):
            self.log.watch.stand()  # else damage is no explanation
        queue = self.state.queue(number)
        return queue.position(id) if queue else None
