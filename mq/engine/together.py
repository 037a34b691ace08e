"""Publishes and acks that wait for the turn of another thread are appended together.

For a log on other computers an append is a round trip, and only one is under way at a time.  So what threads
and tasks ask for meanwhile waits, and goes in the next append, as one group.

    thread, task ──► waiting ──► the leader: one turn, one append ──► each caller is told
                                     │
                                     └ the first that still waits leads next

Only what needs no plan goes this way: a publish that is nothing but a body, and an ack, which may take the
next message for a loop (mq/engine/ahead.py).  Each is decided by itself, in that turn, against the state as
it is then.  None of them changes what another one is allowed, but no two take the same message.  The others,
and what a full disk refuses, are given back to their callers, which go their own way.

A file log needs none of this: threads there share the sync, and not the append (mq/storage/commit.py).
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any, Final, NamedTuple, Protocol

from mq.delivery import records
from mq.delivery.now import Now
from mq.delivery.records import ACK, DELIVER, PUBLISH, Draft
from mq.delivery.traits import PLAIN, Flight
from mq.engine.bodies import More
from mq.engine.channel import Channel
from mq.engine.clock import Clock
from mq.engine.commit import Committer
from mq.engine.log import Spread
from mq.engine.operation import nested
from mq.engine.replica import Replica
from mq.engine.turn import Turn
from mq.engine.waiters import Waiters
from mq.errors import DiskFull, StoreFailed

PART_BYTES: Final = 512 << 10  # of bodies in one append: one message of a stream has room for them
PART_MAX: Final = 4096  # of them
CUT_OFF: Final = (
    "the append was cut off, so the outcome is unknown: it is there whole, or will be, or not at all; publish"
    " again with the same dedup_id"
)


class Owner(Protocol):
    """The store."""

    path: str
    busy: set[int]
    """The threads that are inside an operation."""
    waiters: Waiters

    def finish_publish(self, end: int) -> None:
        """What a publish owes before it returns."""


class Held(Protocol):
    """A delivery: see mq/engine/handle.py, which knows the store."""

    id: int
    raw: bytes
    _flight: Flight
    _more: More | None
    _settled: bool


class Taker(Protocol):
    """A loop over a queue: see mq/engine/ahead.py."""

    is_over: bool
    """It was left, and takes nothing."""

    def took(self, id: int, flight: Flight) -> None:
        """This is its next message."""


class Caller(Protocol):
    """What waits: a thread, or the tasks of an event loop."""

    def tell(self, done: list[Pending]) -> None:
        """These have an outcome; called by the leader."""

    def lead(self) -> None:
        """No thread leads: one of this caller's is to; called with the gate, so it does not wait."""


# ── what is to be appended ─────────────────────────────────────────────────────────


class Decided(NamedTuple):
    """What an append does, as far as that is decided."""

    settled: set[int]  # receipts
    taken: defaultdict[Channel, set[int]]  # messages of each
    spread: Spread | None


class Pending(ABC):
    """What one caller wants to have appended."""

    caller: Caller
    size = 0  # bytes of its body
    result: Any = None  # None: nothing was appended, and the caller goes its own way
    error: BaseException | None = None
    future: Any = None  # of the task that waits, if it is one

    @abstractmethod
    def drafts(self, now: Now, decided: Decided) -> list[Draft]:
        """The records, decided now, in a turn; none: it needs a plan.  *decided*: of this append."""

    @abstractmethod
    def apply(self, positions: Sequence[int]) -> None:
        """The records stand there; one that does not hold, at 0."""

    @abstractmethod
    def announce(self, arrived: Counter[Channel], now: Now) -> None:
        """Wake the receivers that it concerns, or count what *arrived*; when all is applied."""

    def outcome(self) -> Any:
        """What the caller returns, or raises."""
        if self.error is not None:
            raise copy.copy(self.error) from self.error  # it is raised in several threads
        return self.result


class Publication(Pending):
    """A message that is nothing but a body; the result is its id."""

    def __init__(self, channel: Channel, flags: int, raw: bytes) -> None:
        self._channel, self._flags, self._raw, self.size = channel, flags, raw, len(raw)

    def drafts(self, now: Now, decided: Decided) -> list[Draft]:
        state = self._channel.state
        if state is None or state.publish_needs_plan:
            return []
        self._state = state
        return [(PUBLISH, self._flags, state.number, self._raw)]

    def apply(self, positions: Sequence[int]) -> None:
        (id,) = positions
        self._state.publish(id, self.size)
        self.result = id

    def announce(self, arrived: Counter[Channel], now: Now) -> None:
        arrived[self._channel] += 1


class Ack(Pending):
    """A delivery is done; the result is True."""

    def __init__(self, channel: Channel, message: Held) -> None:
        self._channel, self._message = channel, message
        self._bytes = message._more.size if message._more else len(message.raw)

    def drafts(self, now: Now, decided: Decided) -> list[Draft]:
        state, id, receipt = self._channel.state, self._message.id, self._message._flight.receipt
        if state is None or receipt in decided.settled:
            return []
        flight = state.flights.near.get(id) or state.flights.get(id)
        if flight is None or flight.receipt != receipt:
            return []
        decided.settled.add(receipt)
        self._state, self._is_awaited = state, flight.traits is not PLAIN
        return [(ACK, 0, state.number, records.ACK_PAYLOAD.pack(id, self._bytes))]

    def apply(self, positions: Sequence[int]) -> None:
        if positions[0]:
            self._state.ack(self._message.id, self._bytes)
            self._message._settled = self.result = True

    def announce(self, arrived: Counter[Channel], now: Now) -> None:
        if self.result and (self._is_awaited or self._state.acks_awaited):
            self._channel.hand_on(now)  # the next of its group, or a publisher
            self._channel.freed()


class AckAndTake(Ack):
    """The same, and the next message is delivered, if one is ready, and nothing but its turn has come.

    The next one as of before the ack: as if a receiver had taken it just before.
    """

    def __init__(self, channel: Channel, message: Held, taker: Taker) -> None:
        super().__init__(channel, message)
        self._taker = taker

    def drafts(self, now: Now, decided: Decided) -> list[Draft]:
        found = super().drafts(now, decided)
        self._next = self._find_next(now, decided) if found else None
        if self._next is not None:
            decided.taken[self._channel].add(self._next)
            state = self._state
            self._deadline = now.store + int(state.options.visibility_timeout * 1000)
            payload = records.DELIVER_PAYLOAD.pack(self._next, self._deadline)
            found.append((DELIVER, 0, state.number, payload))
        return found

    def _find_next(self, now: Now, decided: Decided) -> int | None:
        """The first that is not taken; one that timed out, a receiver takes."""
        state, taken = self._state, decided.taken[self._channel]
        if self._taker.is_over or state.paused or state.delivery_needs_plan:
            return None
        ids = state.heads(now, len(taken) + 1) if taken else [state.head(now)]
        id = next((each for each in ids if each is not None and each not in taken), None)
        if id is None or id in state.flights:
            return None
        return decided.spread.pick(state, id, taken) if decided.spread else id

    def apply(self, positions: Sequence[int]) -> None:
        super().apply(positions)
        if self._next is None or not positions[1]:
            self._next = None
            return
        flight = self._state.deliver(self._next, positions[1], self._deadline, 0)
        assert flight, "a message that was next was not there"
        self._taker.took(self._next, flight)

    def announce(self, arrived: Counter[Channel], now: Now) -> None:
        super().announce(arrived, now)
        if self._next is not None and self._channel.armed:
            self._channel.taken(now)


# ── appending it ───────────────────────────────────────────────────────────────────


class Thread:
    """A thread that waits in `Together.do`."""

    def __init__(self) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()
        self.is_told = self.leads = False

    def tell(self, done: list[Pending]) -> None:
        self.is_told = True
        self.bell.release()

    def lead(self) -> None:
        self.leads = True
        self.bell.release()


class Together:
    def __init__(
        self, store: Owner, turn: Turn, replica: Replica, clock: Clock, committer: Committer
    ) -> None:  # fmt: skip
        self._store, self._turn, self._replica = store, turn, replica
        self._clock, self._committer = clock, committer
        self._gate = threading.RLock()  # of the next two; a signal's handler may come while it is held
        self._waiting: deque[Pending] = deque()
        self._is_led = False  # a thread appends, and comes by for what waits

    def publish(self, channel: Channel, flags: int, raw: bytes) -> int | None:
        """See `hot.publish`; called if other threads are inside operations."""
        return None if channel.publish_needs_plan else self._do(Publication(channel, flags, raw))

    def ack(self, channel: Channel, message: Held) -> bool:
        """Whether it is done; else see `hot.ack`."""
        return bool(self._do(Ack(channel, message)))

    def ack_and_take(self, channel: Channel, message: Held, taker: Taker) -> bool:
        """The same; *taker* is told of the next message, if one is taken."""
        return bool(self._do(AckAndTake(channel, message, taker)))

    def _do(self, pending: Pending) -> Any:
        me, busy = get_ident(), self._store.busy
        if me in busy:
            raise nested()
        thread = Thread()
        try:
            busy.add(me)
            self.add(pending, thread)
            thread.bell.acquire()
            if not thread.is_told:
                self._lead(thread)
        except BaseException:
            self._withdraw(pending, thread)
            raise
        finally:
            busy.discard(me)
        return pending.outcome()

    def add(self, pending: Pending, caller: Caller) -> None:
        """Have it appended, and the *caller* told."""
        pending.caller = caller
        with self._gate:
            self._waiting.append(pending)
            if not self._is_led:
                self._is_led = True
                caller.lead()

    def _withdraw(self, pending: Pending, thread: Thread) -> None:
        """The thread was interrupted; what is on its way already may be stored."""
        with self._gate, suppress(ValueError):
            self._waiting.remove(pending)
        if thread.leads:
            self._hand_on()

    def lead(self) -> None:
        """Append what waits, until nothing does: in a thread that has nothing else to do."""
        me, busy = get_ident(), self._store.busy
        try:
            busy.add(me)
            self._lead(Thread())
        finally:
            busy.discard(me)

    def _lead(self, thread: Thread) -> None:
        """Append what waits, until this *thread* is told, or nothing waits."""
        try:
            thread.leads = False  # from here on, this is what hands on
            self._append_all(thread)
        finally:
            self._hand_on()

    def _append_all(self, thread: Thread) -> None:
        while self._append() and not thread.is_told:
            pass

    def _hand_on(self) -> None:
        """The caller that has waited longest leads."""
        with self._gate:
            self._is_led = bool(self._waiting)
            if self._is_led:
                self._waiting[0].caller.lead()

    def _append(self) -> bool:
        """Append what waits, in one group; whether anything waited."""
        part: list[Pending] = []
        try:
            self._store.finish_publish(self._turn.take(partial(self._append_part, part)))
        except DiskFull:
            pass  # the plan makes way, perhaps
        except Exception as error:  # noqa: BLE001  # it is the callers'
            self._fail(part, error)
        except BaseException:
            self._fail(part, StoreFailed(self._store.path, CUT_OFF))
            raise
        finally:
            tell(part)
        return bool(part)

    def _append_part(self, part: list[Pending]) -> int:
        """Where the log ends then; called in a turn, and again after a Conflict."""
        replica, now = self._replica, self._clock.now()
        if now.store >= replica.state.board.next:
            self._committer.do_due()
        self._take_what_waits(part)
        so_far = Decided(set(), defaultdict(set), replica.log.spread)
        decided = [(each, drafts) for each in part if (drafts := each.drafts(now, so_far))]
        if decided:
            group = [draft for _, drafts in decided for draft in drafts]
            positions = iter(replica.log.append_group(now.store, group, atomic=False))
            for each, drafts in decided:
                each.apply([next(positions) for _ in drafts])
            replica.applied = replica.log.end
            self._announce([each for each, _ in decided])
        return replica.log.end

    def _announce(self, done: Iterable[Pending]) -> None:
        now, waiters = self._clock.now(), self._store.waiters
        announce(done, now)
        if waiters.asleep:
            waiters.watch(now)

    def _take_what_waits(self, part: list[Pending]) -> None:
        """Put it into *part*, as far as there is room."""
        with self._gate:
            move(self._waiting, part)

    def _fail(self, part: list[Pending], error: Exception) -> None:
        """All that has no result yet has failed; if it never came to an append, all that waits."""
        if not part:
            self._take_what_waits(part)
        for each in part:
            if each.result is None:
                each.error = error


def move(waiting: deque[Pending], part: list[Pending]) -> None:
    """The first few that are waiting, as many as fit into *part*, and one in any case."""
    size = sum(each.size for each in part)
    while waiting and len(part) < PART_MAX and (not part or size + waiting[0].size <= PART_BYTES):
        size += waiting[0].size
        part.append(waiting.popleft())


def announce(done: Iterable[Pending], now: Now) -> None:
    arrived: Counter[Channel] = Counter()
    for each in done:
        each.announce(arrived, now)
    for channel, count in arrived.items():
        channel.wake(count)


def tell(part: list[Pending]) -> None:
    """Each caller of *part* what is done of its own."""
    by_caller: dict[Caller, list[Pending]] = {}
    for each in part:
        by_caller.setdefault(each.caller, []).append(each)
    for caller, done in by_caller.items():
        caller.tell(done)
