"""Settling deliveries, one or many: claims are checked, what is current is done.

Many are settled in slices of some milliseconds, each in one write, so that no neighbour waits
for all of them.

A claim is a delivery, or its receipt as text, which any process can settle.  What is
not current any more is reported by id, and touches no other delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from operator import length_hint

import msgspec
from msgspec.structs import replace

from mq.delivery import settle
from mq.delivery.plan import Plan
from mq.delivery.queue import QueueState
from mq.delivery.state import State
from mq.engine.channel import Channel
from mq.engine.handle import Held
from mq.engine.operation import operation
from mq.engine.slices import give_way
from mq.engine.store import Store
from mq.errors import StaleReceipt

Do = Callable[[Plan, QueueState, "Claim"], None]


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A caller says that a delivery is its own to settle.

    There may be very many, for a while: a garbage collection that goes through all of them would come
    while the store's lock is held.
    """

    message: Held | None  # None: only its receipt is there
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


@operation
def settle_all(store: Store, claims: list[Claim], do: Do) -> None:
    """Do it for all that are current; then StaleReceipt, naming the others."""
    settle_within(store, claims, do)


def settle_within(store: Store, claims: list[Claim], do: Do) -> None:
    """`settle_all`, as a part of another operation."""
    _do_all(store, claims, do, mark_settled, settles=True)


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
    at = 0  # of *claims*: where the next turn begins
    stale: list[int] = []

    def settle_some() -> tuple[list[Claim], list[int], int]:
        plan = store.committer.plan()
        places = iter(range(at, len(claims)))
        rest = zip(map(claims.__getitem__, places), repeat(do))
        done, others = plan_all(plan, rest, store.committer.slice(plan), settles=settles)
        if plan.drafts:
            store.committer.commit(plan)
        return done, others, len(claims) - length_hint(places)

    while at < len(claims):
        if at:
            give_way(store)
        done, others, at = store.turn.take(settle_some)
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
