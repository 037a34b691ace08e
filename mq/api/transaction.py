"""Transaction: publishes, acks and nacks over any queues, which happen together or not at all.

    with broker.transaction() as tx:      buffered; nothing is locked, nothing written
        tx.publish(bills, bill)
        tx.ack(order)
                                          the end of the block: one atomic group in the log

If a receipt is not current any more by then, none of it happens.  So what is consumed
and what is produced from it take effect once, inside the store.
"""

from __future__ import annotations

import random
import time
from typing import Any, TypeVar, Unpack, overload

import msgspec

from mq import exact
from mq.api.around import CREATE, with_headers
from mq.api.message import Leased, Receipt
from mq.api.options import PublishOptions, check_reason, check_seconds, new_message
from mq.api.queue import Queue
from mq.api.receipts import claim_of
from mq.api.topic import Topic
from mq.delivery.intake import NewMessage
from mq.engine import commands
from mq.engine.bodies import encode_body
from mq.engine.channel import Channel
from mq.engine.names import check_name
from mq.engine.settling import Claim, Do, do_ack, nacking
from mq.engine.store import Store
from mq.errors import UsageError

T = TypeVar("T")


class Transaction:
    """Publishes, acks and nacks that happen together: `with broker.transaction() as tx:`.

    All are buffered, and nothing is locked; they happen at the end of the block, all or nothing.

    ids    the ids of the publishes, in order; empty until the end of the block
    """

    ids: list[int]

    def __init__(self, store: Store) -> None:
        self.ids = []
        self._store, self._hold = store, store.hold()
        self._messages: list[NewMessage] = []
        self._to: list[Channel | None] = []  # of each of those, if it was given the handle of a queue
        self._timeout = 0.0
        self._settling: list[tuple[Claim, Do]] = []
        self._receipts: set[int] = set()  # of those
        self._over = False

    @overload
    def publish(self, to: Queue[T] | Topic[T], body: T, **options: Unpack[PublishOptions]) -> None: ...
    @overload
    def publish(self, to: str, body: object, **options: Unpack[PublishOptions]) -> None: ...
    def publish(self, to: Any, body: Any, **options: Unpack[PublishOptions]) -> None:
        """Publish *body* to *to*, the handle of a queue or a topic or the name of a queue, if it commits.

        *options*: those of `mq.PublishOptions`, as for `Queue.publish` and `Topic.publish`.

        Raises UsageError.
        """
        self._check()
        given: object = to
        name = topic = ""
        channel = None
        if exact.is_a(given, Queue) or exact.is_a(given, Topic):
            if given._store is not self._store:
                kind = "queue" if exact.is_a(given, Queue) else "topic"
                raise UsageError(
                    f"the {kind} {given.name!r} is another broker's; a transaction is of one store"
                )
            if exact.is_a(given, Queue):
                name, channel = given.name, given._channel
            else:
                topic = given.name
        else:
            name = check_name(given)
        message = new_message(name, *encode_body(body), **options)
        if around := self._store.around:
            with around(CREATE, name or topic) as headers:
                message = with_headers(message, headers)
        if topic:
            message = msgspec.structs.replace(message, topic=topic)
        self._messages.append(message)
        self._to.append(channel)
        self._timeout = max(self._timeout, message.timeout)

    def ack(self, message: Leased[Any] | Receipt) -> None:
        """Ack *message*, a delivery or its receipt as text, if the transaction commits.

        If the delivery's own `with` block ends before that, without an exception, nothing is acked there.

        Raises UsageError.
        """
        self._check()
        self._settle(claim_of(message, self._store), do_ack)

    def nack(self, message: Leased[Any] | Receipt, *, delay: float | None = None, reason: str = "") -> None:
        """Nack *message*, a delivery or its receipt as text, if the transaction commits.

        *delay*: seconds until it is ready again; None (the default): the queue's backoff.
        *reason*: text that is kept with the message, in `message.failures`.

        Raises UsageError.
        """
        self._check()
        if delay is not None:
            delay = check_seconds("delay", delay)
        reason = check_reason(reason)
        do = nacking(delay, reason, random.random, self._receipts)
        self._settle(claim_of(message, self._store), do)

    def _settle(self, claim: Claim, do: Do) -> None:
        self._receipts.add(claim.receipt)
        self._settling.append((claim, do))
        self._note(claim, buffered=True)

    @staticmethod
    def _note(claim: Claim, *, buffered: bool) -> None:
        # The block of a delivery may end before that of the transaction.  An ack at its end
        # would take effect although the transaction fails afterwards.
        message: Any = claim.message
        if message is not None:
            message._buffered = buffered

    def _check(self) -> None:
        if self._over:
            raise UsageError("the transaction is over; begin another")

    def _commit(self) -> None:
        self._over = True
        try:
            if self._messages or self._settling:
                until = time.monotonic() + self._timeout
                self.ids = commands.transact(self._store, self._messages, self._to, self._settling, until)
        finally:
            self._end()

    def _end(self) -> None:
        """Nothing is buffered any more."""
        self._over = True
        for claim, _ in self._settling:
            self._note(claim, buffered=False)
