"""Worker: calls the tasks of a backend, on the workers of mq.

    delivery ──► RUNNING, stored ──► the task ──► SUCCESSFUL, FAILED, stored ──► ack
        │                              │ raises mq.Retry ──► READY, stored ──► nack: again later
        │                              │ raises mq.Reject ──► FAILED, stored ──► dead letter
        └── no task can be made of it ──► dead letter

The result is stored before the ack.  A worker that dies in between is followed by one that finds the result,
and does not call the task again: it acks, or rejects, what the first one would have.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from traceback import format_exception
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.db import close_old_connections
from django.utils import timezone

from mq.api.message import Delivery
from mq.contrib.django import record
from mq.contrib.django.backend import MqBackend
from mq.contrib.django.framework import (
    InvalidTask,
    TaskContext,
    TaskError,
    TaskResultStatus,
    normalize_json,
    task_finished,
    task_started,
)
from mq.workers.raised import Reject, Retry

UNUSABLE = (ValueError, TypeError, KeyError, ImportError, SuspiciousOperation, InvalidTask)


class Worker:
    def __init__(self, backend: MqBackend, worker_id: str) -> None:
        self.backend, self.worker_id = backend, worker_id

    def run(self, queues: Iterable[str], *, concurrency: int, grace: float, until_empty: bool) -> None:
        """Until SIGTERM or SIGINT, or until the queues are empty.  Raises StoreFailed, UsageError."""
        broker = self.backend.store.broker
        for name in queues:
            broker.consumer(self.backend.store.queue(name), concurrency=concurrency)(self.work)
        broker.run(grace=grace, until_empty=until_empty)

    def work(self, delivery: Delivery[Any]) -> None:
        """One task, in a thread of its own: with database connections as a request has them."""
        close_old_connections()
        try:
            self._work(delivery)
        finally:
            close_old_connections()

    def _work(self, delivery: Delivery[Any]) -> None:
        try:
            result = self.backend.load(delivery)
            kept = self.backend.kept(result.id)
        except UNUSABLE as error:
            raise Reject(f"no task can be made of it: {type(error).__name__}: {error}") from error
        if kept is not None and kept.is_finished and delivery.attempts > 1:
            return _end_as(kept)  # the worker that stored it did not come to the ack
        self._begin(result, kept)
        try:
            value = normalize_json(self._call(result))
        except (Retry, Reject) as error:
            status = TaskResultStatus.READY if isinstance(error, Retry) else TaskResultStatus.FAILED
            self._end(result, status, error)
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever it is, its result has it
            self._end(result, TaskResultStatus.FAILED, error)
        else:
            record.change(result, _return_value=value)
            self._end(result, TaskResultStatus.SUCCESSFUL)

    def _begin(self, result: Any, kept: Any) -> None:
        now = timezone.now()
        record.change(
            result, status=TaskResultStatus.RUNNING, started_at=now, last_attempted_at=now, finished_at=None
        )
        if kept is not None:  # it was tried before
            record.change(
                result,
                started_at=kept.started_at or now,
                worker_ids=kept.worker_ids,
                errors=kept.errors,
            )
        result.worker_ids.append(self.worker_id)
        self.backend.keep(result)

    def _call(self, result: Any) -> Any:
        task_started.send(type(self.backend), task_result=result)
        first = [TaskContext(task_result=result)] if result.task.takes_context else []
        return result.task.call(*first, *result.args, **result.kwargs)

    def _end(self, result: Any, status: Any, error: BaseException | None = None) -> None:
        if error is not None:
            kind = type(error)
            result.errors.append(
                TaskError(
                    exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
                    traceback="".join(format_exception(error)),
                )
            )
        record.change(result, status=status)
        if result.is_finished:
            record.change(result, finished_at=timezone.now())
        self.backend.keep(result)
        if result.is_finished:
            task_finished.send(type(self.backend), task_result=result)


def _end_as(kept: Any) -> None:
    """Raise Reject if the task did."""
    if kept.status == TaskResultStatus.FAILED:
        error = kept.errors[-1]
        with suppress(ImportError, ValueError):  # it is none that can be looked up
            if issubclass(error.exception_class, Reject):
                last_line = error.traceback.rstrip().rpartition("\n")[2]
                raise Reject(last_line.removeprefix(f"{error.exception_class_path}: "))
