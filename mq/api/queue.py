"""Queue: the handle that users publish to and receive from.

publish, receive and ack are written flat: each is lock, decide, append, apply, unlock
in one function, because at a microsecond or two a message every Python call shows.
Everything else goes through small steps.

These three, and their batches, do not decode their record before they append it, as `Store.commit`
does with a plan.  Nothing in it comes from a caller unchecked: the flags of a body are one of
three, ids, receipts and queue numbers are the state's own, and a deadline is store time and a
duration of ten years at most, which a u64 holds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from threading import get_ident
from typing import Any, Final, Generic, TypeVar, Unpack, get_args, overload

import msgspec

from mq import exact
from mq.api.message import BODY_BYTES_MAX, Delivery, Message, Receipt, encode_bodies, encode_body, more_of
from mq.api.options import (
    BYTES,
    BatchOptions,
    PublishOptions,
    QueueOptions,
    check_count,
    check_delay,
    check_many,
    check_reason,
    check_seconds,
    new_message,
)
from mq.delivery import dead, records, settle
from mq.delivery.plan import Plan
from mq.delivery.purge import Purge
from mq.delivery.queue import QueueState, State
from mq.delivery.records import ACK, DELIVER, PUBLISH
from mq.delivery.traits import PLAIN
from mq.engine import looking, receiving, settling
from mq.engine.channel import Channel, Channels
from mq.engine.looking import Stats
from mq.engine.operation import nested, operation
from mq.engine.publishing import publish, publish_plain
from mq.engine.slices import give_way
from mq.engine.store import Store, check_name
from mq.engine.waiting import Sleeper
from mq.errors import (
    BadBody,
    Closed,
    CorruptStore,
    DiskFull,
    MqError,
    StaleReceipt,
    StorageError,
    UsageError,
)  # fmt: skip

T = TypeVar("T")
PACK_DELIVER: Final = records.DELIVER_PAYLOAD.pack
PACK_ACK: Final = records.ACK_PAYLOAD.pack
Decide = Callable[[Plan, QueueState, Callable[[], bool]], int]  # the last: whether the slice's time is over


def _no_more() -> bool:
    return False


class Queue(Generic[T]):
    """A handle.  The queue comes to be when it is declared with options or first published to."""

    __contains__ = None  # `x in queue` would fall back on __iter__ and take messages
    _is_endless = True  # where several things are wanted, a queue is refused, for the same reason

    def __init__(self, store: Store, channel: Channel, type: Any = None) -> None:
        self.name = channel.name
        self._store, self._channel, self._hold = store, channel, store.hold()
        self._type = type
        self._decode: Callable[[bytes], Any] = _decoder(type)

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
        store, channel = self._store, self._channel
        if not options:
            turn = store.turn
            me, busy = get_ident(), store.busy
            if me in busy:
                raise nested()
            try:
                busy.add(me)
                with turn.mutex:
                    try:
                        turn.enter()
                        state = channel.state
                        if state is not None and not state.publish_needs_plan:
                            ms, log = store.clock.store_ms(), store.log
                            if ms >= store.state.board.next:
                                store.do_due()
                                state = channel.state
                            if state is not None:
                                id = log.append(ms, PUBLISH, flags, state.number, raw)
                                state.publish(id, len(raw))
                                end = store.applied = log.end
                                asleep = turn.mark[channel.word]  # the processes that wait here
                                if channel.armed or (asleep and asleep != store.listener.bit):
                                    channel.wake(1)
                        else:
                            state = None
                    except DiskFull:
                        state = None  # `_publish` makes way, perhaps
                    finally:
                        turn.leave()
                if state is not None:
                    if store.linger:
                        store.settle(end)
                    return id
            finally:
                busy.discard(me)
        return self._publish([flags], [raw], options)[0]

    def publish_many(self, bodies: Iterable[T], **options: Unpack[BatchOptions]) -> list[int]:
        """Store all of *bodies* or, whatever happens, none of them; their ids, in order."""
        if "dedup_id" in options:
            raise UsageError("a dedup_id is of one message: publish them in a transaction, each with its own")
        flags, raw = encode_bodies(check_many("bodies", bodies))
        ids = publish_plain(self._store, self._channel, flags, raw) if raw and not options else None
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
        return publish(self._store, messages, time.monotonic() + first.timeout)

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
        store, channel = self._store, self._channel
        turn = store.turn
        me, busy = get_ident(), store.busy
        if me in busy:
            raise nested()
        sleeper = flight = id = begun = None
        try:
            busy.add(me)
            while True:
                with turn.mutex:
                    try:
                        turn.enter()
                        if sleeper is not None:
                            sleeper.end()
                        state, ms = channel.state, store.clock.store_ms()
                        id = None
                        if state is not None and state.plain and ms < state.next_store:
                            id = state.waiting.head  # nothing else is to be looked at
                        if id is None or ms >= store.state.board.next:
                            now = store.clock.now()
                            ms = now.store
                            if ms >= store.state.board.next:
                                store.do_due()
                            state = channel.state
                            id = state.head(now) if state else None
                            if state is not None and state.delivery_needs_plan:
                                receiving.renew(store, state, now)
                        if id is None:
                            sleeper = sleeper or Sleeper(store.waiters, Channels((channel,)))
                            if not sleeper.prepare(now, until):
                                return None
                        else:
                            assert state
                            options = state.options
                            seconds = (
                                options.visibility_timeout
                                if visibility_timeout is None
                                else visibility_timeout
                            )
                            deadline = ms + int(seconds * 1000)
                            log = store.log
                            if state.delivery_needs_plan and options.delivery == "at_most_once":
                                settled = receiving.arrive_settled(self, state, [id], now)
                            else:
                                # A flight that is taken again has timed out.
                                flags = 0x10 if id in state.flights else 0
                                payload = PACK_DELIVER(id, deadline)
                                receipt = log.append(ms, DELIVER, flags, state.number, payload)
                                flight = state.deliver(id, receipt, deadline, flags)
                                store.applied = log.end
                                assert flight
                            if store.waiters.asleep:
                                now = store.clock.now()
                                channel.wake_next(now)
                                store.waiters.watch(now)
                    except BaseException:
                        if id is not None and flight is None:
                            begun = receiving.begun(store, state, store.applied)
                        raise
                    finally:
                        turn.leave()
                if id is None:
                    assert sleeper
                    sleeper.sleep()
                    continue
                if flight is None:
                    return receiving.hand_over(store, settled)[0]
                assert state
                found = log.reader.at_hand(flight.position, PUBLISH)
                if found is None:
                    try:
                        found = store.read(state, id, flight.position)
                    except StorageError as error:
                        self._set_aside(id, receipt, error)
                        raise
                if found is None:  # it timed out, and was settled, before it was read
                    flight = id = None
                    continue
                flags, created_ms, raw = found
                more = None
                if flags & 0x40 or flight.traits is not PLAIN:
                    raw, more = more_of(flags, raw, flight.traits)
                return Delivery(self, id, flight, flags, created_ms, raw, more)
        except BaseException as error:
            if sleeper is not None:
                sleeper.give_up()
            if id is not None and flight is not None:
                begun = [(id, receipt)]
            if begun and not isinstance(error, StorageError):
                receiving.give_back(self, begun)
            raise
        finally:
            busy.discard(me)

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
        store, channel = self._store, self._channel
        return receiving.receive_many(store, self, channel, limit, until, visibility_timeout)

    def _set_aside(self, id: int, receipt: int, error: StorageError) -> None:
        """Nobody can be handed this body: if that is its own fault, the others get their turn."""
        claim = settling.Claim(None, self._channel, id, receipt)
        if isinstance(error, CorruptStore):
            do = settling.nacking(None, "its body is damaged", random.random)
        else:
            do = settling.do_release
        with suppress(MqError):  # stale, closed, failed: then it times out, or another receiver has it
            settling.settle_within(self._store, [claim], do)

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

    def _ack(self, message: Delivery[Any]) -> None:
        """Called by Delivery.ack."""
        store, id = self._store, message.id
        turn = store.turn
        me, busy = get_ident(), store.busy
        if me in busy:
            raise nested()
        try:
            busy.add(me)
            with turn.mutex:
                try:
                    turn.enter()
                    log, channel = store.log, self._channel
                    state = channel.state
                    flight = state.flights.get(id) if state else None
                    if flight is None or flight.receipt != message._flight.receipt:
                        raise StaleReceipt((id,))
                    assert state
                    size = message._more.size if message._more else len(message.raw)
                    ms = store.clock.store_ms()
                    log.append(ms, ACK, 0, state.number, PACK_ACK(id, size))
                    state.ack(id, size)
                    store.applied = log.end
                    if flight.traits is not PLAIN or state.bounded:
                        channel.hand_on(store.clock.now())  # the next of its group, or a publisher
                        channel.freed()
                finally:
                    turn.leave()
            message._settled = True
        finally:
            busy.discard(me)

    def _nack(self, message: Delivery[Any], delay: float | None, reason: str) -> None:
        """Called by Delivery.nack."""
        self.nack_many([message], delay=delay, reason=reason)

    def _release(self, message: Delivery[Any]) -> None:
        """Called by Delivery.release."""
        settling.settle_all(self._store, settling.claims_of([message], self._store), settling.do_release)

    def _reject(self, message: Delivery[Any], reason: str) -> None:
        """Called by Delivery.reject."""
        do = settling.rejecting(check_reason(reason))
        settling.settle_all(self._store, settling.claims_of([message], self._store), do)

    def _extend(self, message: Delivery[Any], seconds: float | None) -> None:
        """Called by Delivery.extend."""
        self.extend_many([message], seconds)

    def _skew_ms(self) -> int:
        """How far the wall clock is ahead of store time, as the log says."""
        return self._store.log.segments[-1].skew_ms

    def _is_inherited(self, message: Delivery[Any]) -> bool:
        """Whether it was received before a fork, and this is the child."""
        return message._lsn < self._store.inherited

    def ack_many(self, messages: Iterable[Delivery[Any] | Receipt]) -> None:
        """Ack all that can be acked; then StaleReceipt, naming the others, if there are any.

        They may be of any queue of this store.  Not all or nothing, which a transaction is: very
        many are settled in slices of some milliseconds, so that no neighbour waits.
        """
        settling.ack_all(self._store, list(check_many("messages", messages)))

    def nack_many(
        self, messages: Iterable[Delivery[Any] | Receipt], *, delay: float | None = None, reason: str = ""
    ) -> None:
        """Nack all that can be nacked, as `ack_many` acks; then StaleReceipt, naming the others."""
        if delay is not None:
            delay = check_seconds("delay", delay)
        do = settling.nacking(delay, check_reason(reason), random.random)
        settling.settle_all(self._store, settling.claims_of(messages, self._store), do)

    def extend_many(self, messages: Iterable[Delivery[Any] | Receipt], seconds: float | None = None) -> None:
        """Extend all that can be extended, as `ack_many` acks; then StaleReceipt, naming the others."""
        if seconds is not None:
            seconds = check_seconds("seconds", seconds)
        settling.extend_all(self._store, settling.claims_of(messages, self._store), seconds)

    def _receipt(self, id: int, lsn: int) -> Receipt:
        """Called by Delivery.receipt."""
        state = self._channel.state
        if state is None:  # in a child that has not opened the store yet
            self.stats()
            state = self._channel.state
        return Receipt(f"{state.number if state else 0}-{id}-{lsn}-{self._store.tag}")

    # ── looking ────────────────────────────────────────────────────────────────────

    def peek(self, limit: int = 10, *, state: State = "ready") -> list[Message[T]]:
        """The first *limit* messages in *state*, in delivery order.  Takes nothing.

        CorruptStore if the body of one is damaged: who looks is not told that all is well.
        """
        state = exact.one_of("state", state, get_args(State))  # type: ignore[assignment]
        return looking.peek(self, check_count("limit", limit), state)

    def get(self, id: int) -> Message[T] | None:
        """The message with this id; None if it is not in this queue, or not any more."""
        return looking.get(self, check_count("id", id))

    def stats(self) -> Stats:
        """How many messages are where, and what has happened so far."""
        return looking.stats(self)

    def options(self) -> QueueOptions:
        """The options in force."""
        return looking.options(self)

    # ── what waits ─────────────────────────────────────────────────────────────────

    def cancel(self, id: int) -> bool:
        """A message that waits or is delayed is gone; False if it is in flight, or not here."""
        id = check_count("id", id)

        def decide(plan: Plan, queue: QueueState, _: object) -> bool:
            if not queue.waits(id, plan.now):
                return False
            plan.add(*records.drop(queue.number, 0, [(id, plan.size_of(queue, id))]))
            return True

        return bool(self._change(decide))

    def reschedule(self, id: int, *, delay: float = 0, at: datetime | None = None) -> bool:
        """A message that waits or is delayed is ready in *delay* seconds, or *at*; False as for cancel."""
        id = check_count("id", id)
        seconds = check_seconds("delay", delay)
        delay_ms, due = check_delay(None if at is not None and not seconds else seconds, at)

        def decide(plan: Plan, queue: QueueState, _: object) -> bool:
            if not queue.waits(id, plan.now):
                return False
            when = due or (plan.now.wall + delay_ms if delay_ms else 0)
            if id in queue.flights:
                settle.give_up(plan, queue, id, when)
            else:
                plan.add(*records.reschedule(queue.number, id, when))
            return True

        return bool(self._change(decide))

    def purge(self) -> int:
        """Drop all that wait or are delayed; how many.  What is in flight stays."""
        purge = Purge()
        return self._change(purge.plan, more=lambda: purge.more, waits=False)

    def replay(self, ids: Iterable[int] | None = None, *, to: str | None = None) -> int:
        """Dead letters go back to where they died, or to the queue *to*, as if never tried; how many.

        All that wait here, or those with these *ids*.  What is in flight stays.  Each message
        moves as a whole; very many go in slices of some milliseconds, so that no neighbour waits.
        """
        if ids is not None:
            ids = [check_count("id", id) for id in check_many("ids", ids)]
        if to is not None:
            to = check_name(to)
        replay = dead.Replay(ids, to)
        return self._change(replay.plan, more=lambda: replay.more)

    def pause(self) -> None:
        """Nothing is delivered from now on, to anybody, until `resume`.  Publishing goes on."""
        self._store.declare(self._channel, {"paused": True})

    def resume(self) -> None:
        """Deliver again."""
        if self.stats().paused:
            self._store.declare(self._channel, {"paused": False})

    def delete(self) -> None:
        """The queue goes, with all it holds.  Publishing to it makes it anew, with no options."""

        def decide(plan: Plan, queue: QueueState, _: object) -> int:
            plan.add(*records.delete(queue.number))
            return 1

        self._change(decide)

    def _change(self, decide: Decide, *, more: Callable[[], bool] = _no_more, waits: bool = True) -> int:
        """Do what *decide* plans for this queue, if it is there, in slices while there is *more*; the sum.

        If it *waits*, under sync="always" it is on the disk then.
        """
        return _change(self._store, self._channel, decide, more, waits)

    def _body_of(self, message: Message[Any]) -> Any:
        """Called by Message.body."""
        kind = message._flags & records.BODY_BITS
        try:
            if kind == records.MSGPACK:
                return self._decode(message.raw)
            plain = message.raw if kind == records.BYTES else message.raw.decode()
            # Bytes are builtin: else text would be taken for base64, and come back as other bytes.
            return plain if self._type is None else msgspec.convert(plain, self._type, builtin_types=BYTES)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadBody(
                f"message {message.id} in queue {self.name!r} does not fit the queue's type: {error};"
                " message.raw has its bytes"
            ) from None


def _decoder(type: Any) -> Callable[[bytes], Any]:
    try:
        return msgspec.msgpack.Decoder(Any if type is None else type).decode
    except (TypeError, ValueError) as error:
        raise UsageError(f"messages cannot be of type {exact.shown(type)}: {exact.told(error)}") from None


@operation
def _change(
    store: Store, channel: Channel, decide: Decide, more: Callable[[], bool], waits: bool
) -> int:  # fmt: skip
    result = end = 0

    def change() -> int | None:
        nonlocal end
        if store.clock.store_ms() >= store.state.board.next:
            store.do_due()
        queue, plan = channel.state, store.plan()
        if queue is None:
            return None
        queue.advance(plan.now)
        count = decide(plan, queue, store.slice(plan))
        if plan.drafts:
            store.commit(plan)
        end = store.log.end
        return count

    while not end or more():
        if end:
            give_way(store)
        count = store.turn.take(change)
        if count is None:
            return result
        result += count
    if waits:
        store.settle(end)
    return result
