"""Backing up: a copy of the store, made while all go on: see mq/storage/backup.py."""

from __future__ import annotations

from mq.engine.operation import operation
from mq.engine.store import Store
from mq.storage import backup, paths
from mq.storage.backup import Cut, Shown
from mq.storage.disk import Disk
from mq.storage.explain import explain
from mq.storage.real_disk import RealDisk


def back_up(
    store: Store, path: str, show: Shown = lambda done, total: None, disk: Disk | None = None
) -> None:
    """Make the directory *path* a copy of the store, or bring the one that is there up to date."""
    path, target = paths.absolute(path), disk or RealDisk()
    while not _back_up(store, path, show, target):
        pass


def _back_up(store: Store, path: str, show: Shown, target: Disk) -> bool:
    with explain(path):
        return backup.copy(store.disk, store.path, _cut(store), target, path, show)


def clone(store: Store, path: str, show: Shown = lambda done, total: None) -> str:
    """Copy the store into a new directory, as a store of its own; its id."""
    path = paths.absolute(path)
    while not (made := _clone(store, path, show)):
        pass
    return made


def _clone(store: Store, path: str, show: Shown) -> str | None:
    with explain(path):
        return backup.clone(store.disk, store.path, _cut(store), RealDisk(), path, show)


def restore(store: str, path: str, show: Shown = lambda done, total: None) -> str:
    """The same for the store in the directory *store*, which no process has open; it stays as it is."""
    store, path, disk = paths.absolute(store), paths.absolute(path), RealDisk()
    with explain(store):
        cut = backup.cut_of_closed(disk, store)
    with explain(path):
        made = backup.clone(disk, store, cut, RealDisk(), path, show)
        assert made, "the store was not open"
    return made


def _cut(store: Store) -> Cut:
    cut = _look(store)
    if not store.read_only:
        # What a power cut takes from the store must not be in the copy: another message gets its place.
        store.replica.log.sync(cut.end)
    return cut


@operation
def _look(store: Store) -> Cut:
    replica = store.replica
    return store.turn.look(lambda: Cut(replica.identity, list(replica.log.segments), replica.log.end))
