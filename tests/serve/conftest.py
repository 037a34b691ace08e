"""`mq serve`, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import mq

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("uvicorn", reason="mq[serve] is not installed")

END_SECONDS = 30
_numbers = count()


@dataclass
class Served:
    """A server that runs; *url*: where."""

    url: str
    store: Path
    process: subprocess.Popen[str]

    def end(self, by: int = signal.SIGTERM) -> int:
        """Its exit code, once it has ended."""
        self.process.send_signal(by)
        return self.process.wait(END_SECONDS)


@contextmanager
def serve(store: Path, *options: str, log: Path | None = None) -> Iterator[Served]:
    """A server on *store*, killed at the end of the block if it still runs."""
    command = [sys.executable, "-m", "mq.cli", "--store", str(store), "serve", "--port", "0", *options]
    with (open(log or os.devnull, "w") as errors, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors if log else None, text=True
    ) as process):  # fmt: skip
        try:
            assert process.stdout
            url = process.stdout.readline().strip()
            assert url, f"the server did not start: {process.wait(END_SECONDS)}"
            yield Served(url, store, process)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that can share it: each makes queues of its own.  It ends well."""
    # What is on a disk is on it, whether or not each answer waits for that: other tests are about that.
    with serve(tmp_path_factory.mktemp("served") / "store", "--sync", "0.5") as served:
        yield served
        assert served.end() == 0


@pytest.fixture(scope="session")
def store(served: Served) -> Iterator[mq.Broker]:
    """The store of that server, as another process has it."""
    with mq.open(served.store, sync=0.5) as broker:
        yield broker


def sqs_client(url: str, **options: Any) -> Any:
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    from botocore.config import Config

    given = {
        "region_name": "eu-west-1", "aws_access_key_id": "key", "aws_secret_access_key": "secret",
        "config": Config(retries={"max_attempts": 0}), **options,
    }  # fmt: skip
    return boto3.client("sqs", endpoint_url=url, **given)


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
