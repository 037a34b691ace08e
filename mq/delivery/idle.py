"""Queues that go when no process receives from them: once they are empty, or with all they hold.

    received ──────── shortest ────────► idle_until          (store time; in DECLARE and RENEW)
    received ── delete_when_idle ──────► goes, if it is empty by then or later
    received ── delete_when_abandoned ─► goes, with what it holds

`shortest` is the shorter of the two options, so one time in the log serves for both.  Time
during which no process had the store open does not count: the process that opens it first
moves `idle_until` by as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import records
from .now import Now
from .options import Options

if TYPE_CHECKING:
    from .plan import Plan
    from .queue import QueueState

RENEW_SHARE: Final = 4  # it is renewed once a quarter of its time is over
LOOK_MS: Final = 1000  # a queue that is not empty is looked at again after this, or a quarter of its time
DOWNTIME_MS: Final = 1000  # less counts as if a process had been there, or it would be noted at each restart


def shortest(options: Options) -> float | None:
    """How long the queue stays at least; None: for ever."""
    spans = options.delete_when_idle, options.delete_when_abandoned
    return min((each for each in spans if each is not None), default=None)


def is_to_go(queue: QueueState, now: Now) -> bool:
    """Whether the queue is to be deleted now."""
    if queue.idle_seconds is None or queue.idle_until > now.store:
        return False
    idle, abandoned = _ends(queue)
    if abandoned is not None and abandoned <= now.store:
        return True
    return idle is not None and idle <= now.store and not queue.total()


def look_at(queue: QueueState, now: Now) -> int | None:
    """When to ask `is_to_go` again, if it is not; store time."""
    if queue.idle_seconds is None or queue.gone:
        return None
    ends = [end for end in _ends(queue) if end is not None]
    later = [end for end in ends if end > now.store]
    if len(later) < len(ends):  # it is not empty
        later.append(now.store + max(LOOK_MS, int(queue.idle_seconds * 1000) // RENEW_SHARE))
    return min(later)


def renewal(queue: QueueState, now: Now) -> int | None:
    """Until when the queue stays, for a process receives from it; None if that is nearly known."""
    if queue.idle_seconds is None:
        return None
    stays = int(queue.idle_seconds * 1000)
    return now.store + stays if queue.idle_until - now.store <= stays - stays // RENEW_SHARE else None


def add_downtime(plan: Plan, downtime_ms: int) -> None:
    """No process had the store open for so long: plan to let queues stay for as much longer."""
    began = plan.now.store - downtime_ms
    for queue in plan.state.queues.values():
        if queue.idle_seconds is None or queue.idle_until <= began:
            continue
        if downtime_ms >= min(DOWNTIME_MS, int(queue.idle_seconds * 1000) // RENEW_SHARE):
            plan.add(*records.renew(queue.number, queue.idle_until + downtime_ms))


def _ends(queue: QueueState) -> tuple[int | None, int | None]:
    """When the queue has been idle for long enough, and when abandoned."""
    assert queue.idle_seconds is not None
    since = queue.idle_until - int(queue.idle_seconds * 1000)
    idle, abandoned = queue.options.delete_when_idle, queue.options.delete_when_abandoned
    return (
        None if idle is None else since + int(idle * 1000),
        None if abandoned is None else since + int(abandoned * 1000),
    )
