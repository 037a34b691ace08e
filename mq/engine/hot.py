"""The hot operations: publish, fan out, receive, ack, and their batches.  The only flat code of the engine.

At a microsecond or two a message every Python call shows.  So these seven write out the turn that all other
operations take by `Turn.take` (mq/engine/turn.py), and the steps that a plan takes in `Committer.commit`:

    refuse     a thread that is inside an operation already (mq/engine/operation.py)
    line       beside other threads, wait for their turns (mq/engine/line.py); or, where an append is a round
               trip, have it made with theirs (mq/engine/together.py)
    mutex      keeps out the other threads of this process
    enter      keeps out the other processes, steps aside for one that waits, applies what was appended since
    due        what has fallen due comes first
    decide     what the state allows now
    append     the record, in one write; Conflict: another writer appended first, so decide again
    apply      the record, by the method that recovery calls, too
    applied    is the end of the log, last: an interruption before that leaves it behind, and the next
               turn reads the state anew
    wake       the receivers that find something now, here and in other processes
    leave      in a `finally`, and one call of C: nothing can come between, and no lock stays held

What is not plain (attributes, limits, a queue that is not there yet, a full disk) is not done here:
`publish`, `fan_out` and `publish_many` return None then, `ack_many` how many it did, and the caller makes
a plan (mq/engine/commands.py, mq/engine/settling.py).

These records are not decoded before they are appended, as those of a plan are.  Nothing in them comes
from a caller unchecked: the flags of a body are one of three, ids, receipts and queue numbers are the
state's own, and a deadline is store time and a duration of ten years at most, which a u64 holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import get_ident
from typing import Final

from mq.delivery import records
from mq.delivery.records import ACK, ATTRIBUTED, DELIVER, FANOUT, PUBLISH
from mq.delivery.traits import PLAIN
from mq.engine import receiving
from mq.engine.bodies import more_of
from mq.engine.channel import Channel, Channels
from mq.engine.handle import D, Handle, Held
from mq.engine.log import Conflict
from mq.engine.operation import operation
from mq.engine.outlet import Outlet
from mq.engine.receiving import NOTHING, Unread
from mq.engine.settling import Claim, Claims, do_ack, settle_within
from mq.engine.slices import give_way
from mq.engine.store import Store
from mq.engine.waiting import Gatherer, Sleeper
from mq.errors import DiskFull, StaleReceipt, StorageError
from mq.storage.shared import ASLEEP

PACK_DELIVER: Final = records.DELIVER_PAYLOAD.pack
PACK_ACK: Final = records.ACK_PAYLOAD.pack
ACKS_MAX: Final = 8 * records.RUN_MAX  # acked in one turn: less than a millisecond


# ── publishing ─────────────────────────────────────────────────────────────────────


def publish(store: Store, channel: Channel, flags: int, raw: bytes) -> int | None:
    """Store one message that is nothing but a body; its id.  None if the queue needs a plan for it.

    *flags* say how the body was given.
    """
    turn, replica = store.turn, store.replica
    me, busy = get_ident(), store.busy
    if busy:
        if store.together and not turn.mutex._is_owned():  # type: ignore[attr-defined]
            return store.together.publish(channel, flags, raw)
        turn.line.wait(me, busy, store.waiters.asleep)
    try:
        busy.add(me)
        while True:
            with turn.mutex:
                try:
                    turn.enter()
                    state = channel.state
                    if state is None or state.publish_needs_plan:
                        return None
                    ms, log = store.clock.store_ms(), replica.log
                    if ms >= state.board.next:
                        store.committer.do_due()
                        state = channel.state
                        if state is None:
                            return None
                    id = log.append(ms, PUBLISH, flags, state.number, raw)
                    state.publish(id, len(raw))
                    end = replica.applied = log.end
                    asleep = turn.mark[channel.word]  # the processes that wait here
                    if channel.armed or (asleep and asleep != store.listener.bit):
                        channel.wake(1)
                except Conflict:
                    continue  # decide again
                except DiskFull:
                    return None  # the plan makes way, perhaps
                finally:
                    turn.leave()
            if store.wait_after_publish:
                store.finish_publish(end)
            return id
    finally:
        busy.discard(me)


def fan_out(store: Store, outlet: Outlet, flags: int, raw: bytes) -> int | None:
    """Store one message that is nothing but a body for all queues that get what is published to a topic.

    Its id.  None if that needs a plan.  *flags* say how the body was given.
    """
    turn, replica = store.turn, store.replica
    me, busy = get_ident(), store.busy
    if busy:
        turn.line.wait(me, busy, store.waiters.asleep)
    try:
        busy.add(me)
        while True:
            with turn.mutex:
                try:
                    turn.enter()
                    ms, log = store.clock.store_ms(), replica.log
                    if ms >= replica.state.board.next:
                        store.committer.do_due()
                    state = replica.state
                    ways = outlet.ways(state)
                    if ways is None:
                        return None
                    exchange, queues, topic, holders, head, tail = ways
                    id = log.append(ms, FANOUT, flags | ATTRIBUTED, 0, b"%b%b%b" % (head, raw, tail))
                    size = len(raw) + len(tail)
                    exchange.totals.published += 1
                    if exchange.unchanged:
                        exchange.mark_changed()
                    if len(holders) > 1:
                        state.board.shared.note(id, size, holders)
                    for queue in queues:
                        queue.publish(id, size)
                    if topic is not None:
                        topic.retain(id, size)
                    end = replica.applied = log.end
                    if store.waiters.asleep or turn.mark[ASLEEP]:
                        store.waiters.announce(dict.fromkeys(holders, 1), store.clock.now())
                except Conflict:
                    continue  # decide again
                except DiskFull:
                    return None  # the plan makes way, perhaps
                finally:
                    turn.leave()
            if store.wait_after_publish:
                store.finish_publish(end)
            return id
    finally:
        busy.discard(me)


@operation
def publish_many(store: Store, channel: Channel, flags: list[int], bodies: list[bytes]) -> list[int] | None:
    """Store all of *bodies*, or none; their ids.  None if the queue needs a plan for them.

    *flags* say how each was given.
    """
    turn, replica = store.turn, store.replica
    while True:
        with turn.mutex:
            try:
                turn.enter()
                ms = store.clock.store_ms()
                if ms >= replica.state.board.next:
                    store.committer.do_due()
                state = channel.state
                if state is None or state.publish_needs_plan:
                    return None
                count = len(bodies)
                ids = replica.log.append_columns(ms, [PUBLISH] * count, flags, [state.number] * count, bodies)
                state.publish_run(ids, sum(map(len, bodies)))
                end = replica.applied = replica.log.end
                channel.wake(len(ids))
            except Conflict:
                continue  # decide again
            except DiskFull:
                return None  # the plan makes way, perhaps
            finally:
                turn.leave()
        store.finish_publish(end)
        return ids


# ── receiving ──────────────────────────────────────────────────────────────────────


def receive(queue: Handle[D], until: float | None, visibility_timeout: float | None) -> D | None:
    """Take the next message; None once *until* has come, monotonic seconds."""
    store, channel = queue._store, queue._channel
    turn, replica = store.turn, store.replica
    me, busy = get_ident(), store.busy
    if busy:
        turn.line.wait(me, busy, store.waiters.asleep)
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
                    id, again = None, False
                    if state is not None and ms < state.moment.plain_until:
                        id = state.waiting.head  # nothing else is to be looked at
                    if id is None or ms >= replica.state.board.next:
                        now = store.clock.now()
                        ms = now.store
                        if ms >= replica.state.board.next:
                            store.committer.do_due()
                        state = channel.state
                        id = state.head(now) if state else None
                        again = state is not None and id in state.flights
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
                            options.visibility_timeout if visibility_timeout is None else visibility_timeout
                        )
                        deadline = ms + int(seconds * 1000)
                        log = replica.log
                        if state.delivery_needs_plan and options.delivery == "at_most_once":
                            settled = receiving.arrive_settled(queue, state, [id], now)
                        elif again:  # its delivery has timed out
                            (flight,) = receiving.take(store, state, [id], ms, deadline).flights
                            receipt = flight.receipt
                        else:
                            if log.spread:
                                id = log.spread.pick(state, id)
                            payload = PACK_DELIVER(id, deadline)
                            receipt = log.append(ms, DELIVER, 0, state.number, payload)
                            flight = state.deliver(id, receipt, deadline, 0)
                            replica.applied = log.end
                            assert flight
                        if store.waiters.asleep:  # only this thread was woken: it wakes the next for the rest
                            now = store.clock.now()
                            channel.taken(now)
                            store.waiters.watch(now)
                except Conflict:
                    continue  # decide again
                except BaseException:
                    if id is not None and flight is None:  # its record may be in the log, and not applied
                        begun = receiving.begun(store, state, replica.applied)
                    raise
                finally:
                    turn.leave()
            if id is None:
                assert sleeper
                sleeper.sleep()
                continue
            if flight is None:  # it was acked as it was delivered
                return receiving.hand_over(store, settled)[0]
            assert state
            # The body is read beside the turn: the others go on meanwhile.
            found = log.reader.at_hand(flight.position, PUBLISH)
            if found is None and (fanned := log.reader.at_hand(flight.position, FANOUT)):
                found = fanned[0], fanned[1], records.fanned(fanned[2])
            if found is None:
                if store.owing and receiving.may_take_long(store, (flight.position,)):
                    raise Unread(partial(receiving.read_one, queue, state, id, flight))
                try:
                    found = replica.read(state, id, flight.position)
                except StorageError as error:
                    receiving.set_aside(store, channel, id, receipt, error)
                    raise
            if found is None:  # it timed out, and was settled, before it was read
                flight = id = None
                continue
            flags, created_ms, raw = found
            more = None
            if flags & ATTRIBUTED or flight.traits is not PLAIN:
                raw, more = more_of(flags, raw, flight.traits)
            return queue._delivery(queue, id, flight, flags, created_ms, raw, more)
    except BaseException as error:
        if sleeper is not None:
            sleeper.give_up()
        if id is not None and flight is not None:
            begun = [(id, receipt)]
        if begun and not isinstance(error, (StorageError, Unread)):
            receiving.give_back(store, channel, begun)
        raise
    finally:
        busy.discard(me)


@operation
def receive_many(
    store: Store, queue: Handle[D], limit: int, until: float | None, visibility_timeout: float | None,
    linger: float, per_group: int | None,
) -> list[D]:  # fmt: skip
    """Take up to *limit* messages as soon as there is one; none once *until* has come, monotonic seconds.

    *linger*: seconds to wait for more before any is taken.  *per_group*: how many of each group at most.
    """
    turn, replica, channel = store.turn, store.replica, queue._channel
    sleeper: Sleeper | None = None
    gatherer: Gatherer | None = None
    taken, deliveries, unsure = NOTHING, [], False
    try:
        while True:
            settled, begin, waiter = None, -1, None
            if unsure:
                give_way(store)
            with turn.mutex:
                try:
                    turn.enter()
                    if sleeper:
                        sleeper.end()
                    if gatherer:
                        gatherer.end()
                    now = store.clock.now()
                    if now.store >= replica.state.board.next:
                        store.committer.do_due()
                    state = channel.state
                    ids = state.heads(now, limit, per_group) if state and not state.paused else []
                    unsure = state is not None and not state.paused and state.ready.is_unsure(ids, limit)
                    if unsure:
                        continue  # very many have come due: they are looked at in several turns
                    if state is not None and state.delivery_needs_plan:
                        receiving.renew(store, state, now)
                    if not ids:
                        waiter = sleeper = sleeper or Sleeper(store.waiters, Channels((channel,)))
                        gatherer = None  # another receiver took what there was
                        if not sleeper.prepare(now, until):
                            return []
                    elif linger and len(ids) < limit:
                        if gatherer is None:
                            channel.wake_next(now)  # a receiver that does not linger, perhaps
                            gatherer = Gatherer(store.waiters, Channels((channel,)), linger)
                        waiter = gatherer if gatherer.goes_on(now) else None
                    if waiter is None:
                        assert state
                        options = state.options
                        seconds = (
                            options.visibility_timeout if visibility_timeout is None else visibility_timeout
                        )
                        deadline = now.store + int(seconds * 1000)
                        begin = replica.log.end
                        if options.delivery == "at_most_once":
                            settled = receiving.arrive_settled(queue, state, ids, now)
                        else:
                            taken = receiving.take(store, state, ids, now.store, deadline)
                        if channel.armed:
                            channel.taken(now)
                        if store.waiters.asleep:
                            store.waiters.watch(now)
                except Conflict:
                    continue  # decide again
                except BaseException:
                    if begin >= 0 and not taken.ids:
                        deliveries = receiving.begun(store, state, begin)
                    raise
                finally:
                    turn.leave()
            if waiter is not None:
                waiter.sleep()
                continue
            if settled is not None:
                return receiving.hand_over(store, settled)
            assert state
            if found := receiving.read_all(queue, state, taken):
                return found
            taken = NOTHING
    except BaseException as error:
        if sleeper:
            sleeper.give_up()
        if gatherer:
            gatherer.give_up()
        deliveries += [(id, flight.receipt) for id, flight in zip(*taken, strict=True)]
        # What is damaged is set aside already; what is unread, another thread reads.
        if deliveries and not isinstance(error, (StorageError, Unread)):
            receiving.give_back(store, channel, deliveries)
        raise


# ── acking ─────────────────────────────────────────────────────────────────────────


def ack(message: Held) -> None:
    """The message is gone; StaleReceipt if its delivery is not in force any more."""
    queue, id = message._queue, message.id
    store = queue._store
    turn, replica = store.turn, store.replica
    me, busy = get_ident(), store.busy
    if busy:
        if (
            store.together
            and not turn.mutex._is_owned()  # type: ignore[attr-defined]
            and store.together.ack(queue._channel, message)
        ):
            return
        turn.line.wait(me, busy, store.waiters.asleep)
    try:
        busy.add(me)
        while True:
            with turn.mutex:
                try:
                    turn.enter()
                    state, log = queue._channel.state, replica.log
                    if (
                        state is None
                        or (flight := state.flights.near.get(id) or state.flights.get(id)) is None
                        or flight.receipt != message._flight.receipt
                    ):
                        raise StaleReceipt((id,))
                    size = message._more.size if message._more else len(message.raw)
                    ms = store.clock.store_ms()
                    log.append(ms, ACK, 0, state.number, PACK_ACK(id, size))
                    state.ack(id, size)
                    replica.applied = log.end
                    if flight.traits is not PLAIN or state.acks_awaited:
                        queue._channel.hand_on(store.clock.now())  # the next of its group, or a publisher
                        queue._channel.freed()
                except Conflict:
                    continue  # decide again
                finally:
                    turn.leave()
            message._settled = True
            return
    except StaleReceipt:
        if not turn.is_behind():
            raise
        settle_within(store, Claims([Claim(message, queue._channel, id, message._flight.receipt)]), do_ack)
    finally:
        busy.discard(me)


@operation
def ack_many(store: Store, channel: Channel, messages: Sequence[Held]) -> int:
    """Ack *messages*, plain deliveries of one queue; how many, for the rest may need a plan."""
    turn, replica, done = store.turn, store.replica, 0
    while done < len(messages):
        part = messages[done : done + ACKS_MAX]
        ids = [each.id for each in part]
        flights = [each._flight for each in part]
        sizes = [len(each.raw) for each in part]
        if done:
            give_way(store)
        with turn.mutex:
            try:
                turn.enter()
                state = channel.state
                if state is None or not state.are_plain(ids, flights):
                    return done
                ms = store.clock.store_ms()
                payloads = records.encode_acks(ids, sizes)
                count = len(payloads)
                if count == 1:
                    replica.log.append(ms, ACK, 0, state.number, payloads[0])
                else:
                    replica.log.append_columns(
                        ms, [ACK] * count, [0] * count, [state.number] * count, payloads
                    )  # fmt: skip
                state.ack_plain(ids, sizes)
                replica.applied = replica.log.end
            except Conflict:
                continue  # decide again
            finally:
                turn.leave()
        _note_settled(part)
        done += len(part)
    return done


def _note_settled(messages: Sequence[Held]) -> None:
    for message in messages:
        message._settled = True
