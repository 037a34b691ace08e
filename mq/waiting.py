"""Sleeping until there may be something: a message, room in a full queue, work that falls due.

    receive()            sleeps on its queue's own condition: one message wakes one of many
    receive([queues])    has a condition of its own among the lookers of each of its queues,
    publish(timeout=)    as has who waits for room: told of everything, they look for themselves

Nobody polls.  Of those who sleep at one queue one is armed for the next time at which
something is ready there; and of all who sleep one for the next work that falls due in
any queue.  Whoever wakes early hands that on.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from mq.channel import Channel
from mq.delivery.board import NEVER
from mq.delivery.events import Now
from mq.store import Store


def sleep(
    store: Store, channels: Sequence[Channel], now: Now, until: float | None, *, for_room: bool = False
) -> bool:
    """Sleep, without the mutex, until there may be something; False once *until* has come."""
    begin = time.monotonic()
    alarm = store.state.board.next
    if until is not None and begin >= until and alarm > now.store:
        return False
    own = len(channels) > 1 or for_room
    condition = threading.Condition(store.mutex) if own else channels[0].arrived
    wake_at = min(
        math.inf if until is None else until,
        math.inf if for_room else begin + _seconds(channels, now),
    )
    if alarm < NEVER and begin + (alarm - now.store) / 1000 < min(store.asleep_until(), wake_at):
        wake_at = max(begin, begin + (alarm - now.store) / 1000)
    entry = wake_at, condition
    store.asleep.append(entry)
    for channel in channels:
        store.armed.add(channel)
        channel.armed.append(wake_at)
        if own:
            channel.lookers.append(condition)
    try:
        store.ask_to_be_woken()
        store.leave()
        # Longer waits than the system has words for (what is due in the year 9999) end early, and begin anew.
        seconds = min(max(0.0, wake_at - begin), threading.TIMEOUT_MAX)
        condition.wait(None if wake_at == math.inf else seconds)
    except BaseException:
        for channel in channels:
            channel.notify()  # somebody else must take what this one was woken for
        raise
    finally:
        store.asleep.remove(entry)
        for channel in channels:
            channel.armed.remove(wake_at)
            if own:
                channel.lookers.remove(condition)
            if not channel.armed:
                store.armed.discard(channel)
        _hand_on(store, channels)
    return True


def seconds_to(until: float | None) -> float | None:
    """How long until then, monotonic seconds; None: for ever."""
    return None if until is None else max(0.0, until - time.monotonic())


def _seconds(channels: Sequence[Channel], now: Now) -> float:
    """Until something is ready in one of *channels*, or has to be told that somebody is there."""
    found = math.inf
    for channel in channels:
        if state := channel.state:
            due = state.seconds_to_next(now)
            found = min(found, math.inf if due is None else due)
            if state.options.delete_when_idle is not None:
                found = min(found, state.options.delete_when_idle / 2)
    return found


def _hand_on(store: Store, channels: Sequence[Channel]) -> None:
    """What this sleeper was armed for concerns the others still."""
    now = None
    for channel in channels:
        if channel.armed and channel.state:
            now = now or store.clock.now()
            channel.rearm(channel.state.seconds_to_next(now))
    if store.asleep:
        store.watch(now or store.clock.now())
