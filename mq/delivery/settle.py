"""What becomes of deliveries: ack, nack, reject, release, extend.

Each function plans one record, for a delivery that is the current one.

Messages of a group that were taken in one batch are held together.  One that leaves (acked, rejected)
leaves the others where they are.  One that goes back (nacked, released, timed out) takes those behind it
with it, each by a RELEASE: else they would be done before it.  So does one that is nacked for the last time
and dies: its receiver does not know which time is the last.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from . import records
from .dead import move_to_dead_letters
from .plan import Plan
from .queue import QueueState


def current(queue: QueueState | None, id: int, receipt: int) -> QueueState | None:
    """The queue of the delivery, if *receipt* is the current one of message *id*."""
    flight = queue.flights.get(id) if queue else None
    return queue if flight and flight.receipt == receipt else None


def ack(plan: Plan, queue: QueueState, id: int, size: int) -> None:
    plan.add_to_run(records.ACK, queue.number, records.ACK_PAYLOAD.pack(id, size))
    plan.free(queue, id, size)


def nack(
    plan: Plan, queue: QueueState, id: int, size: Callable[[], int], delay: float | None, reason: str,
    chance: float, spared: Container[int] = (),
) -> None:  # fmt: skip
    """Again after *delay* seconds, or a backoff (*chance* is its spread); or dead, if that was the last.

    *spared*: receipts of those that do not go back with it, for they are settled by themselves.
    """
    attempts = queue.flights[id].attempts
    if attempts >= queue.moment.attempts_max:
        die(plan, queue, id, size(), reason, spared)
        return
    due, backoff = 0, False
    if delay is None:
        # In store time: a wall clock that is set back must not prolong it.
        if rest := int(queue.moment.backoff.delay(attempts, chance) * 1000):
            due, backoff = plan.now.store + rest, True
    elif delay:
        due = plan.now.wall + int(delay * 1000)
    plan.add(*records.nack(queue.number, id, due, plan.now.store, reason, backoff=backoff))
    release_behind(plan, queue, id, spared)


def die(
    plan: Plan, queue: QueueState, id: int, size: int, reason: str, spared: Container[int] = ()
) -> None:  # fmt: skip
    """The last attempt has failed: the message goes to the dead letters, and those behind it go back."""
    move_to_dead_letters(plan, queue, id, size, reason, records.FAILED)
    release_behind(plan, queue, id, spared)


def give_up(plan: Plan, queue: QueueState, id: int, due: int) -> None:
    """The delivery has timed out, and is still the current one: again at *due*, wall time."""
    at = queue.flights[id].deadline
    plan.add(*records.nack(queue.number, id, due, at, records.TIMEOUT_REASON))
    release_behind(plan, queue, id)


def reject(plan: Plan, queue: QueueState, id: int, size: int, reason: str) -> None:
    move_to_dead_letters(plan, queue, id, size, reason, records.FAILED)


def release(plan: Plan, queue: QueueState, id: int, spared: Container[int] = ()) -> None:
    """*spared*: as for `nack`."""
    plan.add(*records.release(queue.number, id))
    release_behind(plan, queue, id, spared)


def release_behind(plan: Plan, queue: QueueState, id: int, spared: Container[int] = ()) -> None:
    """What is held together with *id*, behind it, goes back too: not tried."""
    for other in queue.behind(id):
        receipt = queue.flights[other].receipt
        if receipt in plan.released:  # and so are all others behind that one
            return
        if receipt not in spared:
            plan.released.add(receipt)
            plan.add(*records.release(queue.number, other))


def extend(plan: Plan, queue: QueueState, id: int, seconds: float | None) -> int:
    """The new deadline."""
    if seconds is None:
        seconds = queue.options.visibility_timeout
    deadline = plan.now.store + int(seconds * 1000)
    plan.add(*records.extend(queue.number, id, deadline))
    return deadline
