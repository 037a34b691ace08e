"""Where log, state, clock and lock meet.  Every operation has the same three steps:

    decide (what the state allows, now)  →  append (the record)  →  apply (the same method
                                                                    that recovery calls)

Nothing is applied that is not in the log.  Whatever interrupts those steps (Ctrl-C, no
memory) leaves `applied` behind the log's end, or the page's dirty word set; the next
operation sees it and rebuilds the state from the log, which is the truth.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from mq.clock import Clock
from mq.delivery import events, snapshot
from mq.delivery.backlog import Arrays, Chunk
from mq.delivery.events import Now
from mq.delivery.queue import QueueState
from mq.delivery.state import QUEUES_MAX, State, declaration_of
from mq.errors import ADVICE, Closed, CorruptStore, StorageError, Unsupported, UsageError
from mq.maintenance import MEMORY, Maintenance
from mq.storage import checkpoint, identity, recovery, repair, shared
from mq.storage.disk import Disk, MemoryDisk, RealDisk, explain
from mq.storage.log import Draft, Log
from mq.storage.shared import NO_LIMIT

logger = logging.getLogger("mq")


class Channel:
    """What this process knows under a queue's name: its state, once it exists, and who waits here."""

    def __init__(self, name: str, mutex: threading.Lock) -> None:
        self.name = name
        self.state: QueueState | None = None
        self.arrived = threading.Condition(mutex)
        self.armed: list[float] = []  # when each waiting receiver looks again by itself, monotonic seconds

    def wake(self, count: int) -> None:
        """*count* messages are ready."""
        if self.armed:
            self.arrived.notify(count)

    def hand_on(self, now: Now) -> None:
        """Deliveries changed: wake who can take the next message, or who would sleep past its time."""
        if self.armed and self.state:
            if self.state.head(now) is not None:
                self.wake(1)
            else:
                self.rearm(self.state.seconds_to_next(now))

    def rearm(self, seconds: float | None) -> None:
        """Something falls due in *seconds*: some receiver must not sleep longer."""
        if self.armed and seconds is not None and min(self.armed) > time.monotonic() + seconds:
            self.arrived.notify()


class Store:
    def __init__(
        self, path: str, *, sync: str | float, read_only: bool, segment_bytes: int,
        clock: Callable[[], float] | None, disk: Disk | None = None, background: bool = True,
        salvage: bool = False,
    ) -> None:  # fmt: skip
        """*background*: a thread gives space back and writes checkpoints; else `maintenance.run` does.

        *salvage*: what is damaged is repaired, and what that cost is logged.
        """
        self.path = path
        self.read_only = read_only
        self.clock = Clock(clock)
        self.disk = disk or (MemoryDisk() if path == MEMORY else RealDisk())
        self.mutex = threading.Lock()
        self.channels: dict[str, Channel] = {}
        self.closed = False
        self._closed_why = "the broker is closed"
        self._gone = False  # closed, and the files let go of
        self._ready = False  # the state is whole
        self.durable = self.linger = sync == "always"
        self.maintenance = Maintenance(self, background=background)
        self._segment_bytes = segment_bytes
        self._log_path, self._mark_path = os.path.join(path, "log"), os.path.join(path, "mark")
        self.checkpoint_path = os.path.join(path, "checkpoint")
        with explain(path):
            if read_only:
                self._attach()
            else:
                self._open(salvage)
        _open_stores.add(self)
        if isinstance(sync, float) and not read_only:
            self._stop = threading.Event()
            self._flusher = threading.Thread(
                target=self._flush_every, args=(sync,), daemon=True, name="mq-sync"
            )
            self._flusher.start()

    # ── opening ────────────────────────────────────────────────────────────────────

    def _open(self, salvage: bool) -> None:
        """Take the lock, recover, go on where the log ends."""
        disk = self.disk
        disk.make_directory(self.path)
        self._lock_fd = shared.take_lock(disk, os.path.join(self.path, "LOCK"), self._mark_path)
        try:
            disk.make_directory(self._log_path)
            disk.make_directory(self.checkpoint_path)
            try:
                self._begin()
            except CorruptStore:
                if not salvage:
                    raise
                for loss in repair.mend(disk, self.path, events.PUBLISH, events.message_of):
                    logger.warning("%s", loss)
                self._begin()
        except BaseException:
            disk.close(self._lock_fd)
            raise

    def _begin(self) -> None:
        self.identity = self._identify(create=True)
        # Whoever made the store may have died before its names were on the disk.
        self.disk.sync_directory(self.path)
        self.mark = shared.open_mark(self.disk, self._mark_path, self.identity.key)
        self.mark[shared.HOLDER] = os.getpid()
        self._recover()

    def _identify(self, *, create: bool) -> identity.Identity:
        path = os.path.join(self.path, "FORMAT")
        if self.disk.exists(path):
            return identity.read(self.disk, path)
        if create:
            if not self.disk.names(self._log_path):
                return identity.create(self.disk, path)
            raise CorruptStore(path, f"there is a log, but no FORMAT file beside it; {ADVICE}")
        raise StorageError(self.path, "this is not a store: it has no FORMAT file; check the path")

    def _read_log(self, synced: int, upto: int = NO_LIMIT) -> tuple[State, recovery.Survey]:
        """The state, from the newest checkpoint and what follows; from the whole log, if it does not fit."""
        self._ready = False
        args = self.disk, self._log_path, self.identity
        newest = checkpoint.newest(self.disk, self.checkpoint_path, self.identity.key, upto)
        self.maintenance.begin(newest.position if newest else 0)
        if newest:
            # It was put there when everything before it was on the disk.
            synced = max(synced, newest.position)
            try:
                state = snapshot.restore(newest.state, self._load_chunk)
                found = recovery.survey(*args, synced, state.apply, events.PUBLISH, upto, newest.start)
                found.last_ms = max(found.last_ms, newest.last_ms)
                return state, found
            except recovery.StaleCheckpoint:
                pass
        state = State()
        return state, recovery.survey(*args, synced, state.apply, events.PUBLISH, upto)

    def _load_chunk(self, number: int, chunk: Chunk) -> Arrays:
        """Ids that the checkpoint keeps; if it does not any more, the log does."""
        ids_at, positions_at = chunk.saved
        ids = checkpoint.load(self.disk, self.checkpoint_path, checkpoint.Place(*ids_at))
        positions = None
        if positions_at:
            positions = checkpoint.load(self.disk, self.checkpoint_path, checkpoint.Place(*positions_at))
        if ids is not None and (positions is not None or positions_at is None):
            return ids, positions
        if not self._ready:
            raise recovery.StaleCheckpoint
        # Nothing has touched these ids since the checkpoint, so all of them still wait.
        state = State()
        args = self.disk, self._log_path, self.identity
        recovery.survey(*args, 0, state.apply, events.PUBLISH, self.applied)
        return state.queues[number].waiting.part(chunk.first, chunk.size)

    def _recover(self) -> None:
        state, found = self._read_log(shared.claimed(self.mark))
        self.clock.start(found.last_ms)
        log = recovery.recover(
            self.disk,
            self._log_path,
            self.identity,
            self.mark,
            found,
            self.clock.store_ms(),
            self._segment_bytes,
        )
        for word, value in (
            (shared.END, log.end), (shared.SYNCED, log.synced),
            (shared.SYNCED_TWIN, log.synced), (shared.SYNCING, 0), (shared.FAILED, 0),
            (shared.HEAD, log.head), (shared.DIRTY, 0),
        ):  # fmt: skip
            self.mark[word] = value
        log.grown = self.maintenance.nudge
        log.refusable = frozenset({events.PUBLISH})
        self.log, self.verdict = log, found.verdict
        self._take_state(state, log.end)
        self.maintenance.nudge()
        if not log.starved:
            with suppress(OSError):  # a full disk: publishes will be refused
                log.reserve.hold(log.reserve_bytes)

    def _attach(self) -> None:
        """Read what is there now, and change nothing."""
        self.identity = self._identify(create=False)
        self.mark = memoryview(bytearray(8 * 512)).cast("Q")
        self.mark[shared.DIRTY] = 1  # so that every change ends in check(), which refuses it
        while True:
            view = shared.look(self.disk, self.path, self.identity.key)
            try:
                state, found = self._read_log(view.synced, view.upto)
            except FileNotFoundError:
                if not view.held or not self.disk.exists(self._log_path):
                    raise
                continue  # compaction dropped a segment before it was read
            if view.held and not found.error:
                break
            if not view.explains(shared.look(self.disk, self.path, self.identity.key)):
                break
        self._seen_end = view.end
        if found.error:
            raise found.error
        self.clock.start(found.last_ms)
        self.log = Log(self.disk, self._log_path, self.identity, self.mark, found.segments, found.end)
        self.verdict = found.verdict
        self._take_state(state, found.end)

    def _take_state(self, state: State, applied: int) -> None:
        self.state, self.applied, self._ready = state, applied, True
        state.name_the_nameless()
        for name, channel in self.channels.items():
            channel.state = state.by_name.get(name)
            channel.arrived.notify_all()  # whoever waits judges for itself what changed

    # ── the way into every operation ───────────────────────────────────────────────

    def after_fork(self) -> None:
        """Called in a child: its copy of the state would write over what the parent writes."""
        self.mutex = threading.Lock()  # the parent's may have been held
        if not self._gone:
            self._gone = True
            # The lock goes with the last descriptor of it; this one must not outlive the parent's.
            self.log.after_fork()
            if not self.read_only:
                self.disk.close(self._lock_fd)
        self.closed = True
        self._closed_why = "opened before a fork, and still the parent's: open the store again here"

    def check(self) -> None:
        """Called with the mutex, first thing: raise if nothing can be changed, mend what was interrupted."""
        if self.closed:
            raise Closed(f"{self.path}: {self._closed_why}")
        if self.read_only:
            raise Unsupported(f"{self.path}: opened with read_only=True, which changes nothing")
        self._mend()

    def _mend(self) -> None:
        self.log.check()
        before = self.log
        before.mending = True  # for those who still wait there
        try:
            before.abandon()
            with explain(self.path):
                self._recover()
            before.synced = NO_LIMIT  # recovery has put all of it on the disk
        finally:
            before.mending = False

    @contextmanager
    def turn(self) -> Iterator[tuple[Log, int]]:
        """The store's lock for a slice of maintenance: the log, and the time.  Also while closing."""
        with self.mutex:
            if self._gone:
                raise Closed(f"{self.path}: {self._closed_why}")
            if self.applied != self.log.end or self.mark[shared.DIRTY]:
                self._mend()
            yield self.log, self.clock.store_ms()
            self.applied = self.log.end

    def enter(self) -> None:
        """Called with the mutex, inside a try, before the state is used: it is the log's then.

        Whatever happens, `leave` follows.
        """
        if self.closed or self.read_only or self.applied != self.log.end or self.mark[shared.DIRTY]:
            self.check()

    def leave(self) -> None:
        """Let others come in."""

    def look(self) -> None:
        """`enter`, for those who change nothing."""
        if self.read_only and not self.closed:
            words = shared.read_mark(self.disk, self._mark_path, self.identity.key)
            if words[shared.END] != self._seen_end:
                self.log.abandon()
                with explain(self.path):
                    self._attach()
        elif self.closed or self.applied != self.log.end or self.mark[shared.DIRTY]:
            self.check()

    def channel(self, name: str) -> Channel:
        with self.mutex:
            found = self.channels.get(name) if isinstance(name, str) else None
            if found is None:
                check_name(name)
                found = self.channels[name] = Channel(name, self.mutex)
                found.state = self.state.by_name.get(name)
            return found

    def declare(self, channel: Channel, changes: dict[str, Any]) -> None:
        """Change the options named, for every process; nothing is written if they are so already."""
        with self.mutex:
            try:
                self.look()
                state = channel.state
                if state and all(getattr(state.options, name) == value for name, value in changes.items()):
                    return
                self.enter()
                number, draft = self._declaration(channel, changes)
                lsn = self.log.append(self.clock.store_ms(), *draft)
                channel.state = self.state.declare(number, lsn, draft[3])
                end = self.applied = self.log.end
            finally:
                self.leave()
        self.settle(end)

    def settle(self, end: int) -> None:
        """What a publish owes before it returns: its bytes on the disk, and the cleaner a chance."""
        if self.durable:
            self.log.sync(end)
        if self.maintenance.pressed:
            self.maintenance.stall()

    def declaration(self, queue: QueueState) -> Draft:
        """The record that says all there is to know of *queue* beside its messages."""
        return events.DECLARE, 0, queue.number, events.encode_declaration(declaration_of(queue))

    def _declaration(self, channel: Channel, changes: dict[str, Any]) -> tuple[int, Draft]:
        """The queue's number, new if it has none yet, and the record that declares it with *changes*."""
        if channel.state:
            number: int | None = channel.state.number
            declaration = declaration_of(channel.state)
        else:
            number, declaration = self.state.free_number(), events.Declaration(channel.name)
        if number is None:
            raise UsageError(f"{self.path}: {QUEUES_MAX:,} queues is the most")
        payload = events.encode_declaration(msgspec.structs.replace(declaration, **changes))
        return number, (events.DECLARE, 0, number, payload)

    def publish_many(self, channel: Channel, bodies: list[tuple[int, bytes]]) -> list[int]:
        """One atomic group of bodies, after the queue's declaration if it is new; the messages' ids."""
        with self.mutex:
            try:
                self.enter()
                drafts: list[Draft] = []
                if channel.state:
                    number = channel.state.number
                else:
                    number, draft = self._declaration(channel, {})
                    drafts.append(draft)
                drafts += [(events.PUBLISH, flags, number, raw) for flags, raw in bodies]
                ids = self.log.append_group(self.clock.store_ms(), drafts)
                if channel.state is None:
                    channel.state = self.state.declare(number, ids.pop(0), drafts[0][3])
                for id, (_, raw) in zip(ids, bodies, strict=True):
                    channel.state.publish(id, len(raw))
                end = self.applied = self.log.end
                channel.wake(len(ids))
            finally:
                self.leave()
        self.settle(end)
        return ids

    def read(self, queue: QueueState, id: int, position: int) -> tuple[int, int, bytes] | None:
        """The body's flags, when the message was created, and the body; None if it is gone meanwhile.

        Called without the mutex: the record may move, and its segment go, meanwhile.
        """
        while True:
            try:
                stored = self.log.read(position)
            except CorruptStore as error:
                with self.mutex:
                    try:
                        self.look()  # it may have moved since, and who moved it be elsewhere
                        queue = self.state.queues[queue.number]
                        now_at = queue.position(id)
                    finally:
                        self.leave()
                if now_at is None:
                    return None
                if now_at == position:
                    # The log knows the record by its place, which is the id only until it moves.
                    reason = error.reason.replace(f"message {position}", f"message {id}")
                    raise CorruptStore(error.path, reason, error.offset, (id,)) from error
                position = now_at
            else:
                return stored.flags, *events.body_of(stored.kind, stored.time_ms, stored.payload)

    # ── the disk ───────────────────────────────────────────────────────────────────

    def flush(self) -> None:
        """Return when all that was written is on the disk."""
        if self.closed:
            raise Closed(f"{self.path}: {self._closed_why}")
        self.log.sync(self.log.end)

    def _flush_every(self, seconds: float) -> None:
        # A failure is kept by the log and raised by whoever comes next.
        while not self._stop.wait(seconds):
            try:
                self.log.sync(self.log.end)
            except StorageError:
                return

    def close(self) -> None:
        """Sync, say that the log ends here, let go of everything.  A second call does nothing."""
        with self.mutex:
            if self.closed:
                return
            self.closed = True
            for channel in self.channels.values():
                channel.arrived.notify_all()
        if self.read_only:
            self.log.abandon()
            return
        try:
            if hasattr(self, "_stop"):
                self._stop.set()
                self._flusher.join()
            self.maintenance.close()
            with self.mutex:
                self._gone = True
                self.log.close(self.clock.store_ms())
        finally:
            # Also when all that was interrupted: the lock goes last, when nobody here writes any more.
            with self.mutex:
                self._gone = True
            self.maintenance.wait()
            self.log.synced = NO_LIMIT  # whoever waits for the disk still has it now, or its failure
            self.mark[shared.HOLDER] = 0
            self.disk.close(self._lock_fd)


def _after_fork() -> None:
    for store in _open_stores:
        store.after_fork()


_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check_name(name: object) -> None:
    """UsageError unless *name* can name a queue: 1 to 255 bytes of UTF-8, no control characters."""
    if not isinstance(name, str):
        raise UsageError(f"a queue's name is text, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise UsageError(f"the queue name {name!r} is not valid Unicode") from None
    if not 1 <= size <= 255:
        raise UsageError(f"a queue's name has 1 to 255 bytes, this one {size}")
    if not name.isprintable():
        raise UsageError(f"the queue name {name!r} has control or unprintable characters; leave them out")
