"""The store that is examined: its page, its processes, and what is in it, if it can be opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import mq
from mq.errors import MqError
from mq.storage import identity, locks, paths, shared
from mq.storage.identity import Identity
from mq.storage.real_disk import RealDisk
from mq.storage.segment import Segment


class Subject:
    """Nothing is written; a lock that is tried is let go of at once."""

    broker: mq.Broker | None = None
    """Opened to be read, as of one moment; None if it does not open."""
    problem: MqError | None = None
    """Why not."""

    def __init__(self, disk: RealDisk, path: str) -> None:
        self.disk, self.path = disk, path
        self.identity: Identity | None = None
        with suppress(MqError, OSError):  # the opening says what is wrong
            self.identity = identity.read(disk, paths.format_file(path))
        self.pids = locks.present(disk, path)
        self.held = bool(self.pids) or self._is_held()

    def _is_held(self) -> bool:
        """Where the system does not name the processes."""
        try:
            return locks.is_present(self.disk, self.path)
        except (MqError, OSError):
            return False

    def newest(self) -> Segment | None:
        """The segment in use; None if the store does not open, or its creation was cut off before."""
        segments = self.broker._store.replica.log.segments if self.broker else []
        return segments[-1] if segments else None

    def words(self) -> list[int]:
        """Of the page, as they are now; zeros if there is none, or another store's."""
        if self.identity:
            with suppress(MqError, OSError):
                return shared.read_mark(self.disk, paths.mark(self.path), self.identity.key)
        return shared.no_page().tolist()


@contextmanager
def examined(disk: RealDisk, path: str) -> Iterator[Subject]:
    subject = Subject(disk, path)
    try:
        subject.broker = mq.open(path, read_only=True)
        subject.broker._store.hold_still()
    except MqError as error:
        subject.problem = error
    try:
        yield subject
    finally:
        if subject.broker:
            subject.broker.close()
