"""A task's result as text: the body of its message, and what is kept of it in the results.

The message has what its worker needs; once a worker has begun, the results have what has become of it.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

from django.core.exceptions import SuspiciousOperation
from django.utils.module_loading import import_string

from mq.contrib.django.framework import InvalidTask, Task, TaskError, TaskResult, TaskResultStatus

NUMBER: Final = "*"  # in an id: its message's, which is not known before it is stored
DIGITS: Final = 20  # a number of a message has less
TIMES: Final = ("enqueued_at", "started_at", "last_attempted_at", "finished_at")


def dump(result: Any) -> str:
    """Raises TypeError: something in it is not JSON."""
    task = result.task
    record = {
        "task": task.module_path,
        "id": result.id,
        "status": str(result.status.value),
        "args": result.args,
        "kwargs": result.kwargs,
        "priority": task.priority,
        "queue": task.queue_name,
        "run_after": _text(task.run_after),
        **{name: _text(getattr(result, name)) for name in TIMES},
        "errors": [[error.exception_class_path, error.traceback] for error in result.errors],
        "workers": result.worker_ids,
        "value": result._return_value,
    }
    return json.dumps(record, ensure_ascii=False)


def load(text: str | bytes, backend: str) -> Any:
    """The result, as of a backend with this alias.

    Raises ValueError, KeyError, TypeError (it is none), ImportError (its task is not there),
    SuspiciousOperation (it names what is no task), InvalidTask (the backend would not take it now).
    """
    record: dict[str, Any] = json.loads(text)
    task = task_at(record["task"]).using(
        priority=record["priority"],
        queue_name=record["queue"],
        run_after=_time(record["run_after"]),
        backend=backend,
    )
    result = TaskResult(
        task=task,
        id=record["id"],
        status=TaskResultStatus(record["status"]),
        args=record["args"],
        kwargs=record["kwargs"],
        backend=backend,
        errors=[TaskError(exception_class_path=path, traceback=trace) for path, trace in record["errors"]],
        worker_ids=record["workers"],
        **{name: _time(record[name]) for name in TIMES},
    )
    change(result, _return_value=record["value"])
    return result


def task_at(path: str) -> Any:
    """Raises ImportError, and SuspiciousOperation: a message calls tasks, and nothing else."""
    found = import_string(path)
    if not isinstance(found, Task):
        raise SuspiciousOperation(f"{path} is no task, but {type(found).__name__}")
    return found


def check_path(task: Any) -> None:
    """Raises InvalidTask: a worker would not find it."""
    try:
        is_there = task_at(task.module_path).func is task.func
    except (ImportError, SuspiciousOperation):
        is_there = False
    if not is_there:
        raise InvalidTask(f"{task.module_path} is not the name of this task: a worker could not find it")


def numbered(id: str, number: int) -> str:
    return id.replace(NUMBER, str(number))


def number(id: str) -> int | None:
    """That of its message; None if the id was given before there was one."""
    digits, dash, _ = id.partition("-")
    return int(digits) if dash and digits.isdecimal() and len(digits) < DIGITS else None


def change(result: Any, **fields: Any) -> None:
    """As Django's own backends change results, which are frozen for programs."""
    for name, value in fields.items():
        object.__setattr__(result, name, value)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
