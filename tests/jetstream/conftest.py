"""One server for most of these tests; without it, or nats-py, all are skipped by name."""

from __future__ import annotations

import gc
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from servers import Cluster, find_server
from servers.binary import NoServer
from servers.node import PATIENCE

import mq


def why_not() -> str:
    """Why none of these tests can run; "" if they can."""
    if find_spec("nats") is None:
        return "nats-py is not installed: pip install 'mq[nats]'"
    try:
        find_server()
    except NoServer as why:
        return str(why)
    return ""


WHY_NOT = why_not()


class Skipped(pytest.Module):
    def collect(self) -> list[pytest.Item]:
        pytest.skip(WHY_NOT, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return Skipped.from_parent(parent, path=module_path) if WHY_NOT else None


# nats-py drops the streams of a connection that a server has ended; Python says so when it finalises them.
LEFT_BY_NATS_PY = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here:
            item.add_marker(LEFT_BY_NATS_PY)


@pytest.fixture(scope="module", autouse=True)
def finalised() -> Iterator[None]:
    """What nats-py leaves is finalised before tests come that are not marked so."""
    yield
    gc.collect()


@pytest.fixture
def impatient() -> Callable[[], AbstractContextManager[None]]:
    """Inside of what this returns, a store gives up at once on servers that do not answer.

    Not longer than that: a machine that is busy may take as long for an opening, or an answer.
    """

    @contextmanager
    def gives_up() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            import_module("mq.nats.store")
            for name, module in list(sys.modules.items()):
                if name.startswith("mq.nats.") and hasattr(module, "PATIENCE_SECONDS"):
                    patch.setattr(module, "PATIENCE_SECONDS", 1.0)
            wait = sys.modules["mq.nats.arrivals"].Arrivals.wait
            assert wait.__defaults__ == (20.0,)
            patch.setattr(wait, "__defaults__", (1.0,))
            yield

    return gives_up


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wire ends, and no other one is begun, because a server or this machine is slow for some seconds."""
    for module, name in (
        ("arrivals", "SILENCE_SECONDS"), ("direct", "REQUEST_SECONDS"), ("wire", "CONNECT_SECONDS"),
        ("wire", "SEND_SECONDS"),
    ):  # fmt: skip
        monkeypatch.setattr(import_module(f"mq.nats.{module}"), name, PATIENCE)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory: Path = tmp_path_factory.mktemp("nats")
    with Cluster(directory, 1, sync="2m") as cluster:
        yield cluster


@pytest.fixture
def url(cluster: Cluster) -> str:
    """Of a store that is not there yet."""
    return cluster.url(f"s{uuid.uuid4().hex}")


@pytest.fixture
def opens(url: str) -> Iterator[Callable[..., mq.Broker]]:
    """mq.open, on that store; what it opens is closed at the end."""
    brokers: list[mq.Broker] = []

    def open(**options: object) -> mq.Broker:
        brokers.append(mq.open(url, **options))
        return brokers[-1]

    yield open
    for broker in brokers:
        broker.close()
