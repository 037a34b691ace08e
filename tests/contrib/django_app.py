"""The tasks that the tests run."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import deeds
import django

import mq
from mq.contrib.django import framework

# In a worker that is done.  The environment is left as it was: Celery takes the name for a Django project's.
with mock.patch.dict(os.environ, DJANGO_SETTINGS_MODULE="django_site"):
    django.setup()

if framework.LOGGER == "django.tasks":
    from django.tasks import task
else:
    from django_tasks import task


@task
def add(x: int, y: int = 0) -> int:
    return x + y


@task
async def add_async(x: int, y: int) -> int:
    return x + y


@task(priority=7, queue_name="mail")
def mail(to: str) -> str:
    return to


@task(takes_context=True)
def attempt(context: Any, times: int) -> list[Any]:
    """Tried again until it was tried so often."""
    if context.attempt < times:
        raise mq.Retry(delay=0, reason="not yet")
    return [context.attempt, context.task_result.id]


@task
def fail(reason: str) -> None:
    raise ZeroDivisionError(reason)


@task
def leave() -> None:
    raise SystemExit(3)


@task
def reject() -> None:
    raise mq.Reject("hopeless")


@task
def answer(kind: str) -> Any:
    return {"no JSON": {1, 2}.__iter__(), "tuple": (1, (2,)), "none": None}[kind]


@task
def run(log: str, number: int) -> None:
    deeds.note(log, str(number))


@task
def held(log: str, gate: str) -> int:
    return deeds.held(log, gate)


@task
def deadly(log: str, gate: str) -> str:
    return deeds.deadly(log, gate)


def plain() -> None: ...


renamed = task(plain)
