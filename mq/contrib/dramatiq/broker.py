"""The broker: where actors send, and workers consume.

    enqueue ──► a queue of mq, with its delay and priority ──► MqConsumer ──► a worker's threads

Behind a task its middleware enqueues what follows: a retry, the next of a pipeline, a callback.  dramatiq
logs if that fails, and acks the task all the same.  Here such a task is not acked, but delivered again: on a
full disk nothing is lost.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from dramatiq import Message, Middleware
from dramatiq.broker import Broker, MessageProxy
from dramatiq.errors import ConnectionClosed, QueueJoinTimeout, QueueNotFound

from mq.api.broker import Broker as Store
from mq.api.broker import Sync
from mq.api.options import PublishOptions
from mq.contrib.dramatiq.consumer import MqConsumer, Taken, reaching
from mq.contrib.settings import Settings
from mq.contrib.stores import Opener
from mq.errors import MqError

BEHIND_A_TASK = ("process_message", "skip_message")  # the signals in which middleware enqueues what follows


class MqBroker(Broker):
    """A broker on a store of mq, which is opened when it is first used.

    *place*: a URL (`mq:///data`, relative to the working directory; `mq:////var/data`; `?sync=0.1` and the
    other options below may follow), or the store's directory.
    *middleware*: as of `dramatiq.Broker`.
    *sync*: as of `mq.open`: "always" (the default), seconds, "never".
    *visibility_timeout*: seconds after which the messages of a worker that died are delivered again; None
    (the default): as the queues have it, 30 at first.  A worker that lives keeps its messages.
    *max_attempts*: N: a message that was delivered so often, and whose workers died, goes to the dead
    letters; None (the default): as the queues have it, for ever at first.  dramatiq's retries do not count.

    Raises UsageError.
    """

    queues: set[str]

    def __init__(
        self, place: str | os.PathLike[str], *, middleware: list[Middleware] | None = None,
        sync: Sync | None = None, visibility_timeout: float | None = None,
        max_attempts: int | None = None,
    ) -> None:  # fmt: skip
        self._opener = Opener(
            Settings.of(place, sync=sync, visibility_timeout=visibility_timeout, max_attempts=max_attempts)
        )
        self._behind = threading.local()  # the task whose middleware runs in this thread
        super().__init__(middleware)
        self.queues = set()

    def __repr__(self) -> str:
        return f"<MqBroker {self._opener.settings.path}>"

    # ── the store ──────────────────────────────────────────────────────────────────

    @property
    def store(self) -> Store:
        """The store, opened: for what dramatiq has no name for, as `stats()`."""
        return self._opener.broker

    def close(self) -> None:
        """Let go of the store.  It is opened again when it is used."""
        self._opener.close()

    # ── queues ─────────────────────────────────────────────────────────────────────

    def get_declared_queues(self) -> set[str]:
        return set(self.queues)

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def flush(self, queue_name: str) -> None:
        """Drop all messages of a queue that wait or are delayed, and no dead letters."""
        with reaching(self._opener):
            self._opener.queue(queue_name).purge()

    def flush_all(self) -> None:
        for name in self.queues:
            self.flush(name)

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until a queue is empty, with nothing delayed or in work.

        *timeout*: milliseconds; None (the default): for ever.

        Raises QueueJoinTimeout.
        """
        with reaching(self._opener):
            if not self._opener.queue(queue_name).join(None if timeout is None else timeout / 1000):
                raise QueueJoinTimeout(queue_name)

    # ── messages ───────────────────────────────────────────────────────────────────

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Store a message; under sync="always" it is on the disk when this returns.

        *delay*: milliseconds before which it is not delivered.

        Raises ConnectionClosed (its cause says why: `mq.DiskFull`), mq.QueueFull, mq.UsageError.
        """
        self.declare_queue(message.queue_name)
        self.logger.debug("Enqueueing message %r on queue %r.", message.message_id, message.queue_name)
        self.emit_before("enqueue", message, delay)
        try:
            with reaching(self._opener):
                self._opener.queue(message.queue_name).publish(message.encode(), **_options(message, delay))
        except (ConnectionClosed, MqError) as error:
            if task := getattr(self._behind, "task", None):
                task.unstored = str(error)
            raise
        self.emit_after("enqueue", message, delay)
        return message

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if signal not in BEHIND_A_TASK or not isinstance(args[0], Taken):
            return super().emit_after(signal, *args, **kwargs)
        self._behind.task = args[0]
        try:
            return super().emit_after(signal, *args, **kwargs)
        finally:
            self._behind.task = None

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> MqConsumer:
        """The messages of a queue, as they come.

        *prefetch*: how many the consumer holds at most that are not settled.
        *timeout*: milliseconds after which it says None if none has come.

        Raises QueueNotFound (it was never declared), ConnectionClosed.
        """
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)
        with reaching(self._opener):
            self._opener.renew()
        return MqConsumer(self._opener, queue_name, prefetch, timeout)


def _options(message: Message[Any] | MessageProxy, delay: int | None) -> PublishOptions:
    options: PublishOptions = {}
    if delay:
        options["delay"] = max(delay, 0) / 1000
    if priority := message.options.get("broker_priority"):
        options["priority"] = priority
    return options
