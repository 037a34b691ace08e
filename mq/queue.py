"""Queue: the handle that users publish to and receive from.

publish, receive and ack are written flat: each is lock, decide, append, apply, unlock
in one function, because at a microsecond or two a message every Python call shows.
Everything else goes through small steps.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Generic, NamedTuple, TypedDict, TypeVar, overload

import msgspec

from mq.channel import Channel
from mq.delivery import events
from mq.delivery.events import Now
from mq.delivery.queue import QueueState, State
from mq.delivery.retry import Backoff
from mq.errors import BadBody, Closed, CorruptStore, MqError, StaleReceipt, StorageError, UsageError
from mq.message import Delivery, Message, Receipt, encode_body
from mq.storage.log import Draft
from mq.store import Store

T = TypeVar("T")
SECONDS_MAX: Final = 10 * 366 * 86_400.0  # ten years: longer than any delivery is meant to wait
BACKOFF: Final = Backoff()
BYTES: Final = (bytes, bytearray, memoryview)
logger = logging.getLogger("mq")


class QueueOptions(TypedDict, total=False):
    """Durable; what a declaration leaves out stays as it is."""

    visibility_timeout: float  # 30: a delivery not settled by then is delivered again, as a failed attempt


class Stats(NamedTuple):
    """Counts now; totals since the queue was created."""

    ready: int
    in_flight: int
    delayed: int
    bytes: int  # of all bodies that are not settled
    oldest_age: float  # seconds since the oldest ready message was published; 0 if none is ready
    published: int
    acked: int
    failed: int  # attempts that were nacked, or timed out and were delivered again


class Queue(Generic[T]):
    """A handle.  The queue comes to be when it is declared with options or first published to."""

    __contains__ = None  # `x in queue` would fall back on __iter__ and take messages

    def __init__(self, store: Store, channel: Channel, type: Any = None) -> None:
        self.name = channel.name
        self._store, self._channel = store, channel
        self._type = type
        self._decode: Callable[[bytes], Any] = _decoder(type)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r} in {self._store.path}>"

    # ── publishing ─────────────────────────────────────────────────────────────────

    def publish(self, body: T) -> int:
        """Store one message; its id.  Under sync="always" it is on the disk when this returns.

        Raises UsageError (the body cannot be stored), DiskFull, StoreFailed, Closed.
        """
        flags, raw = encode_body(body)
        store, channel = self._store, self._channel
        if channel.state is None:
            return store.publish_many(channel, [(flags, raw)])[0]
        with store.mutex:
            try:
                store.enter()
                log, state = store.log, channel.state
                id = log.append(store.clock.store_ms(), 17, flags, state.number, raw)
                state.publish(id, len(raw))
                end = store.applied = log.end
                if channel.armed or store.mark[10]:  # ASLEEP
                    channel.wake(1)
            finally:
                store.leave()
        if store.mark[9]:  # WAITING
            store.step_aside()
        if store.linger:
            store.settle(end)
        return id

    def publish_many(self, bodies: Iterable[T]) -> list[int]:
        """Store all of *bodies* or, whatever happens, none of them; their ids, in order."""
        encoded = [encode_body(body) for body in check_many("bodies", bodies)]
        return self._store.publish_many(self._channel, encoded) if encoded else []

    # ── receiving ──────────────────────────────────────────────────────────────────

    @overload
    def receive(self, timeout: None = None, *, visibility_timeout: float | None = None) -> Delivery[T]: ...
    @overload
    def receive(self, timeout: float, *, visibility_timeout: float | None = None) -> Delivery[T] | None: ...
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
            check_seconds("visibility_timeout", visibility_timeout)
        store, channel = self._store, self._channel
        with store.mutex:
            try:
                while True:
                    store.enter()
                    state, now = channel.state, store.clock.now()
                    id = state.head(now) if state else None
                    if id is not None:
                        break
                    if not self._wait(now, until):
                        return None
                assert state
                seconds = (
                    state.options.visibility_timeout if visibility_timeout is None else visibility_timeout
                )
                deadline = now.store + int(seconds * 1000)
                log = store.log
                # A flight that is taken again has timed out.
                flags = 0x10 if id in state.flights else 0
                receipt = log.append(
                    now.store, 18, flags, state.number, events.DELIVER_PAYLOAD.pack(id, deadline)
                )
                flight = state.deliver(id, receipt, deadline, flags)
                store.applied = log.end
                assert flight
                attempts, position = flight.attempts, flight.position
                if channel.armed:
                    channel.wake_next(now)
            finally:
                store.leave()
        if store.mark[9]:
            store.step_aside()
        try:
            found = store.read(state, id, position)
        except StorageError as error:
            self._set_aside(id, receipt, attempts, error)
            raise
        if found is None:  # it timed out, and somebody settled it, before it was read
            return self.receive(timeout, visibility_timeout=visibility_timeout)
        flags, created_ms, raw = found
        return Delivery(
            self, id, attempts, flags, created_ms, raw, deadline, "in_flight", msgspec.UNSET, receipt
        )  # fmt: skip

    def receive_many(
        self, limit: int, timeout: float | None = None, *, visibility_timeout: float | None = None
    ) -> list[Delivery[T]]:
        """Take up to *limit* messages: returns as soon as there is one, with all that are ready.

        One whose body is damaged is logged and left out, as a failed attempt; if there is
        no other, CorruptStore is raised.
        """
        if check_count("limit", limit) < 1:
            raise UsageError("limit is at least 1")
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        if visibility_timeout is not None:
            check_seconds("visibility_timeout", visibility_timeout)
        store, channel = self._store, self._channel
        with store.mutex:
            try:
                while True:
                    store.enter()
                    state, now = channel.state, store.clock.now()
                    ids = state.heads(now, limit) if state else []
                    if ids:
                        break
                    if not self._wait(now, until):
                        return []
                assert state
                seconds = (
                    state.options.visibility_timeout if visibility_timeout is None else visibility_timeout
                )
                deadline = now.store + int(seconds * 1000)
                pack, flights, number = events.DELIVER_PAYLOAD.pack, state.flights, state.number
                drafts = [
                    (events.DELIVER, events.TIMED_OUT if id in flights else 0, number, pack(id, deadline))
                    for id in ids
                ]
                receipts = store.log.append_group(now.store, drafts)
                taken = [
                    (id, receipt, state.deliver(id, receipt, deadline, draft[1]))
                    for id, receipt, draft in zip(ids, receipts, drafts, strict=True)
                ]
                facts = [(id, receipt, each.attempts, each.position) for id, receipt, each in taken if each]
                store.applied = store.log.end
                channel.wake_next(now)
            finally:
                store.leave()
        if store.mark[9]:
            store.step_aside()
        deliveries: list[Delivery[T]] = []
        damage: StorageError | None = None
        for id, receipt, attempts, position in facts:
            try:
                found = store.read(state, id, position)
            except StorageError as error:
                self._set_aside(id, receipt, attempts, error)
                logger.warning("queue %r: message %d cannot be delivered: %s", self.name, id, error)
                damage = error
                continue
            if found:
                deliveries.append(
                    Delivery(self, id, attempts, *found, deadline, "in_flight", msgspec.UNSET, receipt)
                )
        if damage and not deliveries:
            raise damage
        return deliveries

    def _set_aside(self, id: int, receipt: int, attempts: int, error: StorageError) -> None:
        """Nobody can be handed this body: if that is its own fault, the others get their turn."""
        empty: Delivery[T] = Delivery(
            self, id, attempts, 0, 0, b"", None, "in_flight", msgspec.UNSET, receipt
        )  # fmt: skip
        with suppress(MqError):  # stale, closed, failed: then it times out, or is somebody else's
            if isinstance(error, CorruptStore):
                self.nack(empty, None, "its body is damaged")
            else:
                self.release(empty)

    def _wait(self, now: Now, until: float | None) -> bool:
        """Sleep, without the mutex, until something may be ready; False once *until* has come."""
        channel = self._channel
        begin = time.monotonic()
        if until is not None and begin >= until:
            return False
        due = channel.state.seconds_to_next(now) if channel.state else None
        wake_at = min(math.inf if until is None else until, math.inf if due is None else begin + due)
        store = self._store
        store.armed.add(channel)
        channel.armed.append(wake_at)
        try:
            store.ask_to_be_woken()
            store.leave()
            channel.arrived.wait(None if wake_at == math.inf else max(0.0, wake_at - begin))
        except BaseException:
            channel.arrived.notify()  # somebody else must take what this one was woken for
            raise
        finally:
            channel.armed.remove(wake_at)
            if not channel.armed:
                store.armed.discard(channel)
            elif channel.state:
                channel.rearm(channel.state.seconds_to_next(store.clock.now()))
        return True

    def __iter__(self) -> Iterator[Delivery[T]]:
        """receive() until the broker closes."""
        while True:
            try:
                delivery = self.receive()
            except Closed:
                return
            yield delivery

    # ── settling ───────────────────────────────────────────────────────────────────

    def ack(self, message: Delivery[Any]) -> None:
        """Called by Delivery.ack."""
        store, id = self._store, message.id
        with store.mutex:
            try:
                store.enter()
                log = store.log
                state = self._channel.state
                flight = state.flights.get(id) if state else None
                if flight is None or flight.receipt != message._lsn:
                    raise StaleReceipt((id,))
                assert state
                size = len(message.raw)
                log.append(store.clock.store_ms(), 19, 0, state.number, events.ACK_PAYLOAD.pack(id, size))
                state.ack(id, size)
                store.applied = log.end
            finally:
                store.leave()
        if store.mark[9]:
            store.step_aside()
        message._settled = True

    def nack(self, message: Delivery[Any], delay: float | None, reason: str) -> None:
        """Called by Delivery.nack."""
        if delay is None:
            delay = BACKOFF.delay(message.attempts, random.random())
        check_seconds("delay", delay)
        if not isinstance(reason, str):
            raise UsageError(f"reason is text, not {type(reason).__name__}")
        due = self._store.clock.wall_ms() + int(delay * 1000) if delay else 0
        payload = events.NACK_PAYLOAD.pack(message.id, due) + events.encode_reason(reason)
        self._settle(message, events.NACK, payload, lambda state: state.nack(message.id, due))
        message._settled = True

    def release(self, message: Delivery[Any]) -> None:
        """Called by Delivery.release."""
        payload = events.RELEASE_PAYLOAD.pack(message.id)
        self._settle(message, events.RELEASE, payload, lambda state: state.release(message.id))
        message._settled = True

    def extend(self, message: Delivery[Any], seconds: float | None) -> None:
        """Called by Delivery.extend."""
        if seconds is None:
            seconds = self.options()["visibility_timeout"]  # another process may just have changed it
        deadline = self._store.clock.store_ms() + int(check_seconds("seconds", seconds) * 1000)
        payload = events.EXTEND_PAYLOAD.pack(message.id, deadline)
        self._settle(message, events.EXTEND, payload, lambda state: state.extend(message.id, deadline))
        message._due_ms = deadline

    def is_inherited(self, message: Delivery[Any]) -> bool:
        """Whether it was received before a fork, and this is the child."""
        return message._lsn < self._store.inherited

    def _settle(
        self, message: Delivery[Any], kind: int, payload: bytes, apply: Callable[[QueueState], None]
    ) -> None:
        """Append what happened to a delivery, if it is still the current one, and apply it."""
        store, channel = self._store, self._channel
        with store.mutex:
            try:
                store.enter()
                state = channel.state
                flight = state.flights.get(message.id) if state else None
                if state is None or flight is None or flight.receipt != message._lsn:
                    raise StaleReceipt((message.id,))
                now = store.clock.now()
                store.log.append(now.store, kind, 0, state.number, payload)
                apply(state)
                store.applied = store.log.end
                channel.hand_on(now)
            finally:
                store.leave()

    def ack_many(self, messages: Iterable[Delivery[Any] | Receipt]) -> None:
        """Ack all that can be acked, in one write; then StaleReceipt, naming the others, if there are any.

        They may be of any queue of this store.
        """
        store = self._store
        claims = [_claim(message, store) for message in check_many("messages", messages)]
        stale: list[int] = []
        with store.mutex:
            try:
                store.enter()
                drafts: list[Draft] = []
                applied: list[tuple[QueueState, int, int]] = []
                seen: set[int] = set()
                for message, where, id, receipt in claims:
                    state = where.state if isinstance(where, Channel) else store.state.queues.get(where)
                    flight = state.flights.get(id) if state else None
                    if state is None or flight is None or flight.receipt != receipt or receipt in seen:
                        stale.append(id)
                        continue
                    seen.add(receipt)
                    size = len(message.raw) if message else self._size(state, id)
                    drafts.append((events.ACK, 0, state.number, events.ACK_PAYLOAD.pack(id, size)))
                    applied.append((state, id, size))
                if drafts:
                    store.log.append_group(store.clock.store_ms(), drafts)
                    for state, id, size in applied:
                        state.ack(id, size)
                    store.applied = store.log.end
            finally:
                store.leave()
        for message, _, _, receipt in claims:
            if message and receipt in seen:
                message._settled = True
        if stale:
            raise StaleReceipt(tuple(stale))

    def receipt(self, id: int, lsn: int) -> Receipt:
        """Called by Delivery.receipt."""
        state = self._channel.state
        if state is None:  # in a child that has not opened the store yet
            self.stats()
            state = self._channel.state
        return Receipt(f"{state.number if state else 0}-{id}-{lsn}")

    def _size(self, queue: QueueState, id: int) -> int:
        """The size of a body that somebody else received; 0 if it cannot be read any more."""
        position = queue.position(id)
        assert position is not None
        try:
            stored = self._store.log.read(position)
            return len(events.body_of(stored.kind, 0, stored.payload)[1])
        except CorruptStore:
            return 0

    # ── looking ────────────────────────────────────────────────────────────────────

    def peek(self, limit: int = 10, *, state: State = "ready") -> list[Message[T]]:
        """The first *limit* messages in *state*, in delivery order.  Takes nothing.

        CorruptStore if the body of one is damaged: who looks is not told that all is well.
        """
        if state not in ("ready", "delayed", "in_flight"):
            raise UsageError(f"state is ready, delayed or in_flight, not {state!r}")
        check_count("limit", limit)
        store = self._store
        with store.mutex:
            try:
                store.look()
                queue, now = self._channel.state, store.clock.now()
                if queue is None:
                    return []
                found = [self._facts(queue, id, now) for id in queue.ids(state, now, limit)]
            finally:
                store.leave()
        return [message for facts in found if (message := self._message(queue, *facts))]

    def get(self, id: int) -> Message[T] | None:
        """The message with this id; None if it is not in this queue, or not any more."""
        check_count("id", id)
        store = self._store
        with store.mutex:
            try:
                store.look()
                queue, now = self._channel.state, store.clock.now()
                if queue is None or id not in queue:
                    return None
                facts = self._facts(queue, id, now)
            finally:
                store.leave()
        return self._message(queue, *facts)

    def _facts(self, queue: QueueState, id: int, now: Now) -> tuple[int, int, int, State, int | None]:
        """Id, position, how often it was delivered, where it is, and when that changes."""
        where, position = queue.state_of(id, now), queue.position(id)
        assert where
        assert position is not None
        due = None
        if where == "in_flight":
            due = queue.flights[id].deadline
        elif where == "delayed":
            due = queue.delayed[id].due
        return id, position, queue.attempts(id), where, due

    def _message(
        self, queue: QueueState, id: int, position: int, attempts: int, state: State, due: int | None
    ) -> Message[T] | None:
        found = self._store.read(queue, id, position)
        return Message(self, id, attempts, *found, due, state) if found else None

    def stats(self) -> Stats:
        """How many messages are where, and what has happened so far."""
        store = self._store
        with store.mutex:
            try:
                store.look()
                queue, now = self._channel.state, store.clock.now()
                if queue is None:
                    return Stats(0, 0, 0, 0, 0.0, 0, 0, 0)
                head = queue.head(now)
                position = None if head is None else queue.position(head)
                counts, totals = queue.counts(now), (queue.published, queue.acked, queue.failed)
                size = queue.bytes
            finally:
                store.leave()
        age = 0.0
        if head is not None and position is not None:
            with suppress(CorruptStore):  # its age is damaged with it
                if found := store.read(queue, head, position):
                    age = max(0, now.store - found[1]) / 1000
        return Stats(*counts, size, age, *totals)

    def options(self) -> QueueOptions:
        """The options in force."""
        with self._store.mutex:
            try:
                self._store.look()
                queue = self._channel.state
                options = queue.options if queue else events.Options()
            finally:
                self._store.leave()
        return QueueOptions(visibility_timeout=options.visibility_timeout)

    # ── clearing ───────────────────────────────────────────────────────────────────

    def purge(self) -> int:
        """Drop all that wait or are delayed; how many.  What is in flight stays."""
        store = self._store
        with store.mutex:
            try:
                store.enter()
                queue, now = self._channel.state, store.clock.now()
                if queue is None:
                    return 0
                flying = queue.ids("in_flight", now, queue.total())
                count = queue.total() - len(flying)
                if count:
                    kept = [(id, self._size(queue, id)) for id in flying]
                    payload = events.PURGE_PAYLOAD.pack(now.store)
                    payload += b"".join(events.KEPT_PAYLOAD.pack(*each) for each in kept)
                    store.log.append(now.store, events.PURGE, 0, queue.number, payload)
                    queue.purge(now.store, kept)
                    store.applied = store.log.end
                return count
            finally:
                store.leave()

    def decode(self, message: Message[Any]) -> Any:
        """Called by Message.body."""
        kind = message._flags & events.BODY_BITS
        try:
            if kind == events.MSGPACK:
                return self._decode(message.raw)
            plain = message.raw if kind == events.BYTES else message.raw.decode()
            # Bytes are builtin: else text would be taken for base64, and come back as other bytes.
            return plain if self._type is None else msgspec.convert(plain, self._type, builtin_types=BYTES)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadBody(
                f"message {message.id} in queue {self.name!r} does not fit the queue's type: {error};"
                " message.raw has its bytes"
            ) from None


def _decoder(type: Any) -> Callable[[bytes], Any]:
    try:
        return msgspec.msgpack.Decoder(Any if type is None else type).decode
    except TypeError as error:
        raise UsageError(f"messages cannot be of type {type!r}: {error}") from None


def _claim(
    message: Delivery[Any] | Receipt, store: Store
) -> tuple[Delivery[Any] | None, Channel | int, int, int]:
    """The delivery, if it is one; what its queue is known by; id and receipt."""
    if isinstance(message, Delivery):
        queue = message._queue
        assert isinstance(queue, Queue)
        if queue._store is not store:  # its receipt may be somebody else's here
            raise UsageError(f"message {message.id} was received through another broker; settle it there")
        return message, queue._channel, message.id, message._lsn
    try:
        number, id, receipt = map(int, message.split("-"))
    except (AttributeError, TypeError, ValueError):
        raise UsageError(f"{message!r} is neither a delivery nor a receipt") from None
    return None, number, id, receipt


def check_seconds(name: str, value: object) -> float:
    """*value*, if it is a duration; else UsageError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{name} is a number of seconds, not {type(value).__name__}")
    if not 0 <= value <= SECONDS_MAX:
        raise UsageError(f"{name} is from 0 to {SECONDS_MAX:.0f} seconds, not {value}")
    return value


def check_count(name: str, value: object) -> int:
    """*value*, if it is a whole number from 0 up; else UsageError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} is a whole number, not {type(value).__name__}")
    if not 0 <= value < 1 << 63:
        raise UsageError(f"{name} is from 0 to {(1 << 63) - 1}, not {value}")
    return value


def check_many(name: str, values: Iterable[T]) -> Iterable[T]:
    """*values*, if they are several; UsageError if it is one thing, which would be taken apart."""
    if not isinstance(values, Iterable) or isinstance(values, (str, *BYTES, Mapping)):
        raise UsageError(f"{name} is a list or another iterable, not {type(values).__name__}")
    return values
