"""What a channel has delivered and its program has not settled: leases that are kept while the process lives.

    taken ──► kept by the broker ──► ack, reject        settled
                                 ──► requeue            a failed attempt, back in its place at once
                                 ──► the channel closes released: it was not tried
                                 ──► the process dies   back after the queue's visibility timeout

A channel that a child of a fork inherits lets go of nothing: what it holds is the parent's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from kombu.log import get_logger
from kombu.transport import virtual

from mq.api.message import Delivery
from mq.errors import MqError, StaleReceipt

logger = get_logger(__name__)


class QoS(virtual.QoS):
    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._held: dict[str, Delivery[Any]] = {}
        self._pid = os.getpid()

    def hold(self, tag: str, delivery: Delivery[Any]) -> None:
        """Have *delivery* extended until it is settled under this *tag*."""
        self.channel.broker.keep(delivery)
        self._held[tag] = delivery

    def room(self, limit: int) -> int:
        """How many messages more the program may be given now, at most *limit*."""
        estimate = self.can_consume_max_estimate()
        return limit if estimate is None else min(estimate, limit)

    def ack(self, delivery_tag: str) -> None:
        self._settle(delivery_tag, lambda delivery: delivery.ack())

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self._settle(delivery_tag, lambda delivery: delivery.nack(delay=0, reason="requeued"))
        else:
            self._settle(delivery_tag, lambda delivery: delivery.reject("rejected"))

    def _settle(self, tag: str, settle: Callable[[Delivery[Any]], object]) -> None:
        try:
            if delivery := self._held.get(tag):
                settle(delivery)
        except StaleReceipt as error:
            logger.warning("acked or rejected too late: %s", error)
        # Not if the store could not do it: what is held then can be settled again, and goes with the channel.
        self._held.pop(tag, None)
        self._quick_ack(tag)
        self.channel.made_room()

    def restore_unacked(self) -> list[Any]:
        """Release all that is held."""
        self._flush()
        self._delivered.clear()
        held, self._held = self._held, {}
        if self._pid == os.getpid():
            for delivery in held.values():
                with _reported(delivery):
                    delivery.release()
        return []


@contextmanager
def _reported(delivery: Delivery[Any]) -> Any:
    """What cannot be released now comes back after its visibility timeout."""
    try:
        yield
    except StaleReceipt:
        pass
    except MqError as error:
        logger.warning("message %d comes back after its visibility timeout: %s", delivery.id, error)
