"""The task libraries: what they are measured on, and how a worker of each is started.

A worker runs two tasks at a time: in two processes, but for Django, whose worker has threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import NamedTuple

from benchmarks.tasks import brokers
from benchmarks.tasks.brokers import Broker

QUICK, DURABLE, REDIS, FILES = "mq, sync=0.1", "mq, sync=always", "Redis, in memory", "files of kombu"


class Library(NamedTuple):
    """app: its module in apps/; worker: arguments of Python; redis: the module of its client of Redis."""

    name: str
    app: str
    worker: list[str]
    redis: str = ""
    others: Mapping[str, Broker] = MappingProxyType({})

    def is_there(self) -> bool:
        return find_spec(self.name) is not None

    @property
    def brokers(self) -> dict[str, Broker]:
        found: dict[str, Broker] = {QUICK: brokers.mq_quick, DURABLE: brokers.mq_durable}
        if self.redis and find_spec(self.redis) and brokers.has_redis():
            found[REDIS] = brokers.redis
        return {**found, **self.others}


LIBRARIES = {
    each.name: each
    for each in (
        Library(
            "celery",
            "celery_app",
            ["-m", "celery", "-A", "celery_app", "worker", "-c", "2", "-l", "WARNING"],
            "redis",
            {FILES: brokers.kombu_files},
        ),
        Library(
            "dramatiq", "dramatiq_app", ["-m", "dramatiq", "dramatiq_app", "-p", "2", "-t", "1"], "redis"
        ),
        Library(
            "taskiq",
            "taskiq_app",
            ["-m", "taskiq", "worker", "taskiq_app:broker", "--workers", "2", "--max-async-tasks", "1"],
            "taskiq_redis",
        ),
        Library(
            "huey",
            "huey_app",
            ["-m", "huey.bin.huey_consumer", "huey_app.huey", "-k", "process", "-w", "2", "-q"],
            "redis",
        ),
        Library("django", "django_app", ["-m", "django", "mq_worker", "--concurrency", "2", "-v", "0"]),
    )
}
