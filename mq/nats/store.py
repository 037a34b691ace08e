"""The store on NATS: the engine's, with the parts that know a stream in place of those that know files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from mq.engine.ahead import Aheads
from mq.engine.background import Worker
from mq.engine.child import Child
from mq.engine.closing import Closing
from mq.engine.phase import Phase
from mq.engine.reading import Reader
from mq.engine.store import Store
from mq.engine.together import Together
from mq.errors import Unsupported
from mq.hold import Hold
from mq.nats.address import parse
from mq.nats.clock import StreamClock
from mq.nats.connection import Connection
from mq.nats.opening import StreamOpening, StreamReplica
from mq.nats.stream import NoStream, Stream
from mq.nats.trimming import StreamMaintenance
from mq.nats.turn import StreamTurn
from mq.notes import Notes
from mq.storage.explain import explain
from mq.storage.memory_disk import MemoryDisk

NAP_SECONDS: float = 0.01  # between two looks at what others append, while no receiver sleeps
SEGMENT_BYTES: int = 64 << 20  # the default of mq.open: there are no segments


class Follower:
    """A thread that follows what other processes append: it wakes receivers, and nothing piles up.

    While no receiver sleeps, the threads at work follow as they come in.  So it comes by seldom then: to be
    woken for each append of other processes takes as much of the processor as to follow it.
    """

    def __init__(self, store: StreamStore) -> None:
        self._store = store
        self._naps = False  # it follows soon, and is not woken before unless a receiver sleeps
        self.worker = Worker("mq-follower", store.path, self._step, behind=store.let_go_if_forgotten)

    def came(self) -> None:
        """Another process has appended; called by any thread."""
        if (not self._naps or self._store.waiters.asleep) and self.worker.start():
            self.worker.ring()

    def _step(self) -> None:
        if not self._store.waiters.asleep:
            self._naps = True
            try:
                self.worker.nap(NAP_SECONDS)
            finally:
                self._naps = False
        self._store.follow()

    def stop(self) -> None:
        self.worker.stop()


class StreamClosing(Closing):
    _is_heard = True  # there is a server, to tell what this process leaves

    def _close(self) -> None:
        """Wait for servers only if they are there.

        Before the mutex: a thread of mq may have it, and wait for an answer.  What the program's own threads
        are inside of is not cut off.
        """
        replica: Any = self._replica
        if not (self._store.closed or self._turn.gone):
            asked = f"STREAM.INFO.{replica.stream.name}"
            self._is_heard = not replica.log.is_this_thread() and replica.connection.hurry(asked)
        super()._close()

    def _finish(self) -> None:
        """Nothing is left to be synced, or to be said in the log: others have it open, perhaps.

        What cannot be given back comes back after its visibility timeout, and a checkpoint is a cache.
        """
        store: Any = self._store
        if self._is_heard:
            store.ahead.give_back_all()
        self._end_threads()
        if self._is_heard:
            self._store.maintenance.finish()

    def is_own(self) -> bool:
        """Whether the calling thread is of mq, or closes the store, which is still to be let go of."""
        if self._turn.gone:
            return False
        threads = any(each.worker.is_this_thread() for each in self._store.threads())
        return threads or self.lock._is_owned()  # type: ignore[attr-defined]


class StreamChild(Child):
    def open(self) -> None:
        """Called by the first operation in the child of a fork: it connects anew."""
        with explain(self._store.path):
            self._store.open(salvage=False)
        self._turn.enter()


class StreamReader(Reader):
    """Opened with read_only=True: it follows as others do, and changes nothing."""

    def attach(self) -> None:
        store: Any = self._owner
        store._opening.open(salvage=False)
        self._owner.tag = self._replica.tag()

    def look_again(self) -> None:
        if not self.still:
            self._turn.come_in_to_look()


class StreamStore(Store):
    clock_type = StreamClock
    turn_type = StreamTurn
    replica_type = StreamReplica
    opening_type = StreamOpening
    closing_type = StreamClosing
    child_type = StreamChild
    reader_type = StreamReader
    maintenance_type = StreamMaintenance
    in_files: ClassVar[bool] = False
    opened: ClassVar[Phase] = Phase.FOLLOWING
    turn: StreamTurn
    replica: StreamReplica
    closing: StreamClosing

    def __init__(
        self, url: str, *, clock: Callable[[], float] | None, read_only: bool = False,
        background: bool = True, hold: Hold | None = None,
    ) -> None:  # fmt: skip
        self.address = parse(url)
        self._follower: Follower | None = None
        super().__init__(
            self.address.shown, sync="always", read_only=read_only, segment_bytes=SEGMENT_BYTES, clock=clock,
            disk=MemoryDisk(), background=background, hold=hold,
        )  # fmt: skip

    def forget_threads(self) -> None:
        super().forget_threads()
        self.together = Together(self, self.turn, self.replica, self.clock, self.committer)
        self.ahead = self.turn.ahead = Aheads(self)
        self._follower = Follower(self) if self._background else None

    def threads(self) -> list[Any]:
        return [*super().threads(), *([self._follower] if self._follower else []), self.ahead]

    def came(self) -> None:
        """Another writer has appended; called by the loop's thread."""
        if self._follower:
            self._follower.came()

    def must_not_wait(self) -> bool:
        return self.replica.has_log and self.replica.log.is_this_thread()

    def is_awaited(self) -> object:
        """Whether a receiver sleeps; called by the loop's thread."""
        return self.waiters.asleep

    def is_own(self) -> bool:
        """Whether the calling thread works for the store, and not for the program."""
        return self.closing.is_own()

    def follow(self) -> None:
        """Apply what others appended, and wake the receivers that find something."""
        with self.turn.mutex:
            if not self.turn.gone and not self.closed:
                self.turn.take_with_lock(int)

    @contextmanager
    def alone_cleaning(self, seconds: float = 0.0) -> Iterator[bool]:
        """Every process may trim, at any time: what one has done, the other one is told of by a Conflict."""
        if self.closed and self.turn.gone:
            self._refuse()
        yield True


def require_store(url: str) -> None:
    """StorageError unless a store is there."""
    connection = Connection(parse(url))
    connection.open()
    try:
        Stream(connection, Notes()).open(create=False)
    finally:
        connection.close()


def is_made(url: str) -> bool:
    """Whether a store is there."""
    try:
        require_store(url)
    except NoStream:
        return False
    return True


def open_store(
    url: str, *, sync: str | float, read_only: bool, segment_bytes: int, clock: Callable[[], float] | None,
    salvage: bool, exclusive: bool, mode: int | None, hold: Hold,
) -> StreamStore:  # fmt: skip
    """The store at *url*.  Unsupported names what only a store in files has."""
    asked = {
        "exclusive=True": exclusive, 'recover="salvage"': salvage, f"mode={mode}": mode is not None,
        f"segment_bytes={segment_bytes}": segment_bytes != SEGMENT_BYTES, f"sync={sync!r}": sync != "always",
    }  # fmt: skip
    for name, given in asked.items():
        if given:
            raise Unsupported(f"{parse(url).shown}: {name} is for stores in files: leave it out")
    return StreamStore(url, clock=clock, read_only=read_only, hold=hold)
