"""Queue: the handle that users publish to and receive from.

Here arguments are checked, and made exact; what is done is in the engine: publish, receive and ack in
hot.py, what is a plan in commands.py and settling.py, what only looks in looking.py.
"""

from __future__ import annotations

import builtins
import random
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Generic, TypeVar, Unpack, get_args, overload

import msgspec

from mq import exact
from mq.api.message import Delivery, Message, Receipt
from mq.api.options import (
    BatchOptions,
    PublishOptions,
    QueueOptions,
    check_count,
    check_delay,
    check_many,
    check_reason,
    check_seconds,
    new_message,
    options_of,
)
from mq.api.receipts import channel_of, claims_of
from mq.delivery.queue import State
from mq.engine import commands, hot, looking, settling
from mq.engine.bodies import BODY_BYTES_MAX, Decoder, encode_bodies, encode_body
from mq.engine.channel import Channel
from mq.engine.looking import Stats
from mq.engine.store import Store, check_name
from mq.errors import Closed, UsageError

T = TypeVar("T")


class Queue(Generic[T]):
    """A handle.  The queue comes to be when it is declared with options or first published to."""

    __contains__ = None  # `x in queue` would fall back on __iter__ and take messages
    _is_endless = True  # where several things are wanted, a queue is refused, for the same reason

    def __init__(self, store: Store, channel: Channel, type: Any = None) -> None:
        self.name = channel.name
        self._store, self._channel, self._hold = store, channel, store.hold()
        self._decoder = Decoder(type)
        self._delivery: builtins.type[Delivery[T]] = Delivery

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} in {self._store.path}>"

    # ── publishing ─────────────────────────────────────────────────────────────────

    def publish(self, body: T, **options: Unpack[PublishOptions]) -> int:
        """Store one message; its id.  Under sync="always" it is on the disk when this returns.

        If its *dedup_id* was seen in the queue's window, nothing is stored, and the first
        id is returned.  *timeout*: how long to wait for room, if the queue has limits.

        Raises UsageError (the body cannot be stored), QueueFull, DiskFull, StoreFailed, Closed.
        """
        given: object = body
        if type(given) is bytes and len(given) <= BODY_BYTES_MAX:
            flags, raw = 0, given
        else:
            flags, raw = encode_body(given)
        if not options:
            id = hot.publish(self._store, self._channel, flags, raw)
            if id is not None:
                return id
        return self._publish([flags], [raw], options)[0]

    def publish_many(self, bodies: Iterable[T], **options: Unpack[BatchOptions]) -> list[int]:
        """Store all of *bodies* or, whatever happens, none of them; their ids, in order."""
        if "dedup_id" in options:
            raise UsageError("a dedup_id is of one message: publish them in a transaction, each with its own")
        flags, raw = encode_bodies(check_many("bodies", bodies))
        ids = hot.publish_many(self._store, self._channel, flags, raw) if raw and not options else None
        return self._publish(flags, raw, options) if ids is None else ids

    def _publish(self, flags: list[int], bodies: list[bytes], options: Any) -> list[int]:
        if not bodies:
            new_message(self.name, 0, b"", **options)
            return []
        first = new_message(self.name, flags[0], bodies[0], **options)
        messages = [first]
        messages += [
            msgspec.structs.replace(first, flags=how, body=raw)
            for how, raw in zip(flags[1:], bodies[1:], strict=True)
        ]
        return commands.publish(self._store, messages, time.monotonic() + first.timeout)

    # ── receiving ──────────────────────────────────────────────────────────────────

    @overload
    def receive(self, timeout: None = None, *, visibility_timeout: float | None = None) -> Delivery[T]: ...
    @overload
    def receive(
        self, timeout: float | None, *, visibility_timeout: float | None = None
    ) -> Delivery[T] | None: ...
    def receive(
        self, timeout: float | None = None, *, visibility_timeout: float | None = None
    ) -> Delivery[T] | None:
        """Take the next message.  Waits up to *timeout* seconds, then None; without one, for ever.

        It is delivered again after *visibility_timeout* seconds (None: the queue's) unless
        it is settled by then.  Raises Closed when the broker is closed meanwhile, and
        CorruptStore, naming the message, if its body is damaged on the disk: that counts as a
        failed attempt, so the next call takes the next message.
        """
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        if visibility_timeout is not None:
            visibility_timeout = check_seconds("visibility_timeout", visibility_timeout)
        return hot.receive(self, until, visibility_timeout)

    def receive_many(
        self, limit: int, timeout: float | None = None, *, visibility_timeout: float | None = None
    ) -> list[Delivery[T]]:
        """Take up to *limit* messages: returns as soon as there is one, with all that are ready.

        At most one of each group.  One whose body is damaged is logged and left out, as a
        failed attempt; if there is no other, CorruptStore is raised.
        """
        limit = check_count("limit", limit, least=1)
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        if visibility_timeout is not None:
            visibility_timeout = check_seconds("visibility_timeout", visibility_timeout)
        return hot.receive_many(self._store, self, limit, until, visibility_timeout)

    def __iter__(self) -> Iterator[Delivery[T]]:
        """receive() until the broker closes."""
        while True:
            try:
                delivery = self.receive()
            except Closed:
                if self._store.lost:
                    raise
                return
            yield delivery

    # ── settling ───────────────────────────────────────────────────────────────────

    def _nack(self, message: Delivery[Any], delay: float | None, reason: str) -> None:
        """Called by Delivery.nack."""
        self.nack_many([message], delay=delay, reason=reason)

    def _release(self, message: Delivery[Any]) -> None:
        """Called by Delivery.release."""
        settling.settle_all(self._store, claims_of([message], self._store), settling.do_release)

    def _reject(self, message: Delivery[Any], reason: str) -> None:
        """Called by Delivery.reject."""
        do = settling.rejecting(check_reason(reason))
        settling.settle_all(self._store, claims_of([message], self._store), do)

    def _extend(self, message: Delivery[Any], seconds: float | None) -> None:
        """Called by Delivery.extend."""
        self.extend_many([message], seconds)

    def _skew_ms(self) -> int:
        """How far the wall clock is ahead of store time, as the log says."""
        return looking.skew_ms(self._store)

    def _is_inherited(self, message: Delivery[Any]) -> bool:
        """Whether it was received before a fork, and this is the child."""
        return message._lsn < self._store.inherited

    def ack_many(self, messages: Iterable[Delivery[Any] | Receipt]) -> None:
        """Ack all that can be acked; then StaleReceipt, naming the others, if there are any.

        They may be of any queue of this store.  Not all or nothing, which a transaction is: very
        many are settled in slices of some milliseconds, so that no neighbour waits.
        """
        store, several = self._store, list(check_many("messages", messages))
        channel = channel_of(several, store)
        done = hot.ack_many(store, channel, several) if channel else 0  # type: ignore[arg-type]
        if done < len(several) or not several:
            settling.settle_all(store, claims_of(several[done:], store), settling.do_ack)

    def nack_many(
        self, messages: Iterable[Delivery[Any] | Receipt], *, delay: float | None = None, reason: str = ""
    ) -> None:
        """Nack all that can be nacked, as `ack_many` acks; then StaleReceipt, naming the others."""
        if delay is not None:
            delay = check_seconds("delay", delay)
        do = settling.nacking(delay, check_reason(reason), random.random)
        settling.settle_all(self._store, claims_of(messages, self._store), do)

    def extend_many(self, messages: Iterable[Delivery[Any] | Receipt], seconds: float | None = None) -> None:
        """Extend all that can be extended, as `ack_many` acks; then StaleReceipt, naming the others."""
        if seconds is not None:
            seconds = check_seconds("seconds", seconds)
        settling.extend_all(self._store, claims_of(messages, self._store), seconds)

    def _receipt(self, id: int, lsn: int) -> Receipt:
        """Called by Delivery.receipt."""
        return Receipt(f"{looking.number(self._store, self._channel)}-{id}-{lsn}-{self._store.tag}")

    # ── looking ────────────────────────────────────────────────────────────────────

    def peek(self, limit: int = 10, *, state: State = "ready") -> list[Message[T]]:
        """The first *limit* messages in *state*, in delivery order.  Takes nothing.

        CorruptStore if the body of one is damaged: who looks is not told that all is well.
        """
        state = exact.one_of("state", state, get_args(State))  # type: ignore[assignment]
        found = looking.peek(self._store, self._channel, check_count("limit", limit), state)
        return [Message(self, *each) for each in found]

    def get(self, id: int) -> Message[T] | None:
        """The message with this id; None if it is not in this queue, or not any more."""
        found = looking.get(self._store, self._channel, check_count("id", id))
        return Message(self, *found) if found else None

    def stats(self) -> Stats:
        """How many messages are where, and what has happened so far."""
        return looking.stats(self._store, self._channel)

    def options(self) -> QueueOptions:
        """The options in force."""
        return options_of(*looking.options(self._store, self._channel))

    # ── what waits ─────────────────────────────────────────────────────────────────

    def cancel(self, id: int) -> bool:
        """A message that waits or is delayed is gone; False if it is in flight, or not here."""
        return commands.cancel(self._store, self._channel, check_count("id", id))

    def reschedule(self, id: int, *, delay: float = 0, at: datetime | None = None) -> bool:
        """A message that waits or is delayed is ready in *delay* seconds, or *at*; False as for cancel."""
        id = check_count("id", id)
        seconds = check_seconds("delay", delay)
        delay_ms, due = check_delay(None if at is not None and not seconds else seconds, at)
        return commands.reschedule(self._store, self._channel, id, delay_ms, due)

    def purge(self) -> int:
        """Drop all that wait or are delayed; how many.  What is in flight stays."""
        return commands.purge(self._store, self._channel)

    def replay(self, ids: Iterable[int] | None = None, *, to: str | None = None) -> int:
        """Dead letters go back to where they died, or to the queue *to*, as if never tried; how many.

        All that wait here, or those with these *ids*.  What is in flight stays.  Each message
        moves as a whole; very many go in slices of some milliseconds, so that no neighbour waits.
        """
        if ids is not None:
            ids = [check_count("id", id) for id in check_many("ids", ids)]
        if to is not None:
            to = check_name(to)
        return commands.replay(self._store, self._channel, ids, to)

    def pause(self) -> None:
        """Nothing is delivered from now on, to anybody, until `resume`.  Publishing goes on."""
        commands.pause(self._store, self._channel)

    def resume(self) -> None:
        """Deliver again."""
        commands.resume(self._store, self._channel)

    def delete(self) -> None:
        """The queue goes, with all it holds.  Publishing to it makes it anew, with no options."""
        commands.delete(self._store, self._channel)
