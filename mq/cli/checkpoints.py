"""Checkpoints that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from mq.delivery import snapshot
from mq.storage import checkpoint, paths
from mq.storage.disk import Disk


def unusable(disk: Disk, store: str, key: bytes, upto: int) -> Iterator[str]:
    """Files of the newest checkpoint up to that position that cannot be used.

    They are a cache: a warning, not damage.
    """
    directory = paths.checkpoints(store)
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = sorted(disk.names(directory))
    matches = [match for name in names if (match := paths.CHECKPOINT_FILE.fullmatch(name))]
    states = [match for match in matches if match[2] == "state"]
    newest = checkpoint.newest(disk, directory, key, upto)
    for match in states:
        if not newest or int(match[1]) > newest.position:
            path = os.path.join(directory, match[0])
            if disk.exists(path) and int(match[1]) < upto:
                yield path
    if newest:
        try:
            places = [checkpoint.Place(*place) for place in snapshot.places(newest.state)]
        except msgspec.MsgspecError:  # it is whole, and says what this mq does not know
            yield paths.state(directory, newest.position)
            return
        bad = {place.pack for place in places if checkpoint.load(disk, directory, place) is None}
        again = checkpoint.newest(disk, directory, key, upto)
        if again and again.position == newest.position:  # else another process replaced it meanwhile
            yield from (paths.ids(directory, pack) for pack in sorted(bad))
