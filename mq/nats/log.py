"""The log on a stream: one total order, in which each append names what it was decided on.

    append         a message, if the last compared one is the one that this process knows: else Conflict.
                   What stands in between is shared, and is applied before it
    append_plain   plain publishes, without that: they hold unless a fence stands in between (fences.py),
                   and that is a Conflict, too
    follow         what other writers appended, as it was delivered
    barrier        the last sequence, asked of the leader and waited for

Nothing is applied before the server has said that a majority has it.  An append whose outcome is open
(mq/nats/sending.py) leaves the log usable: if the message is stored, it is followed as another writer's is.

A fence is compared with all messages, so no plain publish comes between it and what it was decided on.
Beside publishers that never wait that seldom succeeds: it is tried once, and then a hold asks for the way.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set

from mq.delivery import records
from mq.delivery.runs import Stretch
from mq.engine.log import Conflict
from mq.errors import CorruptStore, DiskFull, StorageError, StoreFailed, UsageError
from mq.forks import Lock
from mq.nats import message
from mq.nats.arrivals import Arrival, Arrivals
from mq.nats.connection import REQUEST_SECONDS, Connection
from mq.nats.fences import NOTHING, UNAFFECTED, Order
from mq.nats.message import FENCE, HEAD, HOLD, RECORD, SHARED, WORD, Draft, Encoded, begin_of, place_of
from mq.nats.pages import AT_ONCE, Pages
from mq.nats.reading import Reading
from mq.nats.sending import Compared, Sending, Unsure
from mq.nats.stand_ins import Nothing, Part, Settings, Unfailing
from mq.nats.stream import Stream
from mq.storage.reader import Stored

STAND_BACK = 2.0  # at most so many times as long as an append takes, for each time in a row
BEATEN_MAX = 8  # of those
SECONDS_MAX = 0.02  # an append that takes longer is not counted as one that does
GROUP_BYTES_MAX = 256 << 20
FENCE_MESSAGES = 256  # behind the last fence: then the next compared message is one
FENCE_BYTES = 1 << 20  # or so many bytes
HELD_MAX = 32  # messages behind a hold, whose writer has said what it wanted to long since, or died
FALLEN_MAX = 6  # the more shared messages in a row do not hold, the more publishes are compared, up to 2^6
KNOWN = 1024  # of the last messages the checksums are remembered
EMPTY = Encoded([b""], [])
UNKNOWN = "no answer from NATS, so the outcome is unknown; publish again with the same dedup_id"
TRIMMED = "the stream was trimmed meanwhile, so the outcome is unknown; publish again with the same dedup_id"
GROWN_BYTES = 1 << 20  # of messages between two looks at what is to be trimmed or kept
HEAD_ROOM = 4096  # of a message, for what the server counts beside the body
MESSAGE_BYTES = 150  # that a message takes in the stream beside its body
RESERVE_BYTES_MAX = 16 << 20  # of a stream with a limit, kept back for all that is no publish
RESERVE_SHARE = 8  # or such a part of it


class StreamLog:
    biased = unsettled = False
    epoch = 0

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
        self._sending = Sending(connection, stream, self.pages, self.arrivals)
        self.reader = self.glance = Reading(self.pages, self.read, self.stream_bytes, self.after_fork)
        self.owner, self.failure = Settings(), Unfailing()
        self.watch = self.reserve = self.following = self.syncing = Nothing()
        self.segments = [Part()]
        self._writer = int.from_bytes(os.urandom(8), "little")  # tells its messages from all others
        # The rest is touched in a turn only.
        self.seq = 0  # of the last message that is applied, or about to be
        self.order = NOTHING  # as of that message
        self._checksums: deque[tuple[int, int]] = deque(maxlen=KNOWN)  # of the last messages, with their seqs
        self.apply_up_to: Callable[[int], object] = int  # the state's, given an end
        self._is_torn = False  # the state is to be read anew, though this process has appended to the log
        self._is_in_the_way = False  # what is shared came between a fence and what it was decided on
        self._fallen = 0  # how many shared messages in a row did not hold
        self._compares = 0  # so many plain publishes are compared, before one is shared again
        self._begin_bytes = 0  # what `taken_in` was at the last fence
        self._fence_at = 0.0  # messages behind that: a publish becomes one, if no other append has
        self.end = self.last_ms = self.head = 0
        self._beaten = 0  # how often in a row another writer was first
        self._seconds = 0.0  # that an append takes, about
        self._appends = False  # the loop's thread looks, too: what comes is this process's own, perhaps
        self._grown = 0
        self.taken_in = 0  # bytes of messages, appended and followed
        self.bytes = 0  # of the stream, as it was last asked

    # ── where it is ────────────────────────────────────────────────────────────────

    def start(self, order: Order) -> None:
        """Follow the messages behind the last one of *order*."""
        self.order, self._checksums = order, deque([order.last], KNOWN)
        self.seq, _ = order.last
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

    # ── appending ──────────────────────────────────────────────────────────────────

    def append(self, now_ms: int, kind: int, flags: int, queue: int, payload: bytes) -> int:
        draft = kind, flags, queue, payload
        append = self.append_plain if kind == records.PUBLISH else self.append_group
        return append(now_ms, [draft])[0]

    def append_plain(self, now_ms: int, drafts: Sequence[Draft]) -> list[int]:
        """The same, of publishes that are nothing but a body, to queues that count nothing."""
        encoded = self._encode(drafts)
        if len(encoded.bodies) == 1 and self._may_share():
            found = self._share(now_ms, encoded)
            if found is not None:
                return found
        return self._append_all(now_ms, encoded, UNAFFECTED)

    def append_columns(
        self, now_ms: int, kinds: list[int], flags: list[int], numbers: list[int], payloads: list[bytes], *,
        atomic: bool = True,
    ) -> list[int]:  # fmt: skip
        return self.append_group(
            now_ms, list(zip(kinds, flags, numbers, payloads, strict=True)), atomic=atomic
        )

    def append_group(self, now_ms: int, drafts: Sequence[Draft], *, atomic: bool = True) -> list[int]:
        """See `mq.engine.log.Log`.  *atomic* or not, all are appended, or none.

        What is not, and is nothing but plain publishes, needs no comparison: see `append_plain`.
        """
        if not atomic and all(kind == records.PUBLISH for kind, *_ in drafts):
            return self.append_plain(now_ms, drafts)
        return self._append_all(now_ms, self._encode(drafts), {kind for kind, *_ in drafts})

    def _append_all(self, now_ms: int, encoded: Encoded, kinds: Set[int]) -> list[int]:
        """The positions of the records."""
        last = self._append(now_ms, encoded, kinds)
        return encoded.positions(last - len(encoded.bodies) + 1)

    def _encode(self, drafts: Sequence[Draft]) -> Encoded:
        """UsageError, DiskFull: they are too many, or there is no room for them."""
        encoded = message.encode(drafts, self._most())
        size = sum(map(len, encoded.bodies))
        if size > GROUP_BYTES_MAX or len(encoded.bodies) > message.PARTS_MAX:
            raise UsageError(
                f"{size} bytes at once; {GROUP_BYTES_MAX} is the most: publish in smaller batches"
            )
        if self._stream.max_bytes > 0 and not records.NEW.isdisjoint(kind for kind, *_ in drafts):
            self._require_room(size)
        return encoded

    def _require_room(self, size: int) -> None:
        """DiskFull if a publish of *size* bytes left no room for what takes messages out of the queues."""
        if self.bytes + size > self._room():
            self.bytes = self.stream_bytes()  # the limit is asked for, too: it may have been raised
        if self.bytes + size > self._room():
            raise DiskFull(
                self._stream.path,
                f"the stream has {self.bytes} bytes of the {self._stream.max_bytes} that it may have, less a"
                " reserve: settle messages, or raise max_bytes of the stream",
            )

    def _room(self) -> float:
        """How many bytes the stream may have, less the reserve."""
        limit = self._stream.max_bytes
        return limit - min(RESERVE_BYTES_MAX, limit // RESERVE_SHARE) if limit > 0 else math.inf

    def mark(self, now_ms: int) -> int:
        """Append a fence without records; its sequence.

        The subject has a last message then, whatever is purged.
        """
        return self._append(now_ms, EMPTY, frozenset(), FENCE)

    def fence_from(self, seq: int, upto: int) -> int | None:
        """The sequence of the first fence from *seq* on, if there is one before *upto*."""
        while seq < upto:
            pages = self.pages.get_all(range(seq, min(seq + AT_ONCE, upto)))
            for each in sorted(pages):
                head = message.head_of(pages[each])
                if head.flags & (FENCE | HOLD) and head.part == 1 and head.known[0] < each:
                    return each
            seq += AT_ONCE
        return None

    def _most(self) -> int:
        """Bytes of a message: as the server allows."""
        return min(message.MESSAGE_BYTES_MAX, self._connection.nc.max_payload - HEAD_ROOM)

    def _append(
        self, now_ms: int, encoded: Encoded, kinds: Set[int], flags: int = 0, *, is_way: bool = False
    ) -> int:  # fmt: skip
        """Append what is compared; the sequence of the last message."""
        order, is_unaffected = self.order, kinds <= UNAFFECTED
        wholly = not (is_unaffected or order.held)
        if wholly and self._is_in_the_way:
            self._ask_for_the_way(now_ms)
        if not is_unaffected or (not is_way and self._is_fence_due()):
            flags |= FENCE
        self._writer = (self._writer + 1) % WORD
        parts = encoded.messages(
            self._stream.seed, order.compared, self._writer, now_ms, flags, self.order.last
        )
        expected = Compared(order.last[0] if wholly else order.compared[0], wholly)
        is_beaten, begin = False, time.monotonic()
        self._appends = True
        try:
            last = self._sending.send(parts, expected)
            is_beaten = last is None
            if last is not None:
                self._note(last, parts)
        finally:
            self._appends = False
            if self.arrivals.last > self.seq and not is_beaten:  # else this thread follows at once
                self._came()
        if last is None:
            self._wait_for_the_first(expected)
            self._is_in_the_way = wholly and any(each.is_shared() for each in self.arrivals.behind(self.seq))
            self._stand_back()
            raise Conflict
        self._beaten = 0
        if wholly:
            self._is_in_the_way = False
        self._seconds += (min(time.monotonic() - begin, SECONDS_MAX) - self._seconds) / 8
        self.last_ms = max(self.last_ms, now_ms)
        self._grow(sum(map(len, parts)))
        return last

    def _ask_for_the_way(self, now_ms: int) -> None:
        """Append a hold, and have all decided again: Conflict."""
        self._append(now_ms, EMPTY, frozenset(), HOLD, is_way=True)
        self.apply_up_to(self.end)  # so it is as if another writer had appended it
        self._is_in_the_way = False
        raise Conflict

    def _stand_back(self) -> None:
        """Leave the way to others for a moment.

        Of several processes that try again at once all but one try in vain, and the server and this machine
        are as busy with that as with what succeeds.
        """
        self._beaten = min(self._beaten + 1, BEATEN_MAX)
        time.sleep(random.random() * self._beaten * STAND_BACK * self._seconds)

    def _note(self, last: int, parts: list[bytes]) -> None:
        """They are in the stream, up to the sequence *last*; what stands before them is applied first."""
        first = last - len(parts) + 1
        self._apply_before(first)
        for seq, data in enumerate(parts, first):
            self.pages.keep(seq, data)
        if self.seq != first - 1:  # a part was trimmed before it had come
            self._is_torn = True
            return
        self.end = begin_of(last + 1)  # first: an interruption behind it has the state read anew
        for seq, data in enumerate(parts, first):
            self._go_on(seq, message.head_of(data))
        self.arrivals.drop(last)

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
        """Whether the stream may be cut nowhere near, or a process that has asked for the way has died."""
        behind, grown = self.seq - self.order.fence[0], self.taken_in - self._begin_bytes
        return behind >= (HELD_MAX if self.order.held else FENCE_MESSAGES) or grown > FENCE_BYTES

    def _wait_for_the_first(self, expected: Compared) -> None:
        """Until what another writer appended has come, so that what is decided again is decided on that."""
        try:
            if expected.wholly:
                self.arrivals.wait(self.seq + 1, REQUEST_SECONDS)
            else:
                self.arrivals.wait_for_compared(expected.seq, REQUEST_SECONDS)
        except StorageError:
            self.barrier()  # it was never stored, or the stream ends before what this process has read

    # ── without a comparison ───────────────────────────────────────────────────────

    def _may_share(self) -> bool:
        """Whether a plain publish goes without: not where one has not held lately, or a fence is due."""
        if self._compares > 0:
            self._compares -= 1
            return False
        seq, _ = self.order.fence
        is_overdue = self.seq - seq > self._fence_at or self.taken_in - self._begin_bytes > FENCE_BYTES
        return seq > 0 and not self.order.held and not is_overdue

    def _share(self, now_ms: int, encoded: Encoded) -> list[int] | None:
        """Append it; None: it was not even sent.  Conflict if it does not hold."""
        order = self.order
        self._writer = (self._writer + 1) % WORD
        (data,) = encoded.messages(
            self._stream.seed, order.fence, self._writer, now_ms, SHARED, self.order.last
        )
        self._appends = True
        try:
            try:
                seq = self._sending.share(data)
            except Unsure as unsure:
                seq = self._find(now_ms, data, is_full=unsure.is_full)
            if seq is None:
                return None
            self._note_shared(seq, data)
        finally:
            self._appends = False
            if self.arrivals.last > self.seq:
                self._came()
        self._fallen = 0
        self.last_ms = max(self.last_ms, now_ms)
        self._grow(len(data))
        return encoded.positions(seq)

    def _note_shared(self, seq: int, data: bytes) -> None:
        """It is in the stream, as the message *seq*.  Conflict if it does not hold there."""
        self._apply_before(seq)
        if self.seq != seq - 1:
            raise StoreFailed(self._stream.path, TRIMMED)
        head = message.head_of(data)
        if not self.order.behind(seq, head)[1]:
            self._give_up_on(seq)
        self.pages.keep(seq, data)
        self.end = begin_of(seq + 1)  # first: as in `_note`
        self._go_on(seq, head)
        self.arrivals.drop(seq)

    def _give_up_on(self, seq: int) -> None:
        """The shared message *seq* does not hold: it is followed as another writer's is.  Conflict."""
        self._apply_before(seq + 1)
        self._fallen = min(self._fallen + 1, FALLEN_MAX)
        self._compares = (1 << self._fallen - 1) - 1
        raise Conflict

    def _find(self, now_ms: int, data: bytes, *, is_full: bool) -> int:
        """The sequence of a shared message, of which no server says whether it is stored.

        A fence tells: it stands before that, or never holds.  Conflict: it does not.  *is_full*: a server has
        refused it, for want of room; so it is, if the fence is refused, too.
        """
        self._compares = 1
        try:
            fence = None
            while fence is None:
                fence = self._append_fence(now_ms)
            self.arrivals.wait(fence)
        except StorageError as error:
            if is_full and isinstance(error, DiskFull):
                raise
            raise StoreFailed(self._stream.path, f"{UNKNOWN}: {error}") from error
        for each in self.arrivals.behind(self.seq):
            if each.data == data and each.seq < fence:
                return each.seq
        raise Conflict

    def _append_fence(self, now_ms: int) -> int | None:
        """Its sequence; neither it nor what is before it is applied.  None: another writer was first."""
        come = [each for each in self.arrivals.behind(self.seq) if not each.is_shared()]
        compared = (come[-1].seq, message.head_of(come[-1].data).crc) if come else self.order.compared
        self._writer = (self._writer + 1) % WORD
        parts = EMPTY.messages(self._stream.seed, compared, self._writer, now_ms, FENCE, self.order.last)
        expected = Compared(compared[0], wholly=False)
        fence = self._sending.send(parts, expected)
        if fence is None:
            self._wait_for_the_first(expected)
        return fence

    # ── how far the log has grown ──────────────────────────────────────────────────

    def _grow(self, size: int) -> None:
        size += MESSAGE_BYTES
        self._grown += size
        self.taken_in += size
        self.bytes += size
        if self._grown >= GROWN_BYTES:
            self._grown = 0
            self.owner.grown()

    # ── following ──────────────────────────────────────────────────────────────────

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
        (head, holds), stretches = self._take(first), []
        parts, last = deque([first]), first
        while head.part < head.parts:
            following = self.arrivals.waiting.popleft()
            if following.seq > self.seq:
                last = following
                head, holds = self._take(last)
                parts.append(last)
        while parts and holds:
            seq, _, data = parts.popleft()
            pieces, missing = [data], message.missing(data)
            while missing > 0 and parts:
                pieces.append(parts.popleft().data)
                missing -= len(pieces[-1]) - HEAD.size
            stretches.append(self._stretch(seq, message.join(pieces)))
        self.end = begin_of(last.seq + 1)
        if holds:
            self.last_ms = max(self.last_ms, head.time_ms, 0 if self._custom_time else last.time_ms)
        return stretches

    def _take(self, arrival: Arrival) -> tuple[message.Head, bool]:
        """Check that the message follows the last one, and is whole; and whether it holds."""
        seq = arrival.seq
        if seq != self.seq + 1:
            if self._stream.is_trimmed(self.seq + 1, seq):
                raise FileNotFoundError  # the whole state is read anew
            raise self._stream.corrupt(f"missing: {seq} comes behind {self.seq}", self.seq + 1)
        try:
            head = message.check(arrival.data, self._stream.seed)
        except message.Damaged as error:
            raise self._stream.corrupt(str(error), seq) from error
        order = self.order
        holds = self._go_on(seq, head)
        if not head.flags & SHARED and order.compared != (0, 0):
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

    # ── reading ────────────────────────────────────────────────────────────────────

    def read(self, position: int, /) -> Stored:
        seq, at = place_of(position)
        data = self.pages.get(seq)
        if not HEAD.size + RECORD.size <= at <= len(data):
            raise self._stream.corrupt(f"no record is at offset {at}", seq)
        label, length = RECORD.unpack_from(data, at - RECORD.size)
        payload = data[at : at + length]
        if len(payload) < length:
            payload = self._read_on(seq, payload, length)
        return Stored(
            label & 0xFF, label >> 8 & 0xFF, label >> 16, message.head_of(data).time_ms, payload
        )  # fmt: skip

    def _read_on(self, seq: int, begun: bytes, length: int) -> bytes:
        """The payload of a record that goes on in the messages behind *seq*."""
        pieces, size = [begun], len(begun)
        while size < length:
            seq += 1
            piece = self.pages.get(seq)[HEAD.size :]
            pieces.append(piece)
            size += len(piece)
        if size > length:
            raise self._stream.corrupt("it ends inside a record", seq)
        return b"".join(pieces)

    # ── the rest ───────────────────────────────────────────────────────────────────

    def sync(self, upto: int, /) -> None:
        """What was appended is with a majority already."""

    def trim(self, before: int, /) -> int:
        seq, _ = place_of(before)
        was = self._stream.range()
        self._stream.purge(seq)
        now = self._stream.range()
        self.bytes, self.head = now.bytes, begin_of(now.first)
        return max(0, was.bytes - now.bytes)

    def stream_bytes(self) -> int:
        """What it takes on one replica."""
        return self._stream.range().bytes

    def locks(self) -> list[Lock]:
        return [self.pages.lock]

    def is_this_thread(self) -> bool:
        """Whether this is the loop's thread, which must not wait for what the loop does."""
        return self._connection.is_this_thread()

    def close(self) -> None:
        """Let go of the connections; soon, where the collector comes by in the loop's thread."""
        if self.is_this_thread():
            threading.Thread(target=self._close, name="mq-nats-close", daemon=True).start()
        else:
            self._close()

    def _close(self) -> None:
        self._sending.direct.close()
        self.arrivals.close()
        self._connection.close()

    def after_fork(self) -> None:
        self._sending.direct.close()
        self.arrivals.after_fork()
        self._connection.after_fork()
