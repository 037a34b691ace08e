"""The tasks that the tests run in workers: their store, and what to set, come from the environment."""

from __future__ import annotations

import asyncio
import json
import os
from functools import partial

import deeds
from taskiq import TaskiqScheduler

from mq.contrib.taskiq import MqBroker, ResultBackend, ScheduleSource

STORE = os.environ["TASKIQ_STORE"]
LOG = os.environ["TASKIQ_LOG"]

broker = MqBroker(STORE, **json.loads(os.environ.get("TASKIQ_SETTINGS", "{}")))
broker = broker.with_result_backend(ResultBackend(STORE))
scheduler = TaskiqScheduler(broker, [ScheduleSource(broker)])


note = partial(deeds.note, LOG)


@broker.task("add")
async def add(x: int, y: int) -> int:
    return x + y


@broker.task("run")
def run(number: int) -> None:
    note(str(number))


@broker.task("tick", schedule=[{"interval": 1, "args": []}])
async def tick() -> None:
    note("tick")


@broker.task("held")
async def held(gate: str) -> int:
    """Runs until the file *gate* is there."""
    note(f"begun {os.getpid()}")
    while not os.path.exists(gate):
        await asyncio.sleep(0.01)
    note("done")
    return 7


@broker.task("deadly")
async def deadly(gate: str) -> str:
    return deeds.deadly(LOG, gate)
