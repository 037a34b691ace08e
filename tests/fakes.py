"""Stand-ins for what a test wants to hold in its hand: the time, and the disk."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mq.api.broker import Broker
from mq.api.queue import Queue
from mq.engine.store import Store
from mq.storage import shared
from mq.storage.disk import Disk
from mq.storage.log import Log
from mq.storage.real_disk import RealDisk


class FakeClock:
    """Seconds since 1970, which pass when the test says so."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def made_here(path: Path) -> None:
    """Have the copied store at *path* pass for the one that was copied, as a kill left it."""
    page = path / "mark"
    with page.open("r+b") as file:
        file.seek(8 * shared.ORIGIN)
        file.write(shared.origin_of(RealDisk(), file.fileno(), str(page)).to_bytes(8, "little"))


def threads_alive(prefix: str = "mq-") -> list[threading.Thread]:
    """Whose names begin with *prefix*.

    Of a thread whose start an exception interrupted, CPython lists an object for ever.
    """
    return [each for each in threading.enumerate() if each.name.startswith(prefix) and each.is_alive()]


def wait_in_vain(queue: Queue[Any]) -> None:
    """Have a thread wait for *queue*, so that there is a listener from then on, and a bell.

    On a busy machine the timeout may be over before the wait begins.
    """
    listener = queue._store.listener
    while not listener.worker.runs():
        assert queue.receive(timeout=0.001) is None


class CountingDisk(RealDisk):
    """The operating system's files, and how often each was synced, by the base of its name."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs: Counter[str] = Counter()
        self._paths: dict[int, str] = {}

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        fd = super().open(path, write=write, create=create)
        self._paths[fd] = path
        return fd

    def sync(self, fd: int) -> None:
        self.syncs[os.path.basename(self._paths[fd])] += 1
        super().sync(fd)

    def log_syncs(self) -> int:
        return sum(count for name, count in self.syncs.items() if name.endswith(".seg"))


class QuickDisk(RealDisk):
    """The operating system's files, of which none is ever synced: where no power is going to fail."""

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: str) -> None:
        pass


@contextmanager
def maintaining(store: Store) -> Iterator[tuple[Log, int, int]]:
    """`Store.maintain`, of which the test is the function."""
    within = threading.get_ident() in store.busy
    try:
        store.busy.add(threading.get_ident())
        with store.turn.mutex:
            try:
                store.turn.enter_with_lock()
                yield store.replica.log, store.clock.store_ms(), store.replica.epoch
                store.replica.applied = store.replica.log.end
            finally:
                store.turn.leave()
    finally:
        if not within:
            store.busy.discard(threading.get_ident())


def open_on(
    disk: Disk,
    path: str | os.PathLike[str],
    *,
    sync: str | float = "always",
    segment_bytes: int = 1 << 20,
    clock: Callable[[], float] | None = None,
    background: bool = True,
    exclusive: bool = False,
) -> Broker:
    """mq.open, on a disk of the test's choice; maintenance may be left to the test too."""
    return Broker(
        Store(
            os.fspath(path), sync=sync, read_only=False, segment_bytes=segment_bytes, clock=clock,
            disk=disk, background=background, exclusive=exclusive,
        )
    )  # fmt: skip
