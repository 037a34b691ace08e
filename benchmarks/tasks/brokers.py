"""Where a library keeps its tasks while it is measured: each of these is for one measurement, and its URL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import click

PATIENCE = 300.0  # seconds

Broker = Callable[[Path], AbstractContextManager[str]]


@contextmanager
def mq_quick(place: Path) -> Iterator[str]:
    yield f"mq:///{place}/data?sync=0.1"


@contextmanager
def mq_durable(place: Path) -> Iterator[str]:
    yield f"mq:///{place}/data?sync=always"


@contextmanager
def redis(place: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen([*command, "--dir", str(place)], stdout=subprocess.DEVNULL)
    try:
        until(lambda: answers(port))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def has_redis() -> bool:
    return shutil.which("redis-server") is not None


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def kombu_files(place: Path) -> Iterator[str]:
    for name in ("messages", "control", "processed"):
        os.makedirs(place / name)
    yield "filesystem://"


def until(done: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := done()):
        if time.monotonic() > end:
            raise click.ClickException("it took too long")
        time.sleep(0.005)
    return found
