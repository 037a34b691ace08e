"""The application whose tasks the tests run: its store, and what to set, come from the environment."""

from __future__ import annotations

import json
import os
from typing import Any

import deeds
from celery import Celery
from celery.exceptions import Reject

import mq.contrib.celery  # noqa: F401  the scheme

URL = os.environ.get("CELERY_STORE", "mq:///unused")

app = Celery("tests", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=2,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    result_chord_join_timeout=10,
)
app.conf.update(json.loads(os.environ.get("CELERY_SETTINGS", "{}")))


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def fail() -> None:
    raise ZeroDivisionError("by design")


@app.task(bind=True, max_retries=3)
def stubborn(self: Any, times: int) -> int:
    if self.request.retries < times:
        raise self.retry(countdown=0.01)
    return int(self.request.retries)


@app.task
def reject(requeue: bool) -> None:
    raise Reject("no", requeue=requeue)


@app.task
def run(log: str, number: int) -> None:
    deeds.note(log, str(number))


@app.task
def held(log: str, gate: str) -> int:
    return deeds.held(log, gate)


@app.task
def deadly(log: str, gate: str) -> str:
    return deeds.deadly(log, gate)
