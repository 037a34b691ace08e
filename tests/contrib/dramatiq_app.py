"""The actors that the tests run in workers: their store, and what to set, come from the environment."""

from __future__ import annotations

import json
import os

import deeds
import dramatiq
from dramatiq.results import Results

from mq.contrib.dramatiq import MqBroker, ResultBackend

STORE = os.environ["DRAMATIQ_STORE"]

broker = MqBroker(STORE, **json.loads(os.environ.get("DRAMATIQ_SETTINGS", "{}")))
broker.add_middleware(Results(backend=ResultBackend(STORE)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def add(x: int, y: int) -> int:
    return x + y


@dramatiq.actor(store_results=True, max_retries=1, min_backoff=10, max_backoff=10)
def stubborn(log: str) -> str:
    deeds.note(log, "tried")
    with open(log) as file:
        if len(file.readlines()) < 2:
            raise ValueError("not yet")
    return "at last"


@dramatiq.actor
def run(log: str, number: int) -> None:
    deeds.note(log, str(number))


@dramatiq.actor(store_results=True)
def held(log: str, gate: str) -> int:
    return deeds.held(log, gate)


@dramatiq.actor(store_results=True)
def deadly(log: str, gate: str) -> str:
    return deeds.deadly(log, gate)
