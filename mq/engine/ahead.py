"""A loop over a queue takes its next message with the ack of this one, where an append is a round trip.

    for message in queue:     the first two rounds: an append for each delivery, one for each ack
        work(message)
        message.ack()         from then on: one append, the ack of this message and the delivery of the next

What was taken so is in flight.  It is handed out when the loop comes for it, and nothing else happened in
between, as far as the program can see:

    the thread, or task, does something else with the store    it is given back before that, and the next ack
                                                               of the loop takes none
    the loop does not come within GIVE_BACK_SECONDS            a thread gives it back; and so on
    the loop is left, or the store is closed                   it is given back
    its queue was paused, or its visibility timeout is over    it is given back, and the loop waits

Given back is released: in its place again at once, and the attempt is not counted.  Stores in files have none
of this: there a delivery costs less than it.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import get_ident
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from mq.delivery import settle
from mq.delivery.traits import Flight
from mq.engine.background import Worker
from mq.engine.channel import Channel
from mq.engine.clock import Clock
from mq.engine.commit import Committer
from mq.engine.log import Conflict
from mq.engine.together import Held, Together
from mq.engine.turn import Turn
from mq.errors import MqError

T = TypeVar("T")

PROMPT_SECONDS: Final = 0.05  # a loop that comes so soon behind an ack will do so again, most likely
GIVE_BACK_SECONDS: Final = 0.1  # what a loop does not come for, other receivers get
NO_RECEIPT: Final = -1


class Owner(Protocol):
    """The store."""

    path: str
    clock: Clock
    committer: Committer
    closed: bool
    together: Together | None
    ahead: Aheads | None
    inherited: int
    """Receipts before this one are from before a fork."""
    busy: set[int]
    """The threads that are inside an operation."""

    @property
    def turn(self) -> Turn: ...
    def must_not_wait(self) -> bool:
        """Whether this is the thread that hears the servers: it would wait for itself."""

    def let_go_if_forgotten(self) -> None:
        """Called by the thread behind each step."""


class Taken(NamedTuple):
    """A message that was delivered to a loop, and is not handed out yet."""

    id: int
    flight: Flight


class Ahead:
    """One loop over a queue.  It refers to no handle, so that a program can forget its broker."""

    def __init__(self, store: Owner, channel: Channel) -> None:
        self._store, self._channel = store, channel
        # At most one, unless an ack was cut off.  Whichever thread pops it hands it out, or gives it back.
        self._taken: deque[Taken] = deque()
        self.is_over = False  # the loop was left: nothing is taken any more
        self.is_cut_off = False  # an exception ended its last ack, which may be appended all the same
        self.is_prompt = False  # behind its last ack, it came for the next message at once
        self.since = 0.0  # monotonic seconds, of the last ack
        self.owner: object = None  # the thread, or the task, that has the message
        self._receipt = NO_RECEIPT  # of the message that was handed out, until it is acked

    # ── for the loop ───────────────────────────────────────────────────────────────

    def came(self, receipt: int, owner: object) -> None:
        """The message that has this *receipt* is handed out to *owner*."""
        self._receipt, self.owner = receipt, owner

    @contextmanager
    def acking(self, message: Held, owner: object) -> Iterator[bool]:
        """A block that acks *message*.  Whether the loop goes on behind it; so it is once for each."""
        if self._receipt != message._flight.receipt or self.owner != owner:
            yield False
            return
        self._receipt = NO_RECEIPT
        self.is_cut_off = False
        try:
            yield True
        except BaseException:
            self.is_cut_off = True
            raise
        finally:
            self.acked()

    def ack_and_take(self, message: Held) -> bool:
        """Ack *message*, and take the next one; whether that was done, and not both are to be done apart."""
        store = self._store
        if not self.is_prompt or not store.together or store.turn.mutex._is_owned():  # type: ignore[attr-defined]
            return False
        return store.together.ack_and_take(self._channel, message, self)

    def acked(self) -> None:
        """Called behind an ack of what was handed out: the loop goes on now, or does something else."""
        self.since = time.monotonic()
        if self._store.ahead:
            self._store.ahead.wait_for(self)

    def comes(self) -> bool:
        """The loop comes for its next message; whether one may have been taken.  Waits for nothing."""
        ahead = self._store.ahead
        if ahead and ahead.waiting.pop(self, False):
            self.is_prompt = time.monotonic() - self.since < PROMPT_SECONDS
        return bool(self._taken)

    def hand_out(self) -> Taken | None:
        """What was taken, if it is still to be had; else the loop receives its next message as others do."""
        store, taken = self._store, self._pop()
        if taken is None:
            return None
        with store.turn.mutex:  # and no turn: what others have appended meanwhile comes too late as it is
            is_good = self._is_good(taken)
        if is_good:
            return taken
        self._give_back(taken)
        return None

    def _pop(self) -> Taken | None:
        with suppress(IndexError):
            taken = self._taken.popleft()
            if taken.flight.receipt >= self._store.inherited:  # else this is a fork, and it is the parent's
                return taken
        return None

    def _is_good(self, taken: Taken) -> bool:
        """Called with the mutex."""
        queue = settle.current(self._channel.state, taken.id, taken.flight.receipt)
        is_in_time = taken.flight.deadline > self._store.clock.store_ms()
        return queue is not None and not queue.paused and is_in_time and not self._store.closed

    def end(self) -> None:
        """The loop is left.  Called by whichever thread drops it, perhaps in the midst of an operation.

        Where the collector of garbage finds it, that is any thread.
        """
        self.is_over = True
        store = self._store
        if store.ahead:
            store.ahead.waiting.pop(self, None)
        if not self._taken or sys.is_finalizing():
            return
        if get_ident() in store.busy or store.turn.mutex._is_owned() or store.must_not_wait():  # type: ignore[attr-defined]
            self.acked()
        else:
            self.give_back()

    # ── for those that append, and give back ───────────────────────────────────────

    def took(self, id: int, flight: Flight) -> None:
        """Called in the turn that has appended its delivery."""
        self._taken.append(Taken(id, flight))
        if self.is_over or self.is_cut_off:  # its thread, or its task, does not wait for it any more
            self.acked()

    def give_back(self) -> None:
        """What was not handed out, if there is something."""
        while taken := self._pop():
            self._give_back(taken)

    def _give_back(self, taken: Taken) -> None:
        """If that fails, or it is cut off, it comes back after its visibility timeout."""
        with suppress(MqError):
            _in_turn(self._store, partial(self._release, taken))

    def _release(self, taken: Taken) -> None:
        committer = self._store.committer
        queue = settle.current(self._channel.state, taken.id, taken.flight.receipt)
        if queue is not None:
            plan = committer.plan()
            settle.release(plan, queue, taken.id)
            committer.commit(plan)


class Aheads:
    """The loops of a store that have acked a message, and not come for the next one yet."""

    def __init__(self, store: Owner) -> None:
        self._store = store
        # Put in and popped by any thread, without a lock; the value is always True.
        self.waiting: dict[Ahead, bool] = {}
        self._looks = False  # the thread looks again by itself
        self.worker = Worker("mq-ahead", store.path, self._step, behind=store.let_go_if_forgotten)

    def loop(self, channel: Channel) -> Ahead:
        return Ahead(self._store, channel)

    def wait_for(self, loop: Ahead) -> None:
        self.waiting[loop] = True
        if not self._looks and self.worker.start():
            self._looks = True
            self.worker.ring()

    def first(self, owner: object) -> None:
        """The *owner* of a loop does something else: give back first what it took ahead."""
        for loop in list(self.waiting):
            if loop.owner == owner and self.waiting.pop(loop, False):
                loop.is_prompt = False
                loop.give_back()

    def give_back_all(self) -> None:
        """Called when the store is closed."""
        for loop in list(self.waiting):
            loop.give_back()

    def _step(self) -> None:
        """Give back what loops do not come for."""
        self.worker.nap(GIVE_BACK_SECONDS)
        late = time.monotonic() - GIVE_BACK_SECONDS
        for loop in list(self.waiting):
            if loop.is_over or loop.since < late:
                self.waiting.pop(loop, None)
                loop.is_prompt = False
                loop.give_back()
        self._looks = False
        if self.waiting:
            self._looks = True
            self.worker.ring()

    def stop(self) -> None:
        self.worker.stop()


def _in_turn(store: Any, do: Callable[[], T]) -> T:
    """Run *do* in a turn, also inside of an operation of this thread, and while the store is being closed."""
    me, busy = get_ident(), store.busy
    within = me in busy
    try:
        busy.add(me)
        while True:
            try:
                return store.turn.take_with_lock(do)  # type: ignore[no-any-return]
            except Conflict:
                continue  # decide again
    finally:
        if not within:
            busy.discard(me)
