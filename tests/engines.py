"""Where behaviour tests get their stores: an engine for each kind of log.

    engine.open("s", clock=clock)    a broker on the store of that name, made if it is not there
    engine.reopen(broker)            its store closed, and opened again with the same options
    engine.abandon(broker)           as if its process had died: nothing more is written
    engine.lacks                     what this kind of log cannot do, by name: see CAPABILITIES

Tests marked `conformance` run on every engine, those marked `needs("…")` on the engines that
lack nothing of it.  Tests marked `file_store` are about files, and make their stores themselves.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from fakes import QuickDisk, open_on

import mq
from mq.storage.disk import Disk, MemoryDisk

PATIENCE = 60.0  # seconds after which a test that hangs has failed

CAPABILITIES = {
    "sharing": "several brokers may have one store open at the same time",
    "equal positions": "two stores with the same history give out the same ids",
}


class Engine:
    lacks: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: dict[mq.Broker, tuple[str, dict[str, Any]]] = {}

    def open(self, name: str = "s", *, clock: Callable[[], float] | None = None, **options: Any) -> mq.Broker:
        """*options*: as of `fakes.open_on`."""
        broker = self._open(name, clock=clock, **options)
        self._opened[broker] = name, {"clock": clock, **options}
        return broker

    def _open(self, name: str, **options: Any) -> mq.Broker:
        raise NotImplementedError

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
            store.forget()
        give_up = time.monotonic() + PATIENCE
        while not store.turn.gone:  # a thread of its own is in the midst of something
            assert time.monotonic() < give_up, "its files are never let go of"
            time.sleep(0.001)

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

    lacks = frozenset({"sharing"})

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._disks: dict[str, KeptDisk] = {}

    def _open(self, name: str, **options: Any) -> mq.Broker:
        return open_on(self._disks.setdefault(name, KeptDisk()), ":memory:", **options)


ENGINES: dict[str, type[Engine]] = {"memory": MemoryEngine, "file": FileEngine}
