"""MqHuey: a Huey whose tasks survive their consumer.

    dequeue ──► a delivery, kept ──► execute: runs, stores its result ──► ack, with what follows: one record
                    │                    raises KeyboardInterrupt, is told to end ──► released: not tried
                    │                    cannot store its result, or what follows ──► nacked: again later
                    └── this process dies ──► again after the visibility timeout; `max_attempts`: dead letters

What follows is a retry, the next of a pipeline, a handler of errors, a callback of a chord, the place in
the schedule of a task that is not due.  If the lease was lost meanwhile, as of a process that was suspended,
nothing follows: the other run goes on for both.  What the task's own function enqueues is published at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from logging import getLogger
from typing import Any, Final
from uuid import UUID, uuid5

from huey import Huey
from huey.signals import SIGNAL_INTERRUPTED

from mq.api.message import Delivery
from mq.contrib.huey.storage import MqStorage, Serialized
from mq.errors import Closed, StaleReceipt

logger = getLogger("huey.mq")

TICKS: Final = UUID("5c2b1d5e-4b0e-4f2e-9d53-6f6a3d1e6c1f")  # the names of ticks are made within it


class Run:
    """A task that was taken, and is to be settled."""

    def __init__(self, storage: MqStorage, delivery: Delivery[Any]) -> None:
        self.storage, self.delivery, self.receipt = storage, delivery, delivery.receipt
        self.is_given_back = False

    def give_back(self) -> None:
        self.is_given_back = True
        with suppress(StaleReceipt):  # it ended at the same time
            try:
                self.delivery.release()
            except Closed:
                self.storage.queue.release_many([self.receipt])


class MqHuey(Huey):
    """Of huey, with `url=` and the other arguments of MqStorage.  Raises UsageError."""

    storage_class = MqStorage
    storage: Any
    _stop_flag: Any = None  # of the consumer

    def get_storage(self, **options: Any) -> Any:
        return super().get_storage(utc=self.utc, **options)

    # ── publishing ─────────────────────────────────────────────────────────────────

    def serialize_task(self, task: Any) -> bytes:
        data = Serialized(super().serialize_task(task))
        data.priority, data.dedup_id = task.priority, getattr(task, "mq_dedup_id", None)
        return data

    def read_periodic(self, timestamp: datetime | None) -> list[Any]:
        """Those of one minute have the same ids for all consumers, so that each is published once."""
        timestamp = self._get_timestamp() if timestamp is None else timestamp
        tasks: list[Any] = super().read_periodic(timestamp)
        for task in tasks:
            tick = f"{self._registry.task_to_string(type(task))} {timestamp:%Y-%m-%d %H:%M}"
            task.mq_dedup_id = uuid5(TICKS, tick).hex  # however long the name is
        return tasks

    # ── executing ──────────────────────────────────────────────────────────────────

    def create_consumer(self, **options: Any) -> Any:
        consumer = super().create_consumer(**options)
        self._stop_flag = consumer.stop_flag
        return consumer

    def _is_stopping(self) -> bool:
        return self._stop_flag is not None and bool(self._stop_flag.is_set())

    def dequeue(self) -> Any:
        if not isinstance(self.storage, MqStorage):  # huey.immediate
            return super().dequeue()
        try:
            delivery = self.storage.take()
        except Closed:
            if self._is_stopping():  # this thread is a daemon, and the process ends
                return None
            raise
        if delivery is None:
            return None
        if self._is_stopping():  # the consumer was told to end while this worker waited
            delivery.release()
            return None
        try:
            task = self.deserialize_task(delivery.raw)
        except Exception as error:
            delivery.reject(f"no task of this huey: {type(error).__name__}: {error}")
            raise
        # Not kept before: what cannot be rejected now comes again after its visibility timeout.
        self.storage.keep(delivery)
        task.mq_run = Run(self.storage, delivery)
        return task

    def execute(self, task: Any, timestamp: datetime | None = None) -> Any:
        run: Run | None = getattr(task, "mq_run", None)
        if run is None:
            return super().execute(task, timestamp)
        work: Callable[[], Any] = task.execute
        task.execute = partial(self.storage.at_once, work)
        try:
            with self.storage.renewing(), run.delivery, self.storage.collected() as outbox:
                value = super().execute(task, timestamp)
                if not run.is_given_back:
                    self.storage.settle(run.delivery, outbox)
                return value
        except StaleReceipt:
            logger.warning(
                "Task %s ran, but its lease was lost meanwhile: it is delivered again, and what follows it is"
                " left to that run.",
                task.id,
            )

    def notify_interrupted_tasks(self) -> None:
        """Called when the consumer ends at once: threads that wait take no task that is given back."""
        if isinstance(self.storage, MqStorage):
            self.storage.close()  # they are woken by that; what follows opens it anew
        super().notify_interrupted_tasks()

    def _emit(self, signal: str, task: Any, *args: Any, **options: Any) -> None:
        run: Run | None = getattr(task, "mq_run", None)
        if signal == SIGNAL_INTERRUPTED and run is not None:
            run.give_back()
        super()._emit(signal, task, *args, **options)

    # ── chords ─────────────────────────────────────────────────────────────────────

    def _check_chord(self, config: Any, value: Any) -> None:
        """A member that ran twice counts once; the callback is published once.

        Its result and the count change together, and go only once the callback is stored: until then a
        member that runs again finds the chord complete.
        """
        storage = self.storage
        if not isinstance(storage, MqStorage):
            super()._check_chord(config, value)
            return
        counter = f"chord:{config.cid}"
        keys = [f"{counter}:{number}" for number in range(config.size)]
        with storage.results.transaction():
            data = self.serializer.serialize(value)
            is_new = storage.put_if_empty(keys[config.idx], data, storage.expire_time)
            if storage.incr(counter, int(is_new)) < config.size:
                return
            results = [self.get(key, peek=True) for key in keys]
        callback = config.callback
        callback.extend_data((results,))
        callback.mq_dedup_id = counter
        self.enqueue(callback)
        storage.afterwards(partial(_forget_chord, storage, counter, keys))


def _forget_chord(storage: MqStorage, counter: str, keys: list[str]) -> None:
    with storage.results.transaction():
        storage.delete_counter(counter)
        for key in keys:
            storage.delete_data(key)
