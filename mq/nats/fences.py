"""Which messages of the stream hold.  No I/O; see FORMAT.md §11.

    compared   appended only if the last compared one is the one that its writer knew.  It holds, unless it
               takes, and a shared one that takes stands between what its writer knew and it
    fence      a compared one behind which nothing shared holds that was decided before it
    hold       a fence behind which nothing shared holds at all, until the next fence
    shared     appended whatever is there.  It names the last fence that its writer knew, and holds if that is
               the last one at its place, and no hold

    takes      it says something about deliveries.  Of a shared one each record is judged by itself (takes.py)

             fence A     shared: A       compared      fence B     shared: A     shared: B
    ───────────┼────────────┼───────────────┼─────────────┼────────────┼────────────┼─────►
                          holds                                     does not      holds

So what is about one message needs no comparison: what could change for it is said in a fence, or about that
message.  All that follow the stream judge alike, and so does a process that begins at a fence that `may_cut`:
what it has not read is behind no message.  A message that knew one behind itself does not hold: the stream
lost its end, and went on.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mq.delivery import records
from mq.nats.message import FENCE, HOLD, SHARED, TAKES, Head

Mark = tuple[int, int]  # sequence and checksum of a message
NO_MARK: Final = (0, 0)

UNAFFECTED: Final = frozenset(
    {
        records.PUBLISH, records.FANOUT, records.DELIVER, records.ACK, records.NACK, records.RELEASE,
        records.EXTEND, records.MOVE, records.DROP, records.RELOCATE, records.RELOCATE_FANOUT,
    }
)  # fmt: skip
"""Kinds that are decided alike whatever plain publishes stand in between, and after which those are right.

They are about messages that their writer knew, or bring one to a queue that takes no shared ones if it counts
them.  All others are fences, and nothing shared may stand between them and what they were decided on.
"""

ARRIVALS: Final = frozenset({records.PUBLISH, records.FANOUT})
"""Kinds that are decided alike whatever is delivered and acked in between: that only makes room."""


class Order(NamedTuple):
    """What a process knows, once it has read up to `last`."""

    last: Mark
    compared: Mark
    fence: Mark
    held: bool
    taken: int  # sequence of the last shared message that takes, and holds; 0: none is known

    def behind(self, seq: int, head: Head) -> tuple[Order, bool]:
        """The same, once the message *seq*, which is the next one, is read; and whether that one holds."""
        this, flags, taken = (seq, head.crc), head.flags, self.taken
        known, _ = head.known
        is_late = known > seq - head.part
        if flags & SHARED:
            holds = head.mark == self.fence and not self.held and not is_late
            if holds and flags & TAKES:
                taken = seq
            return Order(this, self.compared, self.fence, self.held, taken), holds
        holds = not is_late and not (flags & TAKES and known < taken)
        if is_late or not flags & (FENCE | HOLD):
            return Order(this, this, self.fence, self.held, taken), holds
        return Order(this, this, this, bool(flags & HOLD), taken), holds


def may_cut(seq: int, head: Head) -> bool:
    """Whether the stream may begin at the message *seq*: it is a fence, and holds whatever is before it.

    A fence that takes does not hold if a shared one that takes stands between what its writer knew and it.  A
    process that begins there cannot know that.  So there may be nothing in between.
    """
    if not head.flags & (FENCE | HOLD) or head.part != 1:
        return False
    known, _ = head.known
    return known == seq - 1 or (known < seq and not head.flags & TAKES)


NOTHING: Final = Order(NO_MARK, NO_MARK, NO_MARK, False, 0)
