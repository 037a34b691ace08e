"""The ways of `tests.crash.full` on real file systems, which have their own idea of what is full."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from mq.api.broker import Broker
from mq.engine.store import Store
from mq.storage.real_disk import RealDisk

from .. import full
from ..full import EPOCH, HELD_SECONDS, Way
from .machine import Image, base, run

LEAST_BYTES = 3 << 20  # of room that a way begins with: what is kept ahead and back takes two of them
KINDS = ("tmpfs", "ext4")
LARGEST_BYTES = 300_000  # of a body


class Small:
    """A store on a file system with little room, in this process."""

    def __init__(self, directory: str, name: str) -> None:
        self.directory, self._path = directory, os.path.join(directory, name)
        self._now, self._dead = EPOCH, False
        self._ballast = os.path.join(directory, "others")

    def open(self, way: Way) -> Broker:
        store = Store(
            self._path, sync=way.sync, read_only=False, segment_bytes=way.segment_bytes,
            clock=lambda: self._now, disk=RealDisk(), background=True,
        )  # fmt: skip
        return Broker(store)

    def kill(self, broker: Broker) -> None:
        """All that the kernel does when a process is gone: its threads end, and its files are closed."""
        store = broker._store
        for each in store.threads():
            each.stop()
            each.worker.join()
        store.let_go()
        self._now += HELD_SECONDS

    def crowd(self) -> None:
        leave(self._ballast, self.directory, 0)

    def leave(self) -> None:
        os.unlink(self._ballast)

    def remove(self) -> None:
        shutil.rmtree(self._path)


def leave(ballast: str, directory: str, room: int) -> None:
    """Fill the file system up with a file, but for so much *room*."""
    with open(ballast, "wb") as file:
        at, step = 0, 1 << 30
        while step >= 4096:
            now = os.statvfs(directory)
            free = now.f_bavail * now.f_frsize - room
            try:
                if free < step:
                    raise OSError
                os.posix_fallocate(file.fileno(), at, step)
                at += step
            except OSError:
                step //= 2


@contextmanager
def small_disk(kind: str, name: str, room: int) -> Iterator[str]:
    """The path of a file system with so much *room* left."""
    if kind == "tmpfs":
        path = os.path.join(base(), name)
        os.makedirs(path, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", f"size={room}", "mq-real", path)
        try:
            yield path
        finally:
            run("umount", "--lazy", path)
    else:
        with Image(kind, name) as image:
            leave(os.path.join(image.path, "ballast"), image.path, room)
            yield image.path


def go(way: Way, kind: str, room: int) -> str:
    """What stood in the way; "" if nothing did."""
    with small_disk(kind, f"full-{kind}", room) as directory:
        return full.search(lambda _: Small(directory, "data"), [way])


def round_of(seed: str) -> str:
    """One way, whichever, on whichever file system."""
    rng = random.Random(seed)
    way = full.draw(rng.randrange(1 << 30), LARGEST_BYTES)
    return go(way, rng.choice(KINDS), LEAST_BYTES + rng.randrange(8 << 20))
