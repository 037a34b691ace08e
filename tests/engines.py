"""Where behaviour tests get their stores: an engine for each kind of log.

    engine.open("s", clock=clock)    a broker on the store of that name, made if it is not there
    engine.reopen(broker)            its store closed, and opened again with the same options
    engine.abandon(broker)           as if its process had died: nothing more is written
    engine.lacks                     what this kind of log cannot do, by name: see CAPABILITIES

Tests marked `conformance` run on every engine, those marked `needs("…")` on the engines that
lack nothing of it.  Tests marked `file_store` are about files, and make their stores themselves.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import time
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from random import Random
from threading import get_ident
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from fakes import QuickDisk, maintaining, open_on

import mq
from mq.delivery import records
from mq.engine.log import Conflict
from mq.engine.store import Store
from mq.engine.together import Together
from mq.storage.disk import Disk
from mq.storage.memory_disk import MemoryDisk

T = TypeVar("T")

PATIENCE = 60.0  # seconds after which a test that hangs has failed

CAPABILITIES = {
    "sharing": "several processes may have one store open at the same time",
    "equal positions": "two stores with the same history give out the same ids",
    "quiet": "no other writer appends in the midst of an operation, and so wakes receivers",
    "byte positions": "positions are bytes of the log, so their differences are what records take",
    "segments": "space is given back in pieces of a size that the test chooses",
    "page": "a page in memory says at any time what other processes have declared",
    "own clock": "delays and dates follow the clock of this machine",
    "plenty": "ten thousand operations, one at a time, take a second or two",
    "failing": "a write may fail, and the store with it, until it is opened again",
    "conflicts": "another writer may be first, and then the test says which: see `meanwhile`",
}


class Engine(ABC):
    lacks: ClassVar[frozenset[str]] = frozenset({"conflicts"})

    def __init__(self, directory: Path, seed: object = 0) -> None:
        """*seed*: of what is left to chance."""
        self._directory, self._random = directory, Random(str(seed))
        self._opened: dict[mq.Broker, tuple[str, dict[str, Any]]] = {}

    def open(self, name: str = "s", *, clock: Callable[[], float] | None = None, **options: Any) -> mq.Broker:
        """*options*: as of `fakes.open_on`."""
        broker = self._open(name, clock=clock, **options)
        self._opened[broker] = name, {"clock": clock, **options}
        return broker

    @abstractmethod
    def _open(self, name: str, **options: Any) -> mq.Broker: ...

    def reopen(self, broker: mq.Broker) -> mq.Broker:
        """Closes it, if it is not closed yet."""
        name, options = self._opened[broker]
        broker.close()
        return self.open(name, **options)

    def abandon(self, broker: mq.Broker) -> None:
        """Its store can be opened again, as after a SIGKILL."""
        store = broker._store
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # that it was never closed is what is meant
            store.closing.forget()
        give_up = time.monotonic() + PATIENCE
        while not store.turn.gone:  # a thread of its own is in the midst of something
            assert time.monotonic() < give_up, "its files are never let go of"
            time.sleep(0.001)

    def meanwhile(self, broker: mq.Broker, do: Callable[[mq.Broker], object]) -> None:
        """Before the next append of *broker* another writer does this, and the append meets a conflict.

        Asked again before that, before the append after it.
        """
        raise AssertionError(f'{type(self).__name__} lacks "conflicts": mark the test as one that needs them')

    def close(self) -> None:
        for broker in self._opened:
            broker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FileEngine(Engine):
    """Files as `mq.open` makes them, except that nothing waits for the disk."""

    def _open(self, name: str, **options: Any) -> mq.Broker:
        return open_on(self.disk(), self._directory / name, **options)

    def disk(self) -> Disk:
        return QuickDisk()


class KeptDisk(MemoryDisk):
    """Its page is seen by the next one that maps it, as a file's is."""

    def map(self, fd: int) -> memoryview:
        return memoryview(self._file(fd)).cast("Q")


class MemoryEngine(Engine):
    """What `":memory:"` is, but each name's disk stays until the engine goes."""

    lacks = frozenset({"sharing", "conflicts"})

    def __init__(self, directory: Path, seed: object = 0) -> None:
        super().__init__(directory, seed)
        self._disks: dict[str, KeptDisk] = {}

    def _open(self, name: str, **options: Any) -> mq.Broker:
        return open_on(self._disks.setdefault(name, KeptDisk()), ":memory:", **options)


class SharedDisk(QuickDisk):
    """Lets a rival have a turn in the midst of another one of the same thread.

    LOCK is granted while a rival acts.  And no process comes in without LOCK, for it would not leave.
    """

    def __init__(self) -> None:
        super().__init__()
        self.acts = False
        self._locks: set[int] = set()

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        fd = super().open(path, write=write, create=create)
        (self._locks.add if os.path.basename(path) == "LOCK" else self._locks.discard)(fd)
        return fd

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        return (self.acts and fd in self._locks) or super().lock(fd, shared=shared)

    def heed_barriers(self) -> bool:
        return False


class Rival:
    """Another writer of a broker's log, which is first when it is told to be."""

    def __init__(self, broker: mq.Broker, clock: Callable[[], float] | None, random: Random) -> None:
        self._random, self._disk, self._beaten = random, SharedDisk(), broker._store
        self.broker = open_on(
            self._disk, broker.path, sync="never", clock=clock, background=False,
            segment_bytes=broker._store.replica.log.segment_bytes,
        )  # fmt: skip
        self.broker._store.clock.wall_ms = self._wall_ms  # type: ignore[method-assign]

    def _wall_ms(self) -> int:
        return self._beaten.clock.wall_ms()  # a test may have set it

    def act(self, do: Callable[[mq.Broker], object]) -> None:
        """In the midst of a turn of the broker."""
        self._disk.acts = True
        try:
            do(self.broker)
        finally:
            self._disk.acts = False

    def disturb(self) -> None:
        """Append what changes nothing that a program can see."""
        self.act(self._random.choice(DISTURBANCES))


def _release_nothing(broker: mq.Broker) -> None:
    store = broker._store
    with maintaining(store) as (log, now_ms, _):
        if names := sorted(store.replica.state.names()):
            number = store.replica.state.named(names[0]).number
            log.append(now_ms, records.RELEASE, 0, number, records.RELEASE_PAYLOAD.pack(1))


def _take_and_release(broker: mq.Broker) -> None:
    """The next message of each queue, unless a program could see that: only `first_received_at` tells it.

    One that was delivered before may have failed; one that was delayed has no date any more once it is
    released, and so a clock that is set back does not delay it again.
    """
    for name in broker.queues():
        queue, state = broker.queue(name), broker._store.replica.state.named(name)
        seen = queue.peek(1)
        if not seen or state.delivery_needs_plan:
            continue
        attempts, _, _, due = state.facts(seen[0].id)
        if attempts or due:
            continue
        if message := queue.receive(timeout=0):
            message.release()


DISTURBANCES = [_release_nothing, _take_and_release]


class ConflictingLog:
    """A log in files that is not kept by a lock: a rival may append first, and then it raises Conflict.

    An append of a writer that has not followed since is not accepted; of one that tries all the same, it
    is the test that fails.
    """

    def __init__(self, store: Store, strikes: Callable[[], bool]) -> None:
        """*strikes*: lets the rival be first, perhaps; whether it was."""
        vars(self).update(_store=store, _log=store.replica.log, _strikes=strikes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._log, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._log, name)

    def append(self, *args: Any) -> int:
        return self._accept(self._log.append, *args)

    def append_group(self, *args: Any, **options: Any) -> list[int]:
        return self._accept(self._log.append_group, *args, **options)

    def append_columns(self, *args: Any, **options: Any) -> list[int]:
        return self._accept(self._log.append_columns, *args, **options)

    def _accept(self, append: Callable[..., T], *args: Any, **options: Any) -> T:
        log = self._log
        assert log.end == log.barrier(), "it appends again, and has not followed what made the conflict"
        if self._strikes():
            raise Conflict
        return append(*args, **options)


class ConflictingEngine(FileEngine):
    """Files to which another writer appends first, at random, in the midst of an operation.

    Threads and tasks append together, as they do where an append is a round trip.
    """

    lacks = frozenset({"equal positions", "quiet"})
    log: ClassVar[type[ConflictingLog]] = ConflictingLog
    strikes: ClassVar[float] = 0.3  # of the appends on which nothing is set, this share meets a conflict

    def __init__(self, directory: Path, seed: object = 0) -> None:
        super().__init__(directory, seed)
        self._rivals: dict[mq.Broker, Rival] = {}
        self._next: dict[mq.Broker, list[Callable[[mq.Broker], object]]] = {}

    def disk(self) -> Disk:
        return SharedDisk()

    def _open(self, name: str, **options: Any) -> mq.Broker:
        broker = super()._open(name, **options)
        store = broker._store
        store.together = Together(store, store.turn, store.replica, store.clock, store.committer)
        if not broker._store.exclusive:  # then no other writer can be there
            self._rivals[broker] = Rival(broker, options["clock"], self._random)
            broker.close = partial(self._close, broker)  # type: ignore[method-assign]
        broker._store.replica.log = self.log(broker._store, partial(self._strike, broker))
        return broker

    def _close(self, broker: mq.Broker) -> None:
        """The rival first, unless this is the handler of a signal, in the midst of a turn of the broker."""
        if get_ident() not in broker._store.busy and (rival := self._rivals.pop(broker, None)):
            rival.broker.close()
        mq.Broker.close(broker)

    def close(self) -> None:
        super().close()
        for rival in self._rivals.values():
            rival.broker.close()

    def abandon(self, broker: mq.Broker) -> None:
        if rival := self._rivals.pop(broker, None):
            super().abandon(rival.broker)
        super().abandon(broker)

    def meanwhile(self, broker: mq.Broker, do: Callable[[mq.Broker], object]) -> None:
        self._next.setdefault(broker, []).append(do)

    def _strike(self, broker: mq.Broker) -> bool:
        rival = self._rivals.get(broker)
        if waiting := self._next.get(broker):
            assert rival
            rival.act(waiting.pop(0))
            return True
        if self._random.random() >= self.strikes:
            return False
        if rival:
            rival.disturb()
        return True


class StreamEngine(Engine):
    """A stream on NATS, on one server that all tests of this process share."""

    lacks = frozenset({"conflicts", "byte positions", "segments", "page", "own clock", "plenty", "failing"})
    replicas: ClassVar[int] = 1
    kept_bytes: ClassVar[int] = 64 << 10  # so that bodies are read back from the server, too

    def __init__(self, directory: Path, seed: object = 0) -> None:
        super().__init__(directory, seed)
        self._prefix = uuid.uuid4().hex

    def _open(self, name: str, **options: Any) -> mq.Broker:
        from mq.nats.store import StreamStore

        url = server(self.replicas).url(f"{self._prefix}_{name}")
        broker = mq.Broker(
            StreamStore(url, clock=options["clock"], background=options.get("background", True))
        )
        broker._store.replica.log.pages.kept_bytes = self.kept_bytes
        return broker


class ClusterEngine(StreamEngine):
    """The same, on a cluster of three."""

    replicas = 3


@cache
def server(size: int) -> Any:
    """A server, or a cluster of so many, which ends with this process."""
    from servers import Cluster

    cluster = Cluster(Path(tempfile.mkdtemp(prefix="mq-nats-")), size, sync="2m")
    cluster.__enter__()
    atexit.register(cluster.close)
    return cluster


BY_DEFAULT: dict[str, type[Engine]] = {
    "memory": MemoryEngine, "file": FileEngine, "conflicting": ConflictingEngine
}  # fmt: skip
ENGINES = BY_DEFAULT | {"nats": StreamEngine, "cluster": ClusterEngine}  # pytest --engines nats
