"""Opening a store on NATS: connect, have the stream, and read the checkpoint and what follows it.

There is nothing to recover: a message is in the stream with a majority, or it is not there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final, Protocol

from mq.delivery import fold
from mq.delivery.state import State
from mq.engine.commit import Committer
from mq.engine.log import Conflict
from mq.engine.replica import Replica
from mq.engine.turn import Turn
from mq.errors import DiskFull, StorageError
from mq.nats.address import Address
from mq.nats.checkpoints import Kept, fetch
from mq.nats.clock import StreamClock
from mq.nats.connection import Connection
from mq.nats.log import StreamLog
from mq.nats.message import begin_of
from mq.nats.stream import Range, Stream
from mq.notes import Notes
from mq.storage import recovery, shared

FETCHES_MAX: Final = 3  # of a checkpoint, before the stream alone is read
READS_MAX: Final = 10  # of the state: so often in a row a trim may have overtaken the one that reads


class Owner(Protocol):
    address: Address
    read_only: bool

    def came(self) -> None:
        """Another writer has appended; called by the loop's thread."""

    def is_awaited(self) -> object:
        """Whether a receiver sleeps."""

    def is_own(self) -> bool:
        """Whether the calling thread works for the store, and not for the program."""


class StreamReplica(Replica):
    log: Any  # a StreamLog, which has what the engine asks of one in files
    stream: Stream
    connection: Connection

    def catch_up(self) -> None:
        """Apply what has come; in a turn."""
        while True:
            if self.applied != self.log.end:  # an operation was interrupted, or a part was trimmed
                self._attach_again()
            elif self.log.known_end > self.log.end:
                self._apply(self.log.known_end)
            else:
                return self.show_generation()

    def apply_up_to(self, upto: int) -> None:
        """Apply what stands before the message that this process has appended; in a turn."""
        self._apply(upto)

    def wait_for_rewrite(self) -> None:
        """What is damaged in a stream stays so."""

    def _attach_again(self) -> None:
        state = self.read_all()
        self.clock.passed(self.log.last_ms)
        self.take_state(state, self.log.end)

    def read_all(self) -> State:
        """The state as of now, from the newest checkpoint and the stream behind it."""
        for _ in range(READS_MAX):
            with suppress(FileNotFoundError):  # trimmed meanwhile: there is a newer checkpoint
                return self._read_once()
        raise StorageError(
            self.stream.path,
            f"the stream was trimmed {READS_MAX} times while the state was read: open the store again",
        )

    def _read_once(self) -> State:
        """The same; FileNotFoundError if what is to be read was trimmed meanwhile."""
        log = self.log
        state, kept, there = State(), *self._newest()
        is_kept = kept is not None and there.first - 1 <= kept.seq
        if kept and is_kept:
            state = kept.restore()
            log.last_ms = max(log.last_ms, kept.last_ms)
        else:
            kept = Kept.nothing(max(0, there.first - 1))
        self.checkpoint_at = begin_of(kept.seq + 1)
        log.start(kept.order, state, is_trimmed=not is_kept)
        log.bytes = there.bytes
        while log.seq < there.last:
            log.arrivals.wait(log.seq + 1)
            fold.apply(state, log.follow(log.known_end))
        return state

    def _newest(self) -> tuple[Kept | None, Range]:
        """The newest checkpoint, and what the stream holds; asked for in this order, for both go on.

        CorruptStore if the stream has lost what the checkpoint knows.
        """
        for _ in range(FETCHES_MAX):
            kept, there = fetch(self.connection, self.stream), self.stream.range()
            if kept is None or kept.seq >= there.first - 1:
                break  # else the stream was trimmed in between, behind a newer one
        if kept and kept.seq > there.last:
            there = self.stream.range_up_to(kept.seq, "the checkpoint stands behind it")
        return kept, there


class StreamOpening:
    def __init__(
        self, store: Owner, turn: Turn, replica: StreamReplica, clock: StreamClock, committer: Committer,
        notes: Notes, segment_bytes: int,
    ) -> None:  # fmt: skip
        self._store, self._turn, self._replica, self._clock = store, turn, replica, clock
        self._committer, self._notes = committer, notes

    def open(self, *, salvage: bool) -> bool:
        """Know the log and the state.  False: no process recovers what another one left."""
        store, replica = self._store, self._replica
        self._turn.pid, self._turn.mark = os.getpid(), shared.no_page()
        replica.connection = connection = Connection(store.address)
        connection.open()
        try:
            replica.stream = stream = Stream(connection, self._notes)
            stream.open(create=not store.read_only)
            log: Any = StreamLog(
                connection, stream, store.came, store.is_awaited, custom_time=self._clock.is_custom
            )
            replica.identity = stream.identity
            log.apply_up_to = replica.apply_up_to
            replica.take_log(log, recovery.Verdict.CLEAN)
            replica.waiters.expect = log.arrivals.expect
        except BaseException:
            connection.close()
            raise
        connection.is_own = store.is_own
        state = replica.read_all()
        self._clock.start_at(stream.range().now_ms, log.last_ms)
        replica.take_state(state, log.end)
        if not store.read_only:
            with suppress(DiskFull):
                self._add_downtime()
        return False

    def _add_downtime(self) -> None:
        """Say in the log how long nothing was appended, if a queue goes when it is idle; one process does."""
        clock, replica = self._clock, self._replica
        while True:
            self._committer.downtime_ms = (
                max(0, clock.store_ms() - replica.log.last_ms) if replica.log.last_ms else 0
            )
            try:
                return self._committer.add_downtime()
            except Conflict:  # another process may just have said so
                replica.catch_up()
