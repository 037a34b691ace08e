"""Servers and queues that tests share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from served import Served, serve, sqs_client

import mq

missing = [name for name in ("httptools", "starlette", "uvicorn") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if missing else []


def pytest_report_header() -> list[str]:
    return [f"tests/serve is left out: {', '.join(missing)} is not installed"] if missing else []


_numbers = count()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that can share it: each makes queues of its own.  It ends well."""
    # What is on a disk is on it, whether or not each answer waits for that: other tests are about that.
    with serve(tmp_path_factory.mktemp("served") / "store", "--sync", "0.5") as served:
        yield served
        assert served.end() == 0


@pytest.fixture
def store(served: Served) -> Iterator[mq.Broker]:
    """The store of that server, as another process has it.

    Open for one test: its threads are none of a later test, which may have a disk fail, or count syncs.
    """
    with mq.open(served.store, sync=0.5) as broker:
        yield broker


@pytest.fixture(scope="session")
def sqs(served: Served) -> Any:
    """boto3's client of that server."""
    return sqs_client(served.url)


@pytest.fixture
def name() -> str:
    """Of a queue that no other test has."""
    return f"queue-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def made(sqs: Any, name: str) -> Callable[..., str]:
    """Makes a queue with these attributes, and gives its URL."""

    def make(fifo: bool = False, **attributes: str) -> str:
        if fifo:
            attributes["FifoQueue"] = "true"
        suffix = f"-{next(_numbers)}{'.fifo' if fifo else ''}"
        found: str = sqs.create_queue(QueueName=name + suffix, Attributes=attributes)["QueueUrl"]
        return found

    return make


@pytest.fixture
def url(made: Callable[..., str]) -> str:
    """Of a standard queue of its own."""
    return made()
