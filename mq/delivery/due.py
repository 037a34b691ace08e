"""Work that falls due: it is found here, and each operation does a slice of it.

A message whose time to live is over is dropped, or goes to the dead letters.  A message whose
last attempt has timed out goes to the dead letters.  Messages that are held together with one that has
timed out, behind it, go back with it.  A queue that is idle is deleted, if its
options say so.

The caller of the operation asked for something else, and the operation has the store's lock: so
a slice takes some milliseconds at most, and the next operations do the rest.

If the dead letters of a queue have nowhere to go, its work is put off: the messages stay where
they are, and the other queues' work goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mq.errors import UsageError

from . import records, settle
from .dead import move_to_dead_letters
from .now import Now
from .plan import Plan, Read, SizeOf
from .queue import QueueState
from .state import EXCHANGE, State

CreatedOf = Callable[[QueueState, int], int | None]
"""When a message was published, wall time; None if its record cannot be read."""

SLICE: Final = 512  # messages that one operation drops
DEAD_LETTER_COST: Final = 4  # one dead letter takes as long as dropping so many
ROUNDS: Final = 64  # times that one operation looks for work, and finds none where it was to be
EXPIRED_REASON: Final = "its time to live was over"


def next_work(
    state: State, now: Now, size_of: SizeOf, read: Read, created_of: CreatedOf, is_late: Callable[[], bool],
    cannot: Callable[[QueueState, UsageError], None],
) -> tuple[QueueState, Plan] | None:  # fmt: skip
    """A queue, and what has to be done there now, or a part of it; None if nothing was found.

    *is_late*: whether it is time to stop; on a disk that is slow that is earlier than a slice.
    *cannot* is told of each queue that finds its work impossible, and has it put off.
    Once the plan is applied, `look_again` says when to come again.
    """
    for _ in range(ROUNDS):
        number = state.board.due(now)
        if number is None:
            break
        queue = state.queue(number)
        if queue is None:
            state.board.done(number, now)
            continue
        plan = Plan(state, now, size_of, read)
        obstacle = _fill(plan, queue, is_late, created_of)
        if plan.drafts:
            return queue, plan
        if obstacle:
            cannot(queue, obstacle)
        else:
            look_again(state, queue, now, created_of)
        if is_late():
            break
    return None


def look_again(state: State, queue: QueueState, now: Now, created_of: CreatedOf) -> None:
    """What fell due until *now* is done, or in part: say when there is next something to do."""
    queue.reset_alarms(now)
    if queue.number == EXCHANGE:
        state.calendar.set_alarm()
    oldest, stays_ms = queue.waiting.head, queue.retention.stays_ms
    if queue.retention.is_over(len(queue.waiting), queue.bytes):
        queue.timers.alarm.at_store(0)
    elif oldest is not None and stays_ms is not None:
        created_ms = created_of(queue, oldest)
        queue.timers.alarm.at_wall((now.wall if created_ms is None else created_ms) + stays_ms)


def _fill(
    plan: Plan, queue: QueueState, is_late: Callable[[], bool], created_of: CreatedOf
) -> UsageError | None:  # fmt: skip
    """Plan what *queue* has to do; the error if its dead letters have nowhere to go."""
    if queue.retention:
        drop_over(plan, queue, is_late, created_of)
        return None
    if queue.is_to_go(plan.now):
        plan.add(*records.delete(queue.number))
        return None
    queue.dedup.forget(plan.now.store, SLICE)  # which needs no record: what is over means nothing
    buries = queue.options.expired == "dead_letter"
    expired, exhausted = queue.due_to_go(
        plan.now, SLICE // DEAD_LETTER_COST if buries or queue.timers.exhausted else SLICE
    )
    broken = queue.timers.broken_runs(SLICE)
    for id in broken:
        settle.release_behind(plan, queue, id)
        if is_late():
            return None
    if len(broken) == SLICE:  # there may be more: none of those behind is to die with the one before it
        return None
    gone: list[tuple[int, int]] = []
    try:
        for id in expired:
            if is_late() and (gone or plan.drafts):
                break
            size = plan.size_of(queue, id)
            if buries:
                move_to_dead_letters(plan, queue, id, size, EXPIRED_REASON, records.EXPIRED)
            else:
                gone.append((id, size))
        if gone:
            plan.add(*records.drop(queue.number, records.EXPIRED, gone))
        for id in exhausted:
            if is_late() and plan.drafts:
                break
            if queue.flights[id].receipt not in plan.released:
                settle.die(plan, queue, id, plan.size_of(queue, id), records.TIMEOUT_REASON)
    except UsageError as error:  # no room for one more queue, or too long a name: true of all of them
        return error
    return None


def drop_over(plan: Plan, topic: QueueState, is_late: Callable[[], bool], created_of: CreatedOf) -> bool:
    """Plan to drop what is over of what *topic* retains, or a part of it; whether that is all."""
    sizes: dict[int, int] = {}  # with a limit in bytes: read once, for both

    def size_of(topic: QueueState, id: int) -> int:
        if id not in sizes:
            sizes[id] = plan.size_of(topic, id)
        return sizes[id]

    over = topic.first_retained(plan.now, size_of, created_of, SLICE + 1)
    gone: list[tuple[int, int]] = []
    for id in topic.waiting.first(min(over, SLICE)):
        if gone and id not in sizes and is_late():
            break
        gone.append((id, size_of(topic, id)))
    if gone:
        plan.add(*records.drop(topic.number, records.EXPIRED, gone))
    return len(gone) == over


def add_downtime(plan: Plan, downtime_ms: int) -> None:
    """No process had the store open for *downtime_ms*: idle queues stay for as much longer."""
    for queue in plan.state.queues.values():
        until = queue.idle.prolonged(plan.now, downtime_ms)
        if until is not None:
            plan.add(*records.renew(queue.number, until))
