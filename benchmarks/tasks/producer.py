"""Enqueues tasks of an application of apps/: `enqueue COUNT`, or `late COUNT PAUSE`, one after each pause.

The first prints how many a second; how often it has synced a file for each of them; and how often a second
the disk does a `write` and an `fdatasync`, in turns with the tasks.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

BLOCK = 100  # tasks, and then
RAW_BLOCK = 20  # raw writes
RAW = os.urandom(400)  # about as much as a task of most libraries


class Counted:
    """A function of os that syncs, and how often it was called."""

    def __init__(self, sync: Callable[[int], None]) -> None:
        self.sync, self.calls = sync, 0

    def __call__(self, fd: int) -> None:
        self.calls += 1
        self.sync(fd)


def enqueue(app: Any, count: int) -> dict[str, float]:
    app.nothing()  # connects, and declares
    fdatasync, fsync = os.fdatasync, os.fsync
    counted = os.fdatasync, os.fsync = Counted(fdatasync), Counted(fsync)
    raw = os.open("raw", os.O_WRONLY | os.O_CREAT)
    took, raw_took, raw_count = 0.0, 0.0, 0
    for first in range(1, count, BLOCK):
        begin = time.perf_counter()
        for _ in range(first, min(first + BLOCK, count)):
            app.nothing()
        end = time.perf_counter()
        for _ in range(RAW_BLOCK):
            os.write(raw, RAW)
            fdatasync(raw)
        took, raw_took = took + end - begin, raw_took + time.perf_counter() - end
        raw_count += RAW_BLOCK
    syncs = sum(each.calls for each in counted) / (count - 1)
    return {"rate": (count - 1) / took, "syncs": syncs, "disk": raw_count / raw_took}


def late(app: Any, count: int, pause: float) -> dict[str, float]:
    for _ in range(count):
        app.late(time.time())
        time.sleep(pause)
    return {}


if __name__ == "__main__":
    name, what, count, *pause = sys.argv[1:]
    app = importlib.import_module(name)
    done = enqueue(app, int(count)) if what == "enqueue" else late(app, int(count), *map(float, pause))
    app.close()
    print(json.dumps(done))
