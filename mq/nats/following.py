"""The stream, followed: one total order of messages, each checked against those before it.

    follow         what other writers appended, as it was delivered, and as far as it holds
    barrier        the last sequence, asked of the leader and waited for

What this process appends (mq/nats/log.py) it applies itself, behind all that stands before that.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from mq.delivery.records import DELIVER, RELOCATE, RELOCATE_FANOUT
from mq.delivery.runs import Stretch
from mq.delivery.state import State
from mq.errors import CorruptStore, StorageError, StoreFailed
from mq.nats import message, takes
from mq.nats.arrivals import Arrival, Arrivals
from mq.nats.connection import Connection
from mq.nats.fences import NO_MARK, NOTHING, Order
from mq.nats.message import HEAD, SHARED, TAKES, begin_of
from mq.nats.pages import Pages
from mq.nats.stand_ins import Settings
from mq.nats.stream import Stream
from mq.nats.takes import JUDGED, Spread

FENCE_MESSAGES = 256  # behind the last fence: then the next compared message is one
FENCE_BYTES = 1 << 20  # or so many bytes
KNOWN = 1024  # of the last messages the checksums are remembered
GROWN_BYTES = 1 << 20  # of messages between two looks at what is to be trimmed or kept
SHARED_TAKES = SHARED | TAKES
AGAIN = frozenset({RELOCATE, RELOCATE_FANOUT})  # both begin with the id
MESSAGE_BYTES = 150  # that a message takes in the stream beside its body


class Following:
    def __init__(
        self, connection: Connection, stream: Stream, came: Callable[[], object],
        is_awaited: Callable[[], object], *, custom_time: bool,
    ) -> None:  # fmt: skip
        """*came*: another writer has appended; called by the loop's thread, as *is_awaited*: see Arrivals.

        *custom_time*: records have the times of the program's clock, and not the stream's.
        """
        self._connection, self._stream, self._came, self._custom_time = connection, stream, came, custom_time
        self.pages = Pages(connection, stream)
        self.arrivals = Arrivals(connection, stream, self._hear, lambda: self.seq, is_awaited)
        self.owner = Settings()
        self._writer = int.from_bytes(os.urandom(8), "little")  # tells its messages from all others
        # The rest is touched in a turn only.
        self.seq = 0  # of the last message that is applied, or about to be
        self.order = NOTHING  # as of that message
        self.state = State()  # the same
        self.spread = Spread(self._writer >> takes.PROCESS_SHIFT)
        self._unknown_below = 0  # ids before that may be of messages that were trimmed before they were read
        self._known_again: set[int] = set()  # of those, the ids of the messages that were written again
        self._checksums: deque[tuple[int, int]] = deque(maxlen=KNOWN)  # of the last messages, with their seqs
        self.apply_up_to: Callable[[int], object] = int  # the state's, given an end
        self._is_torn = False  # the state is to be read anew, though this process has appended to the log
        self._begin_bytes = 0  # what `taken_in` was at the last fence
        self._fence_at = 0.0  # messages behind that: a publish becomes one, if no other append has
        self.end = self.last_ms = self.head = 0
        self._appends = False  # the loop's thread looks, too: what comes is this process's own, perhaps
        self._grown = 0
        self.taken_in = 0  # bytes of messages, appended and followed
        self.bytes = 0  # of the stream, as it was last asked

    # ── where it is ────────────────────────────────────────────────────────────────

    def start(self, order: Order, state: State, *, is_trimmed: bool = False) -> None:
        """Follow the messages behind the last one of *order*, as of which *state* is.

        *is_trimmed*: what was published before is not known.
        """
        self.order, self._checksums = order, deque([order.last], KNOWN)
        self.state = state
        self.seq, _ = order.last
        self._unknown_below = begin_of(self.seq + 1) if is_trimmed else 0
        self._known_again = set()
        self._is_torn = False
        self.head = self.end = begin_of(self.seq + 1)
        self._begin_bytes, self._fence_at = self.taken_in, float(FENCE_MESSAGES)
        self.arrivals.begin(self.seq)

    @property
    def known_end(self) -> int:
        """Up to where whole groups have come, from whichever writer."""
        return max(self.arrivals.end, self.end)

    def barrier(self) -> int:
        """The end as of now, asked of the leader; all before it has come."""
        last = self._stream.range_up_to(self.seq, "this process has read on").last
        if last > self.seq:
            self.arrivals.wait(last)
        return self.known_end  # of whole groups: the rest of one may be on its way

    def _hear(self) -> None:
        if not self._appends and self.arrivals.last > self.seq:  # else it is this process's own
            self._came()

    # ── applying ───────────────────────────────────────────────────────────────────

    def _apply_before(self, seq: int) -> None:
        """What stands before the message *seq*, which this process has appended, is applied."""
        if seq <= self.seq:
            raise self._stream.corrupt(
                f"lost: the stream ends at {seq - 1}, and this process has read on", self.seq
            )
        if seq > self.seq + 1:
            try:
                self.arrivals.wait(seq - 1)
                self.apply_up_to(begin_of(seq))
            except CorruptStore:
                raise
            except StorageError as error:
                raise StoreFailed(
                    self._stream.path,
                    f"message {seq} was stored, and what stands before it does not come: {error}",
                ) from error

    def _go_on(self, seq: int, head: message.Head) -> bool:
        """The message *seq* is the next one; whether it holds."""
        fence = self.order.fence
        self.order, holds = self.order.behind(seq, head)
        self.seq = seq
        self._checksums.append((seq, head.crc))
        if self.order.fence is not fence:
            self._begin_bytes = self.taken_in
            self._fence_at = FENCE_MESSAGES * (1 + random.random())  # not all publishers at once
        return holds

    def _is_fence_due(self) -> bool:
        """Whether the stream may be cut nowhere near."""
        behind, grown = self.seq - self.order.fence[0], self.taken_in - self._begin_bytes
        return behind >= FENCE_MESSAGES or grown > FENCE_BYTES

    def _is_fence_overdue(self) -> bool:
        """The same, as nothing is shared behind that: later, and not for all processes at once."""
        seq, _ = self.order.fence
        grown = self.taken_in - self._begin_bytes
        return not seq or self.seq - seq > self._fence_at or grown > FENCE_BYTES

    # ── what others appended ────────────────────────────────────────────────────────

    def follow(self, upto: int, enough: int = 0, /) -> Iterator[Stretch]:
        """What has come, up to *upto*; all of it, whatever is *enough*."""
        if self._is_torn:
            raise FileNotFoundError
        waiting = self.arrivals.waiting
        while self.end < upto and waiting:
            arrival = waiting.popleft()
            if arrival.seq > self.seq:
                yield from self._follow_group(arrival)

    def _follow_group(self, first: Arrival) -> Iterable[Stretch]:
        """The records of a message, and of the parts that belong to it, if it holds."""
        (head, holds), last = self._take(first), first
        stretches: list[Stretch] = []
        if head.parts > 1:
            parts = deque([first])
            while head.part < head.parts:
                following = self.arrivals.waiting.popleft()
                if following.seq > self.seq:
                    last = following
                    head, holds = self._take(last)
                    parts.append(last)
            while parts and holds:
                stretches.append(self._stretch_of_parts(parts))
        elif holds:
            stretch = self._stretch(first.seq, first.data)
            is_judged = head.flags & SHARED_TAKES == SHARED_TAKES
            stretches.append(self._judged(stretch, head) if is_judged else stretch)
        self.end = begin_of(last.seq + 1)
        if self._unknown_below:
            self._note_again(stretches)
        if holds:
            self.last_ms = max(self.last_ms, head.time_ms, 0 if self._custom_time else last.time_ms)
        return stretches

    def _note_again(self, stretches: Iterable[Stretch]) -> None:
        """The messages that were written again are known from now on, also once they are gone."""
        for positions, labels, _, data, begin, _ in stretches:
            for position, label in zip(positions, labels, strict=True):
                if label & 0xFF in AGAIN:
                    id = takes.id_of(data, position - begin)
                    if id < self._unknown_below:
                        self._known_again.add(id)

    def _stretch_of_parts(self, parts: deque[Arrival]) -> Stretch:
        """The records of the first of *parts*, the last of which may go on in those behind it."""
        first = parts.popleft()
        pieces, missing = [first.data], message.missing(first.data)
        while missing > 0 and parts:
            pieces.append(parts.popleft().data)
            missing -= len(pieces[-1]) - HEAD.size
        return self._stretch(first.seq, message.join(pieces))

    def _take(self, arrival: Arrival) -> tuple[message.Head, bool]:
        """Check that the message follows the last one, and is whole; and whether it holds."""
        seq = arrival.seq
        if seq != self.seq + 1:
            if self._stream.is_trimmed(self.seq + 1, seq):
                raise FileNotFoundError  # the whole state is read anew
            raise self._stream.corrupt(f"missing: {seq} comes behind {self.seq}", self.seq + 1)
        try:
            head = message.check(arrival.data, self._stream.seed, arrival.head)
        except message.Damaged as error:
            raise self._stream.corrupt(str(error), seq) from error
        order = self.order
        holds = self._go_on(seq, head)
        if not head.flags & SHARED and order.compared != NO_MARK:
            mark = order.compared if head.part == 1 else (0, order.compared[1])
            if head.mark != mark:
                raise self._stream.corrupt(
                    f"it was appended behind {head.mark}, and {mark} is before it", seq
                )
        if holds and not self._is_known(head.known):
            raise self._stream.corrupt(f"its writer knew {head.known}, which is another message here", seq)
        self.pages.keep(seq, arrival.data)
        self._grow(len(arrival.data))
        return head, holds

    def _is_known(self, mark: tuple[int, int]) -> bool:
        """Whether this process has read the same message there, as far as it remembers."""
        seq, crc = mark
        index = seq - self.seq - 1  # from the end, of what follows without a gap
        if not crc or -index > len(self._checksums):
            return True
        return self._checksums[index] in ((seq, crc), (seq, 0))

    def _stretch(self, seq: int, data: bytes) -> Stretch:
        try:
            return (*message.outline(seq, data), data, begin_of(seq), 0)
        except message.Damaged as error:
            raise self._stream.corrupt(str(error), seq) from error

    def _judged(self, stretch: Stretch, head: message.Head) -> Stretch:
        """Those of its records that hold: see takes.py."""
        positions, labels, lengths, data, begin, _ = stretch
        known, state, void = head.known[0], self.state, set[int]()
        for index, label in enumerate(labels):
            kind = label & 0xFF
            if kind not in JUDGED:
                continue
            number, at = label >> 16, positions[index] - begin
            id = takes.id_of(data, at)
            if takes.holds(state, kind, number, id, known, head.time_ms):
                if kind == DELIVER:
                    self.spread.took(number, head.writer >> takes.PROCESS_SHIFT)
            elif id >= self._unknown_below or id in self._known_again:
                void.add(index)  # else all that it says is that it is counted
        if void:
            kept = [index for index in range(len(labels)) if index not in void]
            positions, labels, lengths = ([column[at] for at in kept] for column in stretch[:3])
        return positions, labels, lengths, data, begin, 0

    # ── how far the log has grown ──────────────────────────────────────────────────

    def _grow(self, size: int) -> None:
        size += MESSAGE_BYTES
        self._grown += size
        self.taken_in += size
        self.bytes += size
        if self._grown >= GROWN_BYTES:
            self._grown = 0
            self.owner.grown()
