"""For all tests: no example of a property is judged by how long it took."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from fakes import FakeClock
from hypothesis import HealthCheck, settings

import mq
from mq.delivery.order import Order

settings.register_profile("mq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mq")


# Whoever starts the tests behind an & has Ctrl-C ignored, and so would every process begun here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def broker(clock: FakeClock) -> Iterator[mq.Broker]:
    """A store in memory."""
    with mq.open(":memory:", clock=clock) as broker:
        yield broker


@pytest.fixture
def no_backoff_after_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery that has timed out is ready at its deadline, for tests that are about something else."""
    monkeypatch.setattr(Order, "returns_at", lambda self, flight: flight.deadline)


@pytest.fixture
def no_power_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync waits for no disk, for tests that are about something else."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: None)
