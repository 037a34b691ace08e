"""The application whose tasks the tests run: its store, and what to set, come from the environment."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import deeds
from celery import Celery, chord, group
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
task = partial(app.task, shared=False)  # a process of tests makes more than one such application


@task
def add(x: int, y: int) -> int:
    return x + y


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def same(value: Any) -> Any:
    return value


@task
def fail() -> None:
    raise ZeroDivisionError("by design")


@task(bind=True, max_retries=3)
def stubborn(self: Any, times: int) -> int:
    if self.request.retries < times:
        raise self.retry(countdown=0.01)
    return int(self.request.retries)


@task
def reject(requeue: bool) -> None:
    raise Reject("no", requeue=requeue)


@task
def run(log: str, number: int) -> None:
    deeds.note(log, str(number))


@task
def held(log: str, gate: str) -> int:
    return deeds.held(log, gate)


@task
def deadly(log: str, gate: str) -> str:
    return deeds.deadly(log, gate)


@task(bind=True)
def replaced(self: Any, how: str) -> Any:
    """Its result is that of what it is replaced by."""
    other = {
        "task": add.si(1, 1),
        "chain": add.si(1, 1) | add.s(1),
        "group": group(add.si(1, 1), add.si(2, 2)),
        "chord": chord([add.si(1, 1), add.si(2, 2)], total.s()),
    }
    raise self.replace(other[how])


@task(bind=True)
def adding(self: Any, x: int, y: int) -> int:
    """Adds a task to the chord that it is in."""
    self.add_to_chord(add.si(x, y))
    return 0
