"""For all tests: no example of a property is judged by how long it took."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engines import BY_DEFAULT, CAPABILITIES, ENGINES, Engine
from fakes import FakeClock
from hypothesis import HealthCheck, settings

import mq
from mq.delivery.moment import Moment

settings.register_profile("mq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mq")


# When the tests are started behind an &, Ctrl-C is ignored, also in every process begun here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Behind nohup, SIGHUP is: that holds for this process, and not for those begun here.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engines", default=",".join(BY_DEFAULT), help="those of the conformance tests")
    parser.addoption(
        "--thorough", action="store_true",
        help="try all of what there is very much of: faults of a cluster, places to interrupt, bits to flip",
    )  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is marked `conformance` runs on every engine that has all that it `needs`."""
    markers = list(metafunc.definition.iter_markers())
    if "engine" in metafunc.fixturenames and any(each.name == "conformance" for each in markers):
        needed = {name for each in markers if each.name == "needs" for name in each.args}
        assert needed <= CAPABILITIES.keys(), needed
        asked = metafunc.config.getoption("engines").split(",")
        assert set(asked) <= ENGINES.keys(), asked
        found = [name for name in asked if not needed & ENGINES[name].lacks]
        metafunc.parametrize("engine", found, indirect=True)


def pytest_collection_finish() -> None:
    """Ten thousand tests, and what they import, stay until the end: no collection goes through them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def thorough(pytestconfig: pytest.Config) -> bool:
    """Whether all is to be tried of which there is very much."""
    return bool(pytestconfig.getoption("thorough"))


Places = Callable[[int], Iterator[int]]


@pytest.fixture
def places(request: pytest.FixtureRequest, thorough: bool) -> Places:
    """Where to strike, of the very many places that there are: numbers from 1 on, without an end.

    `places(5)` is each fifth, and with --thorough each one.  Which is the first differs from test to test, so
    that not all of them strike the same lines.
    """

    def some(stride: int) -> Iterator[int]:
        if thorough:
            return itertools.count(1)
        return itertools.count(1 + zlib.crc32(request.node.nodeid.encode()) % stride, stride)

    return some


@pytest.fixture(autouse=True)
def levels_stay() -> Iterator[None]:
    """A test, or a library that it loads, may set what is logged: others count the lines of a log."""
    loggers = logging.getLogger(), logging.getLogger("mq")
    before = [each.level for each in loggers]
    yield
    for each, level in zip(loggers, before, strict=True):
        each.setLevel(level)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Makes stores; in tests that are not marked `conformance`, in memory."""
    with ENGINES[getattr(request, "param", "memory")](tmp_path / "stores", request.node.nodeid) as engine:
        yield engine


@pytest.fixture
def broker(engine: Engine, clock: FakeClock) -> mq.Broker:
    """A store of the engine."""
    return engine.open(clock=clock)


@pytest.fixture
def no_backoff_after_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery that has timed out is ready at its deadline, for tests that are about something else."""
    monkeypatch.setattr(Moment, "returns_at", lambda self, flight: flight.deadline)
    monkeypatch.setattr(Moment, "returns_from", lambda self, deadline, attempts: deadline)


@pytest.fixture
def no_power_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync waits for no disk, for tests that are about something else."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: None)
