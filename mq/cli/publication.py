"""The record that published a message, read at once: it stands where the message's id says.

    ┌────────┬─────────────┬────────┬─┄┄─┬────────┬────────┐
    │        │ PUBLISH, id │        │    │        │        │
    └────────┴─────────────┴────────┴─┄┄─┴────────┴────────┘
             ↑ the id               checkpoint ──► end: whether that position counts, and what
                                                   its queue is called

Its checksum tells that a record begins there.  None is found if the message has moved, and its first
segment is gone; nor if it is not certain without all of the log what its queue was called then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from mq.delivery import records
from mq.delivery.backlog import Arrays, Chunk
from mq.delivery.queue import QueueState
from mq.engine.loading import Loaded, Loader
from mq.errors import MqError
from mq.storage import checkpoint, identity, locks, paths
from mq.storage.disk import Disk
from mq.storage.explain import pass_on
from mq.storage.look import Found, found_in
from mq.storage.recovery import StaleCheckpoint, end_of_files
from mq.storage.segment import Scan, Segment


class Publication(NamedTuple):
    each: Segment
    item: Found
    queue: str  # its name
    end: int  # as in Look.begin


@contextmanager
def published_at(disk: Disk, store: str, id: int) -> Iterator[Publication | None]:
    """Its content may only be there while this lasts."""
    fds: list[int] = []
    try:
        yield _publication(disk, store, id, fds)
    finally:
        for fd in fds:
            disk.close(fd)


def _publication(disk: Disk, store: str, id: int, fds: list[int]) -> Publication | None:
    # Whatever is wrong here, reading all of the log finds it too, and says so.
    try:
        return _read(disk, store, id, fds)
    except OSError as error:
        pass_on(error)
        return None
    except (MqError, StaleCheckpoint, msgspec.MsgspecError):
        return None


def _read(disk: Disk, store: str, id: int, fds: list[int]) -> Publication | None:
    loaded, upto = _load(disk, store)
    if loaded is None or loaded.survey.error or not loaded.survey.head <= id < loaded.survey.end:
        return None
    holding = [each for each in loaded.survey.segments if each.base <= id < each.limit]
    if not holding:
        return None
    each, log = holding[0], paths.log(store)
    path = paths.segment(log, each.base)
    fds.append(disk.open(path))
    stop = min(each.limit, loaded.survey.end)
    # As if all were one group, which is whole: the record may stand in the midst of one.
    stretch = next(iter(Scan(disk, fds[0], each, id, stop, path, whole=stop)), None)
    event = stretch.part(0, 1).events()[0] if stretch else None
    if event is None or event[0] != id or event[1] != records.PUBLISH:
        return None
    queue = loaded.state.queue(event[3])
    if queue is None or not _is_of_then(queue, id):
        return None
    return Publication(each, found_in(each, event, dropped=False), queue.name, end_of_files(disk, log, upto))


def _load(disk: Disk, store: str) -> tuple[Loaded | None, int]:
    """The state of now, if that takes no reading of the whole log."""
    own = identity.read(disk, paths.format_file(store))
    view = locks.look(disk, store, own.key)
    if checkpoint.newest(disk, paths.checkpoints(store), own.key, view.upto) is None:
        return None, view.upto
    return Loader(disk, store, own, _again).load(view.synced, view.upto, copied=view.copied), view.upto


def _again(number: int, priority: int, chunk: Chunk) -> Arrays:
    raise StaleCheckpoint


def _is_of_then(queue: QueueState, id: int) -> bool:
    """Whether the queue with that number is the one that *id* was published to: not deleted, and another."""
    if not queue.name:
        return False
    return 0 <= queue.declared_at <= id or queue.position(id) is not None
