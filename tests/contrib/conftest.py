"""Tests of task libraries on mq.  Those of a library that is not installed are skipped, and say which."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeClock
from workplace import Workplace, until

import mq
from mq.storage.real_disk import RealDisk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a store that is not there yet."""
    return tmp_path / "data"


@pytest.fixture
def fail_next_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Once it is called the next sync of the store fails, no other; its descriptor is in the list then."""
    plain = RealDisk.sync

    def begin() -> list[int]:
        failed: list[int] = []

        def fail_once(self: RealDisk, fd: int) -> None:
            if not failed and os.readlink(f"/proc/self/fd/{fd}").startswith(str(path)):
                failed.append(fd)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            plain(self, fd)

        monkeypatch.setattr(RealDisk, "sync", fail_once)
        return failed

    return begin


@pytest.fixture
def outlive(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any], float], None]:
    """Stores that are opened have the test's clock; called, it lets the visibility timeout pass.

    It is given what looks at the one message in flight, and that timeout.  Before the lease is over the clock
    stands, until it was extended: so a thread that is late loses none.
    """
    for name in ("open", "aopen"):
        monkeypatch.setattr(mq, name, partial(getattr(mq, name), clock=clock))

    def pass_by(in_flight: Callable[[], Any], seconds: float) -> None:
        end = clock.now + seconds
        while clock.now <= end:
            deadline = in_flight().due_at
            clock.advance((deadline.timestamp() - clock.now) * 0.75)
            until(lambda: in_flight().due_at > deadline, "the lease is not extended")  # noqa: B023

    return pass_by


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
