"""Celery, with its own transport for SQS, against the server: each task that was sent runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import require
from served import END_SECONDS, Served
from sites import wait_until

import mq

NUMBERS = set(range(20))


@pytest.fixture
def tasks(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    require("celery", "boto3", "pycurl")
    monkeypatch.setenv("SQS_BROKER", served.url.replace("http://", "sqs://key:secret@"))
    import sqs_tasks

    yield sqs_tasks
    sqs_tasks.app.close()


@contextmanager
def worker(place: Path, queue: str) -> Iterator[subprocess.Popen[bytes]]:
    words = ["-m", "celery", "-A", "sqs_tasks", "worker", "--pool", "solo", "-Q", queue]
    with (place / "worker.log").open("ab") as log, subprocess.Popen(
        [sys.executable, "-W", "ignore", *words], stdout=log, stderr=log, cwd=Path(__file__).parent
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def test_each_task_runs(tasks: Any, name: str, store: mq.Broker, tmp_path: Path) -> None:
    """Those that are tried again, too, and those that a worker held when it was killed."""
    queue, noted = store.queue(name), tmp_path / "noted"
    for number in NUMBERS:
        tasks.note.apply_async((str(tmp_path), number), queue=name)
    assert queue.stats().ready == len(NUMBERS)
    with worker(tmp_path, name) as process:
        assert process.wait(END_SECONDS) == -signal.SIGKILL
    with worker(tmp_path, name) as process:
        wait_until(lambda: noted.exists() and set(map(int, noted.read_text().split())) == NUMBERS)
        wait_until(lambda: queue.stats()[:3] == (0, 0, 0))
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_SECONDS) == 0
