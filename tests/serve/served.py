"""`mq serve`, in a process of its own, and boto3's client of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

END_SECONDS = 120


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
    command = [sys.executable, "-m", "mq", "--store", str(store), "serve", "--port", "0", *options]
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


def sqs_client(url: str, **options: Any) -> Any:
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    from botocore.config import Config

    given = {
        "region_name": "eu-west-1", "aws_access_key_id": "key", "aws_secret_access_key": "secret",
        "config": Config(retries={"max_attempts": 0}), **options,
    }  # fmt: skip
    return boto3.client("sqs", endpoint_url=url, **given)
