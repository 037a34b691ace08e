"""The actors that the tests run in workers: their store, and what to set, come from the environment."""

from __future__ import annotations

import json
import os
import signal
import time

import dramatiq
from dramatiq.results import Results

from mq.contrib.dramatiq import MqBroker, ResultBackend

STORE = os.environ["DRAMATIQ_STORE"]

broker = MqBroker(STORE, **json.loads(os.environ.get("DRAMATIQ_SETTINGS", "{}")))
broker.add_middleware(Results(backend=ResultBackend(STORE)))
dramatiq.set_broker(broker)


def note(name: str, text: str) -> None:
    """Add a line to a file: one write, so that lines of processes do not mix."""
    with open(name, "a") as file:
        file.write(text + "\n")


@dramatiq.actor(store_results=True)
def add(x: int, y: int) -> int:
    return x + y


@dramatiq.actor(store_results=True, max_retries=1, min_backoff=10, max_backoff=10)
def stubborn(log: str) -> str:
    note(log, "tried")
    with open(log) as file:
        if len(file.readlines()) < 2:
            raise ValueError("not yet")
    return "at last"


@dramatiq.actor
def run(log: str, number: int) -> None:
    note(log, str(number))


@dramatiq.actor(store_results=True)
def held(log: str, gate: str) -> int:
    """Runs until the file *gate* is there."""
    note(log, f"begun {os.getpid()}")
    while not os.path.exists(gate):
        time.sleep(0.01)
    note(log, "done")
    return 7


@dramatiq.actor(store_results=True)
def deadly(log: str, gate: str) -> str:
    """Kills its worker, until the file *gate* is there."""
    note(log, "begun")
    if not os.path.exists(gate):
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"
