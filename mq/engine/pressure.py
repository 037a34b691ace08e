"""A full disk: what it takes to drain it, what is therefore kept back, and when cleaning pays.

What a message takes in the log once it is there, in bytes:

    a delivery, 40, and an ack, 36        76, and with several in one record less
    written again by the cleaner          its body, and up to 96

    the reserve            ◄────────── whole ──────────►
    ┌──────────┬───────────┬────────────┬───────────────┐
    │ acks, 36 │ first     │ redelivery │ crashes, new  │   a publish       leaves all of it
    │ each     │ delivery  │ 24 each    │ segments, 1   │   copies, nacks   leave 76 each, and some
    │          │ 40 each   │            │ MiB for all   │   a delivery      leaves 36 each, and little
    └──────────┴───────────┴────────────┴───────────────┘   an ack          leaves nothing

So whatever else is done on a full disk, for each message that is still there the room for its
delivery and its ack is there as well: settling it takes that room, and needs it no more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from mq.delivery import records
from mq.delivery.calendar import OVERHEAD_BYTES, Entry
from mq.delivery.queue import QueueState
from mq.delivery.state import State
from mq.storage import record
from mq.storage.room import GRANT_BYTES

SETTLED_BYTES: Final = 76  # a delivery and an ack
ACKED_BYTES: Final = 36
AGAIN_BYTES: Final = 24  # for each message, so that some can be delivered again, nacked or moved
RESERVE_BYTES: Final = 1 << 20  # kept back however few messages there are
LEFT_BYTES: Final = 192 << 10  # of that, for new segments and for what crashes leave
LEAST_BYTES: Final = 64 << 10  # of that, when there is nothing left but to ack
UNSEEN: Final = GRANT_BYTES // record.HEADER_BYTES + 1  # messages, before the reserve is looked at again
FANOUT_BYTES: Final = record.HEADER_BYTES + 8  # of a fan-out at least, and 2 for each queue

FREEING: Final = frozenset({
    record.FENCE, record.CLOSED, record.HEAD, records.ACK, records.DROP, records.PURGE, records.DELETE,
    records.UNSCHEDULE,
})  # fmt: skip
DELIVERING: Final = FREEING | {records.DELIVER, records.RENEW}

ALWAYS_BYTES: Final = 2 * record.HEADER_BYTES  # about what cleaning writes if nothing lives there
GAIN: Final = 2  # a segment is cleaned if it takes at least so many times what is written again for it
LOOKED_AT_MAX: Final = 256  # messages whose size is read; of more the average is taken
SizeOf = Callable[[QueueState, int], int]


def kept(state: State, kinds: Collection[int], count: int) -> tuple[int, int]:
    """Of an append of these *kinds*, *count* records: see `mq.storage.owner.Kept`."""
    total = state.total()
    each = 1 if records.FANOUT not in kinds else len(state.routes)
    coming = (0 if records.NEW.isdisjoint(kinds) else count * each) + _unseen(len(state.routes))
    whole = max(RESERVE_BYTES, LEFT_BYTES + coming * SETTLED_BYTES) + total * (SETTLED_BYTES + AGAIN_BYTES)
    if FREEING.issuperset(kinds):
        return whole, 0
    if DELIVERING.issuperset(kinds):
        return whole, LEAST_BYTES + total * ACKED_BYTES
    return whole, least_for_copies(total)


def _unseen(subscribers: int) -> int:
    """How many messages may come before the reserve is looked at again: plain ones, or fanned out.

    *subscribers*: how many queues get what is published to topics.
    """
    fanned_out = GRANT_BYTES * subscribers // (FANOUT_BYTES + 2 * subscribers) + subscribers
    return max(UNSEEN, fanned_out)


def least_for_copies(total: int) -> int:
    """How much of the reserve the cleaner leaves, if there are *total* messages."""
    return LEFT_BYTES + total * SETTLED_BYTES


def cost_of(state: State, size_of: SizeOf, base: int, limit: int) -> int:
    """About how many bytes are written again if [*base*, *limit*) of the log is cleaned."""
    count = cost = 0
    for part in state.look_within(base, limit):
        for queue, what in part:
            if isinstance(what, Entry):
                cost += what.size + OVERHEAD_BYTES
            elif not isinstance(what, int):
                cost += records.DECLARATION_BYTES
            else:
                count += 1
                if count <= LOOKED_AT_MAX:
                    holders = state.board.shared.holders(what)
                    if not holders or holders[0] == queue.number:  # a shared body is written once
                        cost += size_of(queue, what)
                    cost += records.MESSAGE_OVERHEAD_BYTES
    if count > LOOKED_AT_MAX:
        cost = max(cost, count * state.live_bytes() // max(1, state.total()))
    return cost


def pays(used: int, cost: int, garbage: int, live: int) -> bool:
    """Whether cleaning the oldest segment, of *used* bytes, gives more room than it takes.

    Or leads there: *garbage* in all segments is more than what lives in all of them.
    """
    return used >= GAIN * cost + ALWAYS_BYTES or garbage > live + GRANT_BYTES
