"""MqBackend: Django's tasks as messages, and what becomes of them, in one store.

    enqueue ──► "<queue_name>" ──► mq_worker ──► the result, in results.sqlite ──► ack
                    │                               │
    get_result ◄────┴── READY, RUNNING, given up ◄──┴── SUCCESSFUL, FAILED

One write enqueues.  A result's id is that of its message and something random: so a result is found while its
task waits, and a visitor who is shown one cannot guess others.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, Final

from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import get_random_string

from mq.api.message import Message
from mq.api.options import PublishOptions
from mq.contrib.django import record
from mq.contrib.django.framework import (
    TASK_MIN_PRIORITY,
    BaseTaskBackend,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from mq.contrib.results import Results
from mq.contrib.settings import Settings
from mq.contrib.stores import Opener
from mq.errors import UsageError

RESULT_TTL: Final = 7 * 86_400.0  # seconds
ROUND_UP: Final = timedelta(microseconds=999)  # times are stored in whole milliseconds, and no task is early
SECRET: Final = 22  # random signs in an id
GIVEN_UP: Final = "mq.contrib.django.GivenUp"


class Store(Opener):
    """One for all threads of a process: Django makes a backend for each of them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._progress = Opener(Settings(settings.path, sync="never"))

    @property
    def progress(self) -> Results:
        """The same ones, for what need not be on the disk: that a task runs, and where its message is."""
        return self._progress.results

    def close(self) -> None:
        super().close()
        self._progress.close()


store_at = cache(Store)


class MqBackend(BaseTaskBackend):
    """See mq.contrib.django for its settings."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        """Raises ImproperlyConfigured."""
        super().__init__(alias, params)
        options = dict(self.options)
        if not (url := options.pop("url", None)):
            raise ImproperlyConfigured(
                f'TASKS[{alias!r}]: which store? Set OPTIONS = {{"url": BASE_DIR / "data"}}'
            )
        self.result_ttl: float | None = options.pop("result_ttl", RESULT_TTL)
        self.enqueue_on_commit = bool(options.pop("enqueue_on_commit", False))
        try:
            self.store = store_at(Settings.of(url, **options))
        except UsageError as error:
            raise ImproperlyConfigured(f"TASKS[{alias!r}]: {error}") from error

    # ── enqueueing ─────────────────────────────────────────────────────────────────

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Raises InvalidTask, TypeError (an argument is not JSON), DiskFull, QueueFull, StoreFailed."""
        self.validate_task(task)
        record.check_path(task)
        result = TaskResult(
            task=task, id=get_random_string(SECRET), status=TaskResultStatus.READY, enqueued_at=None,
            started_at=None, last_attempted_at=None, finished_at=None, args=list(args), kwargs=kwargs,
            backend=self.alias, errors=[], worker_ids=[],
        )  # fmt: skip
        if self.enqueue_on_commit and transaction.get_connection().in_atomic_block:
            transaction.on_commit(partial(self._publish_on_commit, result))
        else:
            record.change(result, id=f"{record.NUMBER}-{result.id}")
            record.change(result, id=record.numbered(result.id, self._publish(result)))
            self._tell(result)
        return result

    def _publish(self, result: Any) -> int:
        """The id of the message."""
        task = result.task
        record.change(result, enqueued_at=timezone.now())
        options: PublishOptions = {"priority": task.priority - TASK_MIN_PRIORITY}
        if task.run_after is not None:
            options["at"] = _instant(task.run_after) + ROUND_UP
        with self.store.renewing():
            return self.store.queue(task.queue_name).publish(record.dump(result), **options)

    def _publish_on_commit(self, result: Any) -> None:
        """The program has had the result, and its id, since before there was a message."""
        self.store.progress.put(_place(result.id), self._publish(result))
        self._tell(result)

    def _tell(self, result: Any) -> None:
        task_enqueued.send(type(self), task_result=result)

    # ── results ────────────────────────────────────────────────────────────────────

    def get_result(self, result_id: str) -> Any:
        """Raises TaskResultDoesNotExist; ImportError, SuspiciousOperation (its task is no more)."""
        # Twice: between a look at the results and one at the messages the task may have ended.
        id = str(result_id)
        found = (self._find(id) or self._find(id)) if id.isascii() else None
        if found is None:
            raise TaskResultDoesNotExist(result_id)
        return found

    def _find(self, id: str) -> Any:
        kept = self.kept(id)
        if kept is not None and kept.is_finished:
            return kept
        message = self._message(id)
        if message is None:
            return None
        try:
            result = kept or self.load(message)
        except (ValueError, KeyError, TypeError):  # it is no task
            return None
        if result.id != id:  # a guess
            return None
        if message.origin is not None:  # it is a dead letter
            _give_up(result, message)
        else:
            is_running = message.state == "in_flight"
            record.change(result, status=TaskResultStatus.RUNNING if is_running else TaskResultStatus.READY)
        return result

    def _message(self, id: str) -> Message[Any] | None:
        """The message of a result, which may be a dead letter."""
        number = record.number(id)
        if number is None:
            number = self.store.results.get(_place(id))
        if number is None:
            return None
        broker = self.store.broker
        for name in self.queues or broker.queues():
            queue = broker.queue(name)
            message = queue.get(number) or broker.queue(queue.options()["dead_letter"]).get(number)
            if message is not None:
                return message
        return None

    # ── for workers ────────────────────────────────────────────────────────────────

    def load(self, message: Message[Any]) -> Any:
        """What was enqueued.  Raises what `record.load` does."""
        result = record.load(message.raw, self.alias)
        record.change(result, id=record.numbered(result.id, message.id))
        return result

    def kept(self, id: str) -> Any:
        """What workers have stored of a result; None: nothing yet, or it has expired."""
        text: str | None = self.store.results.get(_key(id))
        return None if text is None else record.load(text, self.alias)

    def keep(self, result: Any) -> None:
        """Store it: for ever, until it has ended."""
        key, text = _key(result.id), record.dump(result)
        if not result.is_finished:
            self.store.progress.put(key, text)
            return
        with self.store.results.transaction():
            self.store.results.put(key, text, ttl=self.result_ttl)
            if record.number(result.id) is None:
                self.store.results.delete(_place(result.id))

    # ── checks ─────────────────────────────────────────────────────────────────────

    def check(self, **given: Any) -> Iterable[checks.CheckMessage]:
        yield from super().check(**given)
        if not apps.is_installed("mq.contrib.django"):
            yield checks.Warning(
                f"TASKS[{self.alias!r}] is of mq, and there is no manage.py mq_worker.",
                hint="Add 'mq.contrib.django' to INSTALLED_APPS.",
                id="mq.W001",
            )


def _give_up(result: Any, message: Message[Any]) -> None:
    """It is a dead letter, and no worker has stored an end of it."""
    reasons = [f"attempt {each.attempt}, {each.at}: {each.reason}" for each in message.failures]
    result.errors.append(TaskError(exception_class_path=GIVEN_UP, traceback="\n".join(reasons)))
    ended_at = message.failures[-1].at if message.failures else None
    record.change(result, status=TaskResultStatus.FAILED, finished_at=ended_at)


def _instant(at: datetime) -> datetime:
    return at if timezone.is_aware(at) else timezone.make_aware(at)


def _key(id: str) -> str:
    return f"django/result/{id}"


def _place(id: str) -> str:
    """Where the number of a message is, of a result whose id does not begin with it."""
    return f"django/message/{id}"
