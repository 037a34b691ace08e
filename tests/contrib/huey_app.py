"""The huey whose tasks the tests run: its store, and what to set, come from the environment."""

from __future__ import annotations

import json
import os
import time

import deeds
from huey import crontab
from huey.exceptions import CancelExecution, RetryTask

from mq.contrib.huey import MqHuey

URL = os.environ.get("HUEY_STORE", "mq:///unused")

huey = MqHuey("app", url=URL, **json.loads(os.environ.get("HUEY_SETTINGS", "{}")))


@huey.task()
def add(x: int, y: int) -> int:
    return x + y


@huey.task()
def total(numbers: list[int]) -> int:
    return sum(numbers)


@huey.task()
def fail(reason: str) -> None:
    raise ZeroDivisionError(reason)


@huey.task()
def reason_of(error: BaseException) -> str:
    return str(error)


@huey.task()
def stubborn(log: str, times: int) -> int:
    deeds.note(log, "tried")
    with open(log) as file:
        tried = len(file.readlines())
    if tried < times:
        raise RetryTask(delay=0.05)
    return tried


@huey.task()
def cancelled() -> None:
    raise CancelExecution(retry=False)


@huey.task()
@huey.lock_task("one at a time", ttl=60)
def locked(gate: str) -> int:
    while not os.path.exists(gate):
        time.sleep(0.01)
    return 1


@huey.task()
@huey.rate_limit("scarce", limit=1, per=10**9, retry=False)
def scarce() -> int:
    return 1


@huey.task(timeout=0.2)
def slow() -> None:
    time.sleep(30)


@huey.task()
def run(log: str, number: int) -> int:
    deeds.note(log, str(number))
    return number


@huey.task()
def held(log: str, gate: str) -> int:
    return deeds.held(log, gate)


@huey.task()
def deadly(log: str, gate: str) -> str:
    return deeds.deadly(log, gate)


@huey.periodic_task(crontab())
def each_minute() -> None:
    pass
