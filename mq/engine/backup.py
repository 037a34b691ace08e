"""Backing up: a copy of the store, made while all go on: see mq/storage/backup.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from mq.engine.operation import operation
from mq.engine.store import MEMORY, Store
from mq.errors import CorruptStore, StorageError, Unsupported
from mq.storage import backup, paths
from mq.storage.backup import Cut, Gone, Shown
from mq.storage.disk import Disk
from mq.storage.explain import explain
from mq.storage.log import Log
from mq.storage.real_disk import RealDisk

T = TypeVar("T")


def back_up(
    store: Store, path: str, show: Shown = lambda done, total: None, disk: Disk | None = None
) -> None:
    """Make the directory *path* a copy of the store, or bring the one that is there up to date."""
    target = disk or RealDisk()
    _until_done(store, path, lambda cut, path: backup.copy(store.disk, store.path, cut, target, path, show))


def clone(store: Store, path: str, show: Shown = lambda done, total: None) -> str:
    """Copy the store into a new directory, as a store of its own; its id."""
    return _until_done(
        store, path, lambda cut, path: backup.clone(store.disk, store.path, cut, RealDisk(), path, show)
    )


def _until_done(store: Store, path: str, copy: Callable[[Cut, str], T]) -> T:
    """*copy* a cut of the store to *path*, and if the cleaner was quicker, another one."""
    if not store.in_files:
        raise Unsupported(f"{store.path}: a backup is a copy of files, and this store has none")
    path = paths.absolute(path)
    if store.path != MEMORY:
        _require_apart(store.path, path)
    gone = -1
    while True:
        cut = _cut(store)
        if gone >= cut.segments[0].base:
            missing = paths.segment(paths.log(store.path), gone)
            raise CorruptStore(missing, "the segment is missing: `mq verify` names what is affected")
        try:
            with explain(path):
                return copy(cut, path)
        except Gone as error:
            gone = error.base


def _require_apart(store: str, path: str) -> None:
    """A copy inside of what is copied would be in the way there, and go with it."""
    ours, theirs = os.path.realpath(store), os.path.realpath(path)
    if os.path.commonpath((ours, theirs)) in (ours, theirs):
        raise StorageError(path, f"this is in the store {store}, or holds it: choose a directory beside it")


def _cut(store: Store) -> Cut:
    if store.read_only:
        return _look_at_some(store)
    # What a power cut takes from the store must not be in the copy: another message gets its place.
    store.flush()
    cut = store.maintain(partial(_claim, store))
    store.replica.log.sync(cut.end)
    return cut


def _claim(store: Store, log: Log, now_ms: int, epoch: int) -> Cut:
    """The last record says that all before it is on the disk: what is altered in the copy later is damage."""
    log.sync(log.end)
    log.append_head(now_ms, log.head)
    return _now(store)


@operation
def _look_at_some(store: Store) -> Cut:
    cut = store.turn.look(partial(_now, store))
    if not cut.segments:
        raise StorageError(
            store.path,
            "its creation was cut off, so there is nothing to copy; open it, and its creation goes on",
        )
    return cut


def _now(store: Store) -> Cut:
    log = store.replica.log
    return Cut(store.replica.identity, list(log.segments), log.end)
