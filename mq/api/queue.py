"""Queue: the handle that users publish to and receive from.

Here arguments are checked, and made exact; what is done is in the engine: publish, receive and ack in
hot.py, what is a plan in commands.py and settling.py, what only looks in looking.py.
"""

from __future__ import annotations

import builtins
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Generic, TypeVar, Unpack, get_args, overload

import msgspec

from mq import exact
from mq.api.around import NO_HEADERS, send_within, with_headers
from mq.api.loop import Loop, ack_and_take
from mq.api.message import Delivery, Leased, Message, Receipt
from mq.api.options import (
    BatchOptions,
    Outgoing,
    PublishOptions,
    QueueOptions,
    check_count,
    check_delay,
    check_headers,
    check_many,
    check_meta,
    check_reason,
    check_seconds,
    check_since,
    new_message,
    options_of,
    outgoing,
)
from mq.api.receipts import channel_of, claims_of
from mq.delivery.intake import NewMessage
from mq.delivery.queue import State
from mq.engine import commands, expiring, hot, joining, looking, settling, subscribing
from mq.engine.bodies import BODY_BYTES_MAX, BYTES_ALONE, Decoder, encode_bodies, encode_body
from mq.engine.channel import Channel
from mq.engine.looking import Stats
from mq.engine.names import check_name, check_pattern
from mq.engine.several import Asked
from mq.engine.store import Store
from mq.errors import Closed, UsageError

T = TypeVar("T")


def ask(queues: list[Any], store: Store) -> Asked[Delivery[Any]]:
    """What is asked together; UsageError if these are no queues of the store."""
    if not queues:
        raise UsageError("queues is empty: nothing would ever come")
    for queue in queues:
        if not exact.is_a(queue, Queue):
            raise UsageError(f"queues are queues of this broker, not {exact.kind(queue)}")
        if queue._store is not store:
            raise UsageError(f"the queue {queue.name!r} is another broker's")
    return Asked(queues)


class Queue(Generic[T]):
    """A handle on one queue, made by `broker.queue(name)`.  Thread-safe.

    The queue itself comes to be when it is declared with options or first published to.  *T* is the
    type of its bodies, if `broker.queue` was given one.

    Every method may raise Closed (the broker is closed), StoreFailed, and StorageError with what the
    system said.  All that changes the store raise Unsupported if it was opened with read_only=True.
    """

    __contains__ = None  # `x in queue` would fall back on __iter__ and take messages
    _is_endless = True  # where several things are wanted, a queue is refused, for the same reason

    def __init__(self, store: Store, channel: Channel, type: Any = None) -> None:
        self._store, self._channel, self._hold = store, channel, store.hold()
        self._decoder = Decoder(type)
        self._delivery: builtins.type[Delivery[T]] = Delivery
        self._face: Any = None  # what the asyncio face knows it by
        self._makes = True  # False: publish, update_meta and pause raise NoQueue if the queue is not there

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} in {self._store.path}>"

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._channel.name

    # ── publishing ─────────────────────────────────────────────────────────────────

    def publish(self, body: T, **options: Unpack[PublishOptions]) -> int:
        """Store one message, and return its id.  Under sync="always" it is on the disk then.

        *body*: bytes, text, or a structure that msgpack can hold; 64 MiB at most.
        *options*: those of `mq.PublishOptions`: priority, delay, at, ttl, group, headers, timeout, dedup_id.

        If the dedup_id was seen in the queue's window, nothing is stored, and the first id is returned.

        Raises UsageError (an option is wrong, or the body cannot be stored), QueueFull (no room came within
        the option `timeout`), DiskFull, StoreFailed, Closed.  After StoreFailed the message is there once, or
        not at all; after all others it is not there.
        """
        if not options and self._store.around is None:
            given: object = body
            if type(given) is bytes and len(given) <= BODY_BYTES_MAX:
                flags, raw = 0, given
            else:
                flags, raw = encode_body(given)
            id = hot.publish(self._store, self._channel, flags, raw)
            return self._publish_one(flags, raw, options, NO_HEADERS) if id is None else id
        return send_within(self._store, self.name, self._send, body, options)

    def _send(self, body: object, options: Any, headers: Mapping[str, str]) -> int:
        """`publish`, with more headers."""
        flags, raw = encode_body(body)
        id = None if options or headers else hot.publish(self._store, self._channel, flags, raw)
        return self._publish_one(flags, raw, options, headers) if id is None else id

    def _publish_one(self, flags: int, raw: bytes, options: Any, headers: Mapping[str, str]) -> int:
        return self._publish([flags], [raw], options, headers)[0]

    def publish_many(self, bodies: Iterable[T], **options: Unpack[BatchOptions]) -> list[int]:
        """Store all of *bodies* or, whatever happens, none of them; return their ids, in order.

        *bodies*: an iterable of what `publish` takes, and of `mq.Outgoing`, each with options of its own
        (also a dedup_id); 256 MiB in all.
        *options*: those of `mq.BatchOptions`, for each that names no other: priority, delay, at, ttl, group,
        headers, timeout.

        Raises UsageError, QueueFull, DiskFull, StoreFailed, Closed, as `publish` does.
        """
        return send_within(self._store, self.name, self._send_many, bodies, options)

    def _send_many(self, bodies: Iterable[object], options: Any, headers: Mapping[str, str]) -> list[int]:
        """`publish_many`, with more headers."""
        if "dedup_id" in options:
            raise UsageError("a dedup_id is of one message: publish each as an mq.Outgoing, with its own")
        given: list[object] = list(check_many("bodies", bodies))
        kinds = set(map(type, given))
        if kinds != BYTES_ALONE and any(issubclass(kind, Outgoing) for kind in kinds):
            return self._publish_each(given, options, headers)
        flags, raw = encode_bodies(given, kinds)
        # An event loop does this itself: one turn, and no second one that may have to wait.
        is_plain = raw and not (options or headers or self._channel.publish_needs_plan)
        ids = hot.publish_many(self._store, self._channel, flags, raw) if is_plain else None
        return self._publish(flags, raw, options, headers) if ids is None else ids

    def _publish_each(self, given: list[object], options: Any, headers: Mapping[str, str]) -> list[int]:
        """Bodies of which some have options of their own."""
        new_message(self.name, 0, b"", **options)
        messages = []
        for item in given:
            body, own = outgoing(item, options)
            messages.append(with_headers(new_message(self.name, *encode_body(body), **own), headers))
        timeout = max(message.timeout for message in messages)
        return self._planned(messages, timeout)

    def _publish(
        self, flags: list[int], bodies: list[bytes], options: Any, headers: Mapping[str, str]
    ) -> list[int]:  # fmt: skip
        if not bodies:
            new_message(self.name, 0, b"", **options)
            return []
        if not (options or headers) and expiring.is_meant(self._channel):
            ids = expiring.publish_many(self._store, self._channel, flags, bodies)
            if ids is not None:
                return ids
        first = with_headers(new_message(self.name, flags[0], bodies[0], **options), headers)
        messages = [first]
        messages += [
            msgspec.structs.replace(first, flags=how, body=raw)
            for how, raw in zip(flags[1:], bodies[1:], strict=True)
        ]
        return self._planned(messages, first.timeout)

    def _planned(self, messages: list[NewMessage], timeout: float) -> list[int]:
        until = time.monotonic() + timeout
        return commands.publish(self._store, messages, until, to=self._channel, makes=self._makes)

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
        """Take the next message: the oldest that is ready, of the highest priority.

        *timeout*: seconds to wait for one, then None is returned; 0 looks once; None (the default) waits
        for ever.
        *visibility_timeout*: seconds until the message is delivered again unless it is settled; None (the
        default): the queue's.

        Raises UsageError, Closed (also when the broker is closed while this waits), and CorruptStore, naming
        the message, if its body is damaged on the disk.  That counts as a failed attempt, and the next
        call takes the next message.
        """
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        if visibility_timeout is not None:
            visibility_timeout = check_seconds("visibility_timeout", visibility_timeout)
        return hot.receive(self, until, visibility_timeout)

    def receive_many(
        self, limit: int, timeout: float | None = None, *, visibility_timeout: float | None = None,
        linger: float = 0, per_group: int | None = 1,
    ) -> list[Delivery[T]]:  # fmt: skip
        """Take up to *limit* messages: returns as soon as there is one, with all that are ready by then.

        *timeout*: seconds to wait for the first one, then the list is empty; None (the default) waits for
        ever.
        *visibility_timeout*: as for `receive`, for each of them.
        *linger*: seconds to wait for a fuller batch once there is a first message; 0 by default.  Nothing is
        taken before that, so that no visibility timeout begins.  Other receivers may take the messages first:
        then this waits for the next one, as *timeout* says.
        *per_group*: how many messages of each group at most, in publish order; 1 by default; None: 1,000.
        Those of one group are held together: its next message waits until all of them are settled.  One that
        is acked or rejected leaves the others where they are.  One that is nacked, released or times out
        takes back those behind it: they were not tried, their receipts are stale, and they follow it again.

        A message whose body is damaged is logged and left out, as a failed attempt.

        Raises UsageError, Closed, and CorruptStore if the bodies of all that were taken are damaged.
        """
        limit = check_count("limit", limit, least=1)
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        if visibility_timeout is not None:
            visibility_timeout = check_seconds("visibility_timeout", visibility_timeout)
        if per_group is not None:
            per_group = check_count("per_group", per_group, least=1)
        linger = check_seconds("linger", linger)
        return hot.receive_many(self._store, self, limit, until, visibility_timeout, linger, per_group)

    def __iter__(self) -> Iterator[Delivery[T]]:
        """Deliveries, as `receive()` takes them, until the broker is closed."""
        ahead = self._store.ahead
        loop: Loop[T] | None = Loop(self, ahead) if ahead else None
        try:
            while True:
                try:
                    delivery = loop.next() if loop else self.receive()
                except Closed:
                    if self._store.lost:
                        raise
                    return
                yield delivery
        finally:
            if loop:
                loop.end()

    # ── settling ───────────────────────────────────────────────────────────────────

    def _takes_ahead(self) -> bool:
        """Called by workers."""
        return self._store.ahead is not None

    def _ack_and_take(self, message: Leased[Any]) -> Delivery[T] | None:
        """Called by workers."""
        return ack_and_take(self, message)

    def _nack(self, message: Leased[Any], delay: float | None, reason: str) -> None:
        """Called by Delivery.nack."""
        self.nack_many([message], delay=delay, reason=reason)

    def _release(self, message: Leased[Any]) -> None:
        """Called by Delivery.release."""
        self.release_many([message])

    def _reject(self, message: Leased[Any], reason: str) -> None:
        """Called by Delivery.reject."""
        self.reject_many([message], reason)

    def _extend(self, message: Leased[Any], seconds: float | None) -> None:
        """Called by Delivery.extend."""
        self.extend_many([message], seconds)

    def _skew_ms(self) -> int:
        """How far the wall clock is ahead of store time, as the log says."""
        return looking.skew_ms(self._store)

    def _received_ms(self, id: int, receipt: int) -> int | None:
        """Called by Message.first_received_at."""
        return looking.received_ms(self._store, self._channel, id, receipt)

    def _is_inherited(self, message: Leased[Any]) -> bool:
        """Whether it was received before a fork, and this is the child."""
        return message._lsn < self._store.inherited

    def ack_many(self, messages: Iterable[Leased[Any] | Receipt], *, fenced: bool = True) -> None:
        """Ack all that can be acked: their messages are gone.

        *messages*: deliveries, or their receipts as text, of any queue of this store.
        *fenced*: True (the default): a delivery is acked only while it is in force.  False: its message is
        acked, whichever receiver holds it, also if it waits to be delivered again; a message that is gone
        from the queue is done already.

        Not all or nothing, which a transaction is: very many are settled in slices of some milliseconds,
        so that no other thread or process waits.

        Raises StaleReceipt, when all others are done, with the ids of those that were settled or delivered
        again since (not *fenced*: of receipts from before the store was copied, or of an older mq);
        UsageError if one of *messages* is neither, or another store's; Closed.
        """
        store, several, fenced = self._store, list(check_many("messages", messages)), bool(fenced)
        channel = channel_of(several, store)
        done = hot.ack_many(store, channel, several) if channel else 0  # type: ignore[arg-type]
        if done < len(several) or not several:
            rest = claims_of(several[done:], store, fenced=fenced)
            if fenced:
                settling.settle_all(store, rest, settling.do_ack)
            else:
                settling.ack_by_message(store, rest)

    def nack_many(
        self, messages: Iterable[Leased[Any] | Receipt], *, delay: float | None = None, reason: str = ""
    ) -> None:
        """Nack all that can be nacked, as `ack_many` acks: they failed, and are delivered again.

        *messages*: deliveries, or their receipts as text.
        *delay*: seconds until they are ready again; None (the default): the queue's backoff.
        *reason*: text that is kept with the message, in `message.failures`.

        Raises StaleReceipt, when all others are done; UsageError, Closed.
        """
        if delay is not None:
            delay = check_seconds("delay", delay)
        reason, claims = check_reason(reason), claims_of(messages, self._store)
        do = settling.nacking(delay, reason, random.random, settling.receipts(claims))
        settling.settle_all(self._store, claims, do)

    def release_many(self, messages: Iterable[Leased[Any] | Receipt]) -> None:
        """Release all that can be released, as `ack_many` acks: not tried, they are back in their places.

        *messages*: deliveries, or their receipts as text.

        Raises StaleReceipt, when all others are done; UsageError, Closed.
        """
        claims = claims_of(messages, self._store)
        settling.settle_all(self._store, claims, settling.releasing(settling.receipts(claims)))

    def reject_many(self, messages: Iterable[Leased[Any] | Receipt], reason: str = "") -> None:
        """Reject all that can be rejected, as `ack_many` acks: they go to the dead letters now.

        *messages*: deliveries, or their receipts as text.
        *reason*: text that is kept with each message, in `message.failures`.

        Raises StaleReceipt, when all others are done; UsageError, Closed.
        """
        do = settling.rejecting(check_reason(reason))
        settling.settle_all(self._store, claims_of(messages, self._store), do)

    def extend_many(
        self,
        messages: Iterable[Leased[Any] | Receipt],
        seconds: float | None = None,
        *,
        fenced: bool = True,
    ) -> None:
        """Extend all that can be extended, as `ack_many` acks: they stay with their receiver for longer.

        *messages*: deliveries, or their receipts as text.
        *seconds*: from now until they are delivered again; None (the default): the queue's
        visibility timeout.
        *fenced*: True (the default): a delivery is extended only while it is in force.  False: that delivery
        of its message is extended that is in force now, whichever receiver holds it; nothing is done about a
        message that waits or is gone.

        Raises StaleReceipt, when all others are done; UsageError, Closed.
        """
        if seconds is not None:
            seconds = check_seconds("seconds", seconds)
        fenced = bool(fenced)
        claims = claims_of(messages, self._store, fenced=fenced)
        settling.extend_all(self._store, claims, seconds, fenced=fenced)

    def _receipt(self, id: int, lsn: int) -> Receipt:
        """Called by Delivery.receipt."""
        return Receipt(f"{looking.number(self._store, self._channel)}-{id}-{lsn}-{self._store.tag}")

    # ── looking ────────────────────────────────────────────────────────────────────

    def peek(self, limit: int = 10, *, state: State = "ready") -> list[Message[T]]:
        """The first *limit* messages in *state*, in delivery order.  Takes nothing, and changes nothing.

        *limit*: how many at most; 10 by default.
        *state*: "ready" (the default), "delayed" or "in_flight".

        Raises CorruptStore if the body of one of them is damaged; UsageError, Closed.
        """
        state = exact.one_of("state", state, get_args(State))  # type: ignore[assignment]
        found = looking.peek(self._store, self._channel, check_count("limit", limit), state)
        return [Message(self, *each) for each in found]

    def get(self, id: int) -> Message[T] | None:
        """The message with this *id*; None if it is not in this queue, or not any more.

        Raises CorruptStore if its body is damaged; UsageError, Closed.
        """
        found = looking.get(self._store, self._channel, check_count("id", id))
        return Message(self, *found) if found else None

    def stats(self) -> Stats:
        """How many messages are where, and what has happened so far: see `mq.Stats`.

        Raises Closed.
        """
        return looking.stats(self._store, self._channel)

    def options(self) -> QueueOptions:
        """The options in force, defaults included: see `mq.QueueOptions`.

        Raises Closed.
        """
        return options_of(*looking.options(self._store, self._channel))

    # ── meta ───────────────────────────────────────────────────────────────────────

    def meta(self) -> Mapping[str, str]:
        """The texts that a program keeps with the queue, by name; read-only.

        Raises Closed.
        """
        return MappingProxyType(looking.meta(self._store, self._channel))

    def update_meta(
        self, changes: Mapping[str, str | None], *, expect: Mapping[str, str | None] | None = None
    ) -> bool:
        """Change texts that a program keeps with the queue, if they are as expected; return whether.

        *changes*: text by name; None deletes it.  Names that are left out stay as they are.  All names and
        texts of a queue have 64 KiB together at most.
        *expect*: what must be so now, or nothing is changed, and False is returned: text by name, None for a
        name that is not there; names that are left out may be anything.  None (the default): nothing.

        The texts are compared and changed in one step, whichever processes do so at the same time.  They are
        durable, and go with the queue, which is made if it is not there.

        Raises UsageError, StoreFailed, Closed.
        """
        checked = check_meta("changes", changes)
        expected = {} if expect is None else check_meta("expected texts", expect)
        return commands.update_meta(self._store, self._channel, checked, expected, makes=self._makes)

    # ── what waits ─────────────────────────────────────────────────────────────────

    def cancel(self, id: int) -> bool:
        """Drop the message *id*, if it waits or is delayed; return whether it did.

        False: it is in flight, or not in this queue.

        Raises UsageError, StoreFailed, Closed.
        """
        return commands.cancel(self._store, self._channel, check_count("id", id))

    def reschedule(self, id: int, *, delay: float = 0, at: datetime | None = None) -> bool:
        """Have the message *id*, if it waits or is delayed, be ready at another time; return whether it did.

        *delay*: seconds from now; 0 (the default): now.
        *at*: in its place, an aware datetime.

        False: it is in flight, or not in this queue.

        Raises UsageError, StoreFailed, Closed.
        """
        id = check_count("id", id)
        seconds = check_seconds("delay", delay)
        delay_ms, due = check_delay(None if at is not None and not seconds else seconds, at)
        return commands.reschedule(self._store, self._channel, id, delay_ms or 0, due)

    def purge(self, *, in_flight: bool = False) -> int:
        """Drop all messages that wait or are delayed; return how many.

        *in_flight*: False (the default): those in flight stay; True: they go as well, and their receipts are
        stale.

        Raises UsageError (what is here is under way to another store), StoreFailed, Closed.
        """
        return commands.purge(self._store, self._channel, in_flight=bool(in_flight))

    def replay(self, ids: Iterable[int] | None = None, *, to: str | None = None) -> int:
        """Move dead letters back to where they died, as if they had never been tried; return how many.

        *ids*: of those that are to move; None (the default): all that wait here.
        *to*: the name of the queue that they move to; None (the default): the one in which each died.

        What is in flight stays.  Each message moves as a whole; very many move in slices of some
        milliseconds, so that no other thread or process waits.

        Raises UsageError, QueueFull, StoreFailed, Closed.
        """
        if ids is not None:
            ids = [check_count("id", id) for id in check_many("ids", ids)]
        if to is not None:
            to = check_name(to)
        return commands.replay(self._store, self._channel, ids, to)

    # ── topics ─────────────────────────────────────────────────────────────────────

    def subscribe(
        self, pattern: str, *, match: Mapping[str, str] | None = None, since: int | datetime | None = None
    ) -> None:
        """Have this queue get what is published from now on to topics that fit *pattern*.

        *pattern*: dotted words as in a topic's name.  A word may be `*`, exactly one word, or `#`, any number
        of words, also none.
        *match*: headers that a message needs, all of them; None (the default): none.
        *since*: of what these topics retain, what was published behind this id, or at this aware datetime or
        later, comes too; None (the default): nothing of it.  It means nothing if the queue has the pattern.
        What other patterns gave this queue, also by their *since*, does not come again; what a pattern gave
        that was taken away does, unless it is still here.

        The queue is made if it is not there.  It gets each message once, however many of its patterns fit.
        A program may subscribe at every start: what is so already is not written again, and another *match*
        takes the place of the one before.

        Raises UsageError, QueueFull (there is no room for all that is retained), CorruptStore (some of it is
        damaged), DiskFull, StoreFailed, Closed.  Nothing was subscribed then.
        """
        pattern = check_pattern(pattern)
        headers = {} if match is None else check_headers(match)
        subscribing.subscribe(self._store, self._channel, pattern, headers, *check_since(since))

    def unsubscribe(self, pattern: str) -> bool:
        """Take *pattern* from this queue; return whether it had it.  The messages that are here stay.

        Raises UsageError, StoreFailed, Closed.
        """
        return subscribing.unsubscribe(self._store, self._channel, check_pattern(pattern))

    def subscriptions(self) -> list[str]:
        """The patterns of this queue, sorted.

        Raises Closed.
        """
        return subscribing.patterns(self._store, self._channel)

    # ── the queue ──────────────────────────────────────────────────────────────────

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the queue is empty, with nothing in flight or delayed; return whether it is.

        *timeout*: seconds to wait, then False is returned; 0 looks once; None (the default) waits for ever.

        Acks of this process wake it at once; those of others after a tenth of the time that it has waited,
        and a second at most.  Messages that have moved to the dead letters are not in this queue.

        Raises UsageError, Closed (also when the broker is closed while this waits).
        """
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        return joining.join(self._store, self._channel, until)

    def pause(self) -> None:
        """Deliver nothing more, in any process, until `resume`.  Publishing goes on.

        Raises StoreFailed, Closed.
        """
        commands.pause(self._store, self._channel, makes=self._makes)

    def resume(self) -> None:
        """Deliver again, after `pause`.

        Raises UsageError (it holds what `mq move` has under way to another store), StoreFailed, Closed.
        """
        commands.resume(self._store, self._channel)

    def rename(self, name: str) -> None:
        """Give the queue another name, in every process; one atomic record.

        *name*: 1 to 255 bytes, no control characters; no queue has it.

        Messages, deliveries, receipts, options, meta, totals and subscriptions stay as they are.  The queue
        where its dead letters go by default is renamed with it, from "<old>.dead" to "<new>.dead".  Whatever
        names the queue follows: the option `dead_letter` of other queues, schedules that publish to it, the
        `origin` of dead letters.  Handles go with it, also in other processes that have the store open; a
        program that is started later and names the old one makes a new queue.

        Raises UsageError (there is no such queue, the name is taken or none, dead letters would go in a
        circle, `mq move` has messages of it under way to another store), DiskFull, StoreFailed, Closed.
        """
        commands.rename(self._store, self._channel, check_name(name))

    def delete(self) -> None:
        """Delete the queue, with all it holds.  Publishing to it makes it anew, with no options.

        Raises UsageError (`mq move` has messages of it under way to another store), StoreFailed, Closed.
        """
        commands.delete(self._store, self._channel)
