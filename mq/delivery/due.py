"""Work that nobody asked for: what falls due is found here, and done by whoever comes by.

A message whose time to live is over is dropped, or goes to the dead letters; so does one
whose last attempt timed out; a queue that nobody uses goes if it is meant to.
"""

from __future__ import annotations

from typing import Final

from . import events
from .dead import bury
from .events import Now
from .plan import Plan, SizeOf
from .queue import QueueState
from .state import State

SLICE: Final = 128  # messages that one passer-by deals with
EXPIRED_REASON: Final = "its time to live was over"


def next_work(state: State, now: Now, size_of: SizeOf) -> tuple[QueueState, Plan] | None:
    """A queue, and what has to be done there now, or a part of it; None if there is nothing.

    Once it is applied, `queue.put_down` says when to come again.
    """
    while (number := state.board.due(now)) is not None:
        queue = state.queues.get(number)
        if queue is None:
            state.board.done(number, now)
            continue
        plan = Plan(state, now, size_of)
        _fill(plan, queue)
        if plan.drafts:
            return queue, plan
        queue.put_down(now)
    return None


def _fill(plan: Plan, queue: QueueState) -> None:
    if queue.is_idle(plan.now):
        plan.add(events.DELETE, 0, queue.number, b"")
        return
    expired, doomed = queue.fallen(plan.now, SLICE)
    if queue.options.expired == "dead_letter":
        for id in expired:
            bury(plan, queue, id, plan.size_of(queue, id), EXPIRED_REASON, events.EXPIRED)
    elif expired:
        gone = b"".join(events.DROP_PAYLOAD.pack(id, plan.size_of(queue, id)) for id in expired)
        plan.add(events.DROP, events.EXPIRED, queue.number, gone)
    for id in doomed:
        bury(plan, queue, id, plan.size_of(queue, id), events.TIMEOUT_REASON, events.FAILED)
