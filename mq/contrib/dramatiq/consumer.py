"""A consumer: takes messages for a worker, and settles them.

    taken ──► kept by the broker ──► ack         settled
                                 ──► nack        to the dead letters
                                 ──► requeue     released: it was not tried
                                 ──► the process dies   back after the queue's visibility timeout

A worker that restarts its consumer may settle with the new one what the old one took: so each message knows
by which one it was taken.  Receipts are kept as text, which also a store that was opened anew takes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import ConnectionClosed, DecodeError
from dramatiq.logging import get_logger

from mq.api.message import Delivery, Receipt
from mq.api.queue import Queue
from mq.contrib.stores import Opener
from mq.errors import Closed, CorruptStore, MqError, StaleReceipt, StorageError

logger = get_logger(__name__, "MqConsumer")


@contextmanager
def reaching(opener: Opener) -> Iterator[None]:
    """Have failures of the store raised as dramatiq's; one that cannot go on is opened anew the next time."""
    try:
        with opener.renewing():
            yield
    except StorageError as error:
        raise ConnectionClosed(error) from error
    except Closed as error:
        opener.let_go_if_unusable()
        raise ConnectionClosed(error) from error


class Taken(MessageProxy):
    """A message of dramatiq, and the right to settle it.

    unstored    why something that follows it could not be enqueued, so that it has to run again; else ""
    """

    def __init__(self, message: Message[Any], receipt: Receipt, consumer: MqConsumer) -> None:
        super().__init__(message)
        self.receipt, self.consumer = receipt, consumer
        self.unstored = ""


class MqConsumer(Consumer):
    """Made by `MqBroker.consume`."""

    def __init__(self, opener: Opener, queue_name: str, prefetch: int, timeout: int) -> None:
        self._opener, self._name = opener, queue_name
        self._prefetch, self._timeout = prefetch, timeout / 1000
        self._taken: deque[Delivery[Any]] = deque()  # and not handed on
        self._room = threading.Condition()  # of what follows: threads of the worker settle
        self._held: set[Receipt] = set()  # of all that was taken and not settled

    # ── taking ─────────────────────────────────────────────────────────────────────

    def __next__(self) -> Taken | None:
        with reaching(self._opener):
            return self._next()

    def _next(self) -> Taken | None:
        if not self._taken:
            self._take()
        while self._taken:
            delivery = self._taken[0]
            message = self._decoded(delivery)
            self._taken.popleft()  # not before: what could not be rejected is released by `close`
            if message is not None:
                return Taken(message, delivery.receipt, self)
        return None

    def _take(self) -> None:
        with self._room:
            self._room.wait_for(lambda: len(self._held) < self._prefetch, self._timeout)
            room = self._prefetch - len(self._held)
        if room <= 0:
            return
        try:
            taken = self._queue.receive_many(room, self._timeout)
        except CorruptStore as error:  # it counts as a failed attempt, and the next one is taken
            logger.error("A message of queue %r is damaged: %s", self._name, error)
            return
        for delivery in taken:
            self._opener.broker.keep(delivery)
            with self._room:
                self._held.add(delivery.receipt)
        self._taken.extend(taken)

    def _decoded(self, delivery: Delivery[Any]) -> Message[Any] | None:
        """None: it is no message of dramatiq, and went to the dead letters."""
        try:
            return Message.decode(delivery.raw)
        except DecodeError as error:
            reason = f"no message of dramatiq: {error.error!r}"
        logger.error(
            "Message %d of queue %r goes to the dead letters, it is %s", delivery.id, self._name, reason
        )
        self._settle([delivery.receipt], partial(Queue.reject_many, reason=reason))
        return None

    # ── settling ───────────────────────────────────────────────────────────────────

    def ack(self, message: MessageProxy) -> None:
        assert isinstance(message, Taken)
        if message.unstored:
            reason = f"what follows could not be enqueued: {message.unstored}"
            logger.warning("Message %s is delivered again: %s", message.message_id, reason)
            message.consumer._settle([message.receipt], partial(Queue.nack_many, reason=reason))
        else:
            message.consumer._settle([message.receipt], Queue.ack_many)

    def nack(self, message: MessageProxy) -> None:
        assert isinstance(message, Taken)
        message.consumer._settle([message.receipt], partial(Queue.reject_many, reason=_reason(message)))

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        for message in messages:
            assert isinstance(message, Taken)
            message.consumer._settle([message.receipt], Queue.release_many)

    def close(self) -> None:
        """Release what was taken, and not handed on."""
        taken, self._taken = self._taken, deque()
        if taken:
            self._settle([each.receipt for each in taken], Queue.release_many)

    @property
    def _queue(self) -> Queue[Any]:
        return self._opener.queue(self._name)

    def _settle(self, receipts: list[Receipt], settle: Callable[[Queue[Any], list[Receipt]], None]) -> None:
        """Raises ConnectionClosed: the worker tries again, until it can be done."""
        try:
            with reaching(self._opener):
                settle(self._queue, receipts)
        except StaleReceipt as error:
            logger.warning("Settled too late, a message of queue %r: %s", self._name, error)
        except MqError as error:
            raise ConnectionClosed(error) from error
        with self._room:
            self._held.difference_update(receipts)
            self._room.notify()


def _reason(message: Taken) -> str:
    """Why it failed, for the dead letters."""
    error = message._exception
    return f"{type(error).__name__}: {error}" if error else "failed"
