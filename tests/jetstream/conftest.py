"""One server for all of these tests; without it, or nats-py, they are skipped by name."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mq

pytest.importorskip("nats", reason="nats-py is not installed: pip install 'mq[nats]'")

from servers import Cluster, find_server
from servers.binary import NoServer


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        find_server()
    except NoServer as why:
        pytest.skip(str(why))
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
