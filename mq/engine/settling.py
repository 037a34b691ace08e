"""Settling deliveries, one or many: claims are checked, what is current is done.

Many are settled in slices of some milliseconds, each in one write, so that no neighbour waits
for all of them.

A claim is a delivery, or its receipt as text, which any process can settle.  What is
not current any more is reported by id, and touches no other delivery; unless the caller settles by
message, whichever receiver holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from functools import partial
from itertools import chain, islice, repeat
from operator import length_hint
from typing import Final

import msgspec
from msgspec.structs import replace

from mq.delivery import settle
from mq.delivery.plan import Plan
from mq.delivery.queue import QueueState
from mq.delivery.state import State
from mq.delivery.table import Table
from mq.engine.channel import Channel
from mq.engine.handle import Held
from mq.engine.operation import operation
from mq.engine.slices import give_way
from mq.engine.store import Store
from mq.errors import StaleReceipt

NO_DELIVERY: Final = -1  # the receipt of none
TOGETHER: Final = 64  # claims in a tuple

Do = Callable[[Plan, QueueState, "Claim"], None]
PlanSome = Callable[
    [Plan, Iterable[tuple["Claim", Do]], Callable[[], bool]], tuple[list["Claim"], list[int]]
]  # what is done, and the ids of what is stale, until the last says that it is late


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A caller says that a delivery is its own to settle."""

    message: Held | None  # None: only its receipt is there
    where: Channel | int  # what its queue is known by: the number only means something to the store's state
    id: int
    receipt: int

    def queue(self, state: State) -> QueueState | None:
        """The queue that it is in, if it is in force."""
        return settle.current(self._named(state), self.id, self.receipt)

    def holder(self, state: State) -> QueueState | None:
        """The queue that it names, if the message is there, in whichever state."""
        queue = self._named(state)
        return queue if queue and self.id in queue else None

    def _named(self, state: State) -> QueueState | None:
        return state.queue(self.where) if isinstance(self.where, int) else self.where.state

    def size(self, plan: Plan, queue: QueueState) -> int:
        return self.message._size if self.message else plan.size_of(queue, self.id)


class Claims:
    """Very many, for a while: in tuples of a few.

    Python's garbage collector goes through a list of hundreds of thousands, some 10 ms with the store's lock
    held, whenever that is new to it.  A tuple of what cannot be in a circle it forgets at first sight.
    """

    def __init__(self, claims: Iterable[Claim]) -> None:
        each = iter(claims)
        self._parts: list[tuple[Claim, ...]] = []
        while part := tuple(islice(each, TOGETHER)):
            self._parts.append(part)

    def __len__(self) -> int:
        return max(0, len(self._parts) - 1) * TOGETHER + len(self._parts[-1]) if self._parts else 0

    def __getitem__(self, at: int) -> Claim:
        return self._parts[at // TOGETHER][at % TOGETHER]

    def __iter__(self) -> Iterator[Claim]:
        return chain.from_iterable(self._parts)


@operation
def settle_all(store: Store, claims: Claims, do: Do) -> None:
    """Do it for all that are current; then StaleReceipt, naming the others."""
    settle_within(store, claims, do)


def settle_within(store: Store, claims: Claims, do: Do) -> None:
    """`settle_all`, as a part of another operation."""
    _do_all(store, claims, do, mark_settled, plan_all)


@operation
def ack_by_message(store: Store, claims: Claims) -> None:
    """Ack all messages that are there, whichever delivery of them is in force; see `_plan_by_message`."""
    _do_all(store, claims, do_ack, mark_settled, _plan_by_message)


@operation
def extend_all(store: Store, claims: Claims, seconds: float | None, *, fenced: bool) -> None:
    """Extend all that are current; then StaleReceipt, naming the others.

    Not *fenced*: the delivery of each message that is in force, whichever receiver has it.
    """
    deadlines: dict[int, int] = {}

    def do(plan: Plan, queue: QueueState, claim: Claim) -> None:
        if flight := queue.flights.get(claim.id):
            deadlines[flight.receipt] = settle.extend(plan, queue, claim.id, seconds)

    def note(done: list[Claim]) -> None:
        for claim in done:
            if claim.message and claim.receipt in deadlines:
                claim.message._flight = replace(claim.message._flight, deadline=deadlines[claim.receipt])
        for receipt, deadline in deadlines.items():
            store.keeper.extended(receipt, deadline)
        deadlines.clear()

    _do_all(store, claims, do, note, _plan_extensions if fenced else _plan_by_message)


def _do_all(
    store: Store, claims: Claims, do: Do, note: Callable[[list[Claim]], None], plan_some: PlanSome
) -> None:  # fmt: skip
    """*note* is told what is done, as it is done: what comes after it may fail."""
    at = 0  # of *claims*: where the next turn begins
    stale: list[int] = []

    def settle_some() -> tuple[list[Claim], list[int], int]:
        plan = store.committer.plan()
        places = iter(range(at, len(claims)))
        rest = zip(map(claims.__getitem__, places), repeat(do))
        done, others = plan_some(plan, rest, store.committer.slice(plan))
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


_plan_extensions: Final = partial(plan_all, settles=False)


def _plan_by_message(
    plan: Plan, settling: Iterable[tuple[Claim, Do]], is_late: Callable[[], bool]
) -> tuple[list[Claim], list[int]]:  # fmt: skip
    """`plan_all`, for the messages that the claims name: what is gone is done already.

    Stale are only claims from before the store was copied, or restored: an id of then may be another
    message's now.
    """
    done: list[Claim] = []
    stale: list[int] = []
    planned: set[tuple[int, int]] = set()
    for claim, do in settling:
        if claim.receipt == NO_DELIVERY:
            stale.append(claim.id)
        else:
            queue = claim.holder(plan.state)
            if queue is not None and (queue.number, claim.id) not in planned:
                planned.add((queue.number, claim.id))
                do(plan, queue, claim)
            done.append(claim)
        if is_late():
            break
    return done, stale


def mark_settled(claims: Iterable[Claim]) -> None:
    for claim in claims:
        if claim.message:
            claim.message._settled = True


def do_ack(plan: Plan, queue: QueueState, claim: Claim) -> None:
    settle.ack(plan, queue, claim.id, claim.size(plan, queue))


def receipts(claims: Iterable[Claim]) -> Container[int]:
    """Those of *claims*; in no set, which is made anew in one call each time that it has grown."""
    found = Table[bool]()
    for claim in claims:
        found[claim.receipt] = True
    return found


def releasing(together: Container[int] = ()) -> Do:
    """*together*: the receipts of all that one call settles, so that none of them goes back with another."""
    return lambda plan, queue, claim: settle.release(plan, queue, claim.id, together)


def nacking(
    delay: float | None, reason: str, chance: Callable[[], float], together: Container[int] = ()
) -> Do:  # fmt: skip
    """*together*: as for `releasing`."""
    return lambda plan, queue, claim: settle.nack(
        plan, queue, claim.id, lambda: claim.size(plan, queue), delay, reason, chance(), together
    )


def rejecting(reason: str) -> Do:
    return lambda plan, queue, claim: settle.reject(plan, queue, claim.id, claim.size(plan, queue), reason)
