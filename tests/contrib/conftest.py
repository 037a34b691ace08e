"""Tests of task libraries on mq.  Those of a library that is not installed are skipped, and say which."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workplace import Workplace

import mq
from mq.storage.real_disk import RealDisk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a store that is not there yet."""
    return tmp_path / "data"


@pytest.fixture
def fail_next_sync(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Once it is called the next sync of a disk fails, and no other; its descriptor is in the list then."""
    plain = RealDisk.sync

    def begin() -> list[int]:
        failed: list[int] = []

        def fail_once(self: RealDisk, fd: int) -> None:
            if not failed:
                failed.append(fd)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            plain(self, fd)

        monkeypatch.setattr(RealDisk, "sync", fail_once)
        return failed

    return begin


@pytest.fixture
def count_syncs() -> Callable[[mq.Broker], list[float]]:
    """Called with a broker: a list that gets longer with each sync of its log."""

    def begin(broker: mq.Broker) -> list[float]:
        synced: list[float] = []
        broker._store.time_syncs(synced.append)
        return synced

    return begin


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workplace]:
    """The Site of the test's module."""
    site = request.module.Site(tmp_path)
    yield site
    site.close()
