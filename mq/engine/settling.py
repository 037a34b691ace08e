"""Settling deliveries, one or many: claims are checked, what is current is done.

Many are settled in slices of some milliseconds, each in one write, so that no neighbour waits
for all of them.

A claim is a delivery, or its receipt as text, which any process can settle.  What is
not current any more is reported by id, and touches nobody else's delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from mq import exact
from mq.api.message import Delivery, Receipt
from mq.api.options import check_many
from mq.delivery import records, settle
from mq.delivery.plan import Plan
from mq.delivery.queue import QueueState
from mq.delivery.state import State
from mq.engine.channel import Channel
from mq.engine.operation import operation
from mq.engine.slices import give_way
from mq.engine.store import Store
from mq.errors import StaleReceipt, UsageError

if TYPE_CHECKING:
    from mq.api.queue import Queue

PLAIN_MAX: Final = 8 * records.RUN_MAX  # acked in one turn: less than a millisecond
TAG_CHARS: Final = 6  # of a receipt's tag: which store; what follows is the log's epoch
NEVER: Final = -1  # the receipt of no delivery

Do = Callable[[Plan, QueueState, "Claim"], None]


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Somebody says that a delivery is theirs to settle.

    There may be very many, for a while: a garbage collection that goes through all of them would come
    while the store's lock is held.
    """

    message: Delivery[Any] | None  # None: only its receipt is there
    where: Channel | int  # what its queue is known by: the number only means something to the store's state
    id: int
    receipt: int

    def queue(self, state: State) -> QueueState | None:
        """The queue that it is in, if it is in force."""
        if isinstance(self.where, int):
            return settle.current(state.queue(self.where), self.id, self.receipt)
        return settle.current(self.where.state, self.id, self.receipt)

    def size(self, plan: Plan, queue: QueueState) -> int:
        return self.message._size if self.message else plan.size_of(queue, self.id)


def claim_of(message: Delivery[Any] | Receipt, store: Store) -> Claim:
    """The claim; UsageError if it is none, or another store's."""
    if exact.is_a(message, Delivery):
        queue: Queue[Any] = message._queue  # type: ignore[assignment]
        if queue._store is not store:  # its receipt may be somebody else's here
            raise UsageError(f"message {message.id} was received through another broker; settle it there")
        return Claim(message, queue._channel, message.id, message._lsn)
    try:
        *numbers, tag = exact.text("a receipt", message).split("-")
        number, id, receipt = map(int, numbers)
    except ValueError:  # of int(), of the unpacking, and UsageError is one
        what = exact.shown(str.__str__(message)) if exact.is_a(message, str) else exact.kind(message)
        raise UsageError(f"{what} is neither a delivery nor a receipt") from None
    if tag == store.tag or tag == store.tag[:TAG_CHARS]:  # of an older mq, which knew no epoch
        return Claim(None, number, id, receipt)
    if tag[:TAG_CHARS] == store.tag[:TAG_CHARS]:
        return Claim(None, number, id, NEVER)  # from before the store was copied, or restored
    raise UsageError(f"the receipt {exact.shown(str.__str__(message))} is another store's; settle it there")


def claims_of(messages: Iterable[Delivery[Any] | Receipt], store: Store) -> list[Claim]:
    return [claim_of(message, store) for message in check_many("messages", messages)]


@operation
def settle_all(store: Store, claims: list[Claim], do: Do) -> None:
    """Do it for all that are current; then StaleReceipt, naming the others."""
    settle_within(store, claims, do)


def settle_within(store: Store, claims: list[Claim], do: Do) -> None:
    """`settle_all`, as a part of another operation."""
    _do_all(store, claims, do, mark_settled, settles=True)


def ack_all(store: Store, messages: list[Delivery[Any] | Receipt]) -> None:
    """Ack all that are current; then StaleReceipt, naming the others."""
    done = _ack_plain(store, messages) if _are_plain(messages, store) else 0  # type: ignore[arg-type]
    if done < len(messages) or not messages:
        settle_all(store, claims_of(messages[done:], store), do_ack)


def _are_plain(messages: list[Any], store: Store) -> bool:
    """Whether all are deliveries of one queue of the store, and nothing but their bodies."""
    if set(map(type, messages)) != {Delivery} or messages[0]._queue._store is not store:
        return False
    queues = [each._queue for each in messages]
    return queues.count(queues[0]) == [each._more for each in messages].count(None) == len(queues)


@operation
def _ack_plain(store: Store, messages: list[Delivery[Any]]) -> int:
    """Ack *messages*, which are plain; how many, when it meets some that need a plan.

    Not decoded first, as a plan is: see the head of queue.py.
    """
    channel: Channel = messages[0]._queue._channel  # type: ignore[attr-defined]
    done = 0
    while done < len(messages):
        part = messages[done : done + PLAIN_MAX]
        ids = [each.id for each in part]
        flights = [each._flight for each in part]
        sizes = [len(each.raw) for each in part]
        if done:
            give_way(store)
        with store.turn.mutex:
            try:
                store.turn.enter()
                state = channel.state
                if state is None or not state.are_plain(ids, flights):
                    return done
                ms = store.clock.store_ms()
                payloads = records.encode_acks(ids, sizes)
                count = len(payloads)
                if count == 1:
                    store.log.append(ms, records.ACK, 0, state.number, payloads[0])
                else:
                    store.log.append_columns(
                        ms, [records.ACK] * count, [0] * count, [state.number] * count, payloads
                    )
                state.ack_plain(ids, sizes)
                store.applied = store.log.end
            finally:
                store.turn.leave()
        _settled(part)
        done += len(part)
    return done


def _settled(messages: list[Delivery[Any]]) -> None:
    for message in messages:
        message._settled = True


@operation
def extend_all(store: Store, claims: list[Claim], seconds: float | None) -> None:
    """Extend all that are current; then StaleReceipt, naming the others."""
    deadlines: dict[int, int] = {}

    def do(plan: Plan, queue: QueueState, claim: Claim) -> None:
        deadlines[claim.receipt] = settle.extend(plan, queue, claim.id, seconds)

    def note(done: list[Claim]) -> None:
        for claim in done:
            if claim.message:
                claim.message._flight = replace(claim.message._flight, deadline=deadlines[claim.receipt])

    _do_all(store, claims, do, note, settles=False)


def _do_all(
    store: Store, claims: list[Claim], do: Do, note: Callable[[list[Claim]], None], *, settles: bool
) -> None:  # fmt: skip
    """*note* is told what is done, as it is done: what comes after it may fail."""
    rest = iter(claims)
    stale: list[int] = []

    def settle_some() -> tuple[list[Claim], list[int]]:
        plan = store.plan()
        found = plan_all(plan, zip(rest, repeat(do)), store.slice(plan), settles=settles)
        if plan.drafts:
            store.commit(plan)
        return found

    while left := length_hint(rest):
        if left < len(claims):
            give_way(store)
        done, others = store.turn.take(settle_some)
        note(done)
        stale += others
    if stale:
        raise StaleReceipt(tuple(stale))


def plan_all(
    plan: Plan, settling: Iterable[tuple[Claim, Do]], is_late: Callable[[], bool], *, settles: bool = True
) -> tuple[list[Claim], list[int]]:
    """Plan it for all that are current, until it *is_late*: those, and the ids of the others.

    *settles*: none of them is a delivery in force afterwards.
    """
    done: dict[int, Claim] = {}  # by receipt
    stale: list[int] = []
    for claim, do in settling:
        queue = claim.queue(plan.state)
        if queue is None or (settles and claim.receipt in done):
            stale.append(claim.id)
        else:
            done[claim.receipt] = claim
            do(plan, queue, claim)
        if is_late():
            break
    return list(done.values()), stale


def mark_settled(claims: Iterable[Claim]) -> None:
    for claim in claims:
        if claim.message:
            claim.message._settled = True


def do_ack(plan: Plan, queue: QueueState, claim: Claim) -> None:
    settle.ack(plan, queue, claim.id, claim.size(plan, queue))


def do_release(plan: Plan, queue: QueueState, claim: Claim) -> None:
    settle.release(plan, queue, claim.id)


def nacking(delay: float | None, reason: str, chance: Callable[[], float]) -> Do:
    return lambda plan, queue, claim: settle.nack(
        plan, queue, claim.id, lambda: claim.size(plan, queue), delay, reason, chance()
    )


def rejecting(reason: str) -> Do:
    return lambda plan, queue, claim: settle.reject(plan, queue, claim.id, claim.size(plan, queue), reason)
