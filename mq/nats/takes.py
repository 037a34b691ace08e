"""Deliveries and settlements without a comparison: which of them hold, and which message is taken.

    DELIVER of one message      holds if that is ready at its place: it waits, is in no group, its delay is
                                over, its time to live is not, and it has an attempt left
    ACK, NACK, RELEASE, EXTEND  holds if it is in flight there, and was not delivered again behind what the
    of one message              writer knew; but for ACK, only if it is in no group, and has not timed out

So of several processes that take one message, the first in the stream has it.  Each record is judged by what
stands before its message, about the one message that it names, and about no other.  What is not like that
(batches, groups, what has timed out) is compared.

Several processes would all take the first message, and all but one in vain.  Once that has happened, each of
them takes those of the first few that are its own: `Spread`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

from mq.delivery import records
from mq.delivery.moment import SCATTER
from mq.delivery.queue import QueueState
from mq.delivery.records import ACK, DELIVER, EXTEND, NACK, PUBLISH, RELEASE, Draft
from mq.delivery.state import State
from mq.nats.message import WORD, begin_of

SETTLES: Final = frozenset({ACK, NACK, RELEASE, EXTEND})
JUDGED: Final = SETTLES | {DELIVER}
ID_BYTES: Final = 8
REMEMBERED: Final = 64  # deliveries of a queue, with the process that made each
OFTEN: Final = 10  # so much does a process put up with before it spreads:
MISS: Final = 4  # for each delivery in vain; one that is not takes one away
WARM: Final = 64  # deliveries of this process, after one was in vain, which are spread
WINDOW: Final = 4  # messages that are looked at, for each process that takes
WINDOW_MAX: Final = 64  # of them
QUEUES_MAX: Final = 256  # of which is known which processes take from them
PROCESS_SHIFT: Final = 32  # of a writer's number: what is above stays the same, nearly always
SHARE_SHIFT: Final = 40  # of a scattered id: what is above says whose it is


def id_of(payload: bytes, at: int = 0) -> int:
    """The message that a record names: all these payloads begin with that."""
    return int.from_bytes(payload[at : at + ID_BYTES], "little")


def holds(state: State, kind: int, number: int, id: int, known: int, time_ms: int) -> bool:
    """Whether a record of a kind in JUDGED holds, about message *id* of queue *number*.

    *state*: as of the message that it stands in, which is of *time_ms*.  *known*: the last sequence that its
    writer knew.
    """
    queue = state.queues.get(number) or state.queue(number)  # which loads what a checkpoint holds of it
    if queue is None:
        return False
    if kind == DELIVER:
        return id == queue.waiting.head or queue.is_ready(id, time_ms)
    flight = queue.flights.near.get(id) or queue.flights.get(id)
    if flight is None or flight.receipt >= begin_of(known + 1):
        return False
    return kind == ACK or (flight.traits.group is None and flight.deadline > time_ms)


def may_share(state: State, drafts: Iterable[Draft], known: int, now_ms: int) -> bool:
    """Whether all of *drafts* hold as far as this process knows, and may go without a comparison."""
    return all(
        flags in records.PLAIN_FLAGS
        if kind == PUBLISH
        else _is_one(kind, flags, len(payload)) and holds(state, kind, number, id_of(payload), known, now_ms)
        for kind, flags, number, payload in drafts
    )


def _is_one(kind: int, flags: int, length: int) -> bool:
    """Whether such a record is judged, and about one message."""
    if kind == DELIVER:
        return not flags and length == records.DELIVER_PAYLOAD.size
    return kind in SETTLES and (kind != ACK or length == records.ACK_PAYLOAD.size)


class Takers:
    """The processes that have taken messages of a queue lately."""

    def __init__(self) -> None:
        self.recent: deque[int] = deque(maxlen=REMEMBERED)
        self.misses = 0
        self.warm = 0  # so many deliveries of this process are spread


class Spread:
    """Which message of a queue this process takes next, where others take from it at the same time.

    As long as few take in vain, that is the first one.  Then each process has its own share of the first
    few, by a hash of the id.  So a message is overtaken by some dozens of others at the most, and only where
    several processes take from its queue all the time.
    """

    def __init__(self, me: int) -> None:
        self.me = me
        self._takers: dict[int, Takers] = {}  # by the number of the queue

    def took(self, number: int, process: int) -> None:
        """A delivery of queue *number* holds."""
        takers = self._takers.get(number)
        if takers is None:
            takers = self._takers[number] = Takers()
            if len(self._takers) > QUEUES_MAX:
                del self._takers[next(iter(self._takers))]  # the one that is known for longest
        takers.recent.append(process)
        if process == self.me:
            takers.misses = max(0, takers.misses - 1)
            takers.warm = max(0, takers.warm - 1)

    def met(self, number: int) -> None:
        """A delivery of this process was in vain: another one has taken the same message."""
        if takers := self._takers.get(number):
            takers.misses += MISS
            if takers.warm or takers.misses >= OFTEN:
                takers.misses, takers.warm = 0, WARM

    def pick(self, queue: QueueState, id: int, taken: Collection[int] = ()) -> int:
        """The message to take instead of *id*, which is the next one; *taken*: these are not to be had."""
        takers = self._takers.get(queue.number)
        if not takers or not takers.warm:
            return id
        lane = queue.lane_of(id)
        if lane is None or lane.head != id:
            return id
        processes = sorted({*takers.recent, self.me})
        count, mine = len(processes), processes.index(self.me)
        for each in lane.first(min(WINDOW * count, WINDOW_MAX)):
            if share_of(each, count) == mine and each not in taken:
                return each
        return id


def share_of(id: int, count: int) -> int:
    """Which of *count* processes takes the message *id*."""
    return (id * SCATTER % WORD >> SHARE_SHIFT) % count
