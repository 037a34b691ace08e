"""The log on a stream: one total order, in which each append names what it was decided on.

    compared   a message, if the last compared one is the one that this process knows: else Conflict.
               What stands in between is shared, and is applied before it
    shared     what is about single messages, without that.  If it does not hold where it stands (fences.py,
               takes.py), that is a Conflict, too

Nothing is applied before the server has said that a majority has it.  An append whose outcome is open
(mq/nats/sending.py) leaves the log usable: if the message is stored, it is followed as another writer's is.

A fence is compared with all messages, so nothing comes between it and what it was decided on.  Beside
processes that share all the time that seldom succeeds, and so it is with what does not hold if a delivery
comes in between.  So what was tried in vain asks for the way with a hold: others wait until it has gone.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence, Set

from mq.delivery import records
from mq.engine.log import Conflict
from mq.errors import DiskFull, StorageError, StoreFailed, UsageError
from mq.forks import Lock
from mq.nats import message, takes
from mq.nats.connection import REQUEST_SECONDS, Connection
from mq.nats.fences import ARRIVALS, NO_MARK, UNAFFECTED, may_cut
from mq.nats.following import AGAIN, Following
from mq.nats.message import (
    FENCE,
    HEAD,
    HOLD,
    RECORD,
    SHARED,
    TAKES,
    WORD,
    Draft,
    Encoded,
    begin_of,
    place_of,
)  # fmt: skip
from mq.nats.pages import AT_ONCE
from mq.nats.reading import Reading
from mq.nats.sending import Compared, Sending, Unsure
from mq.nats.stand_ins import Nothing, Part, Unfailing
from mq.nats.stream import Stream
from mq.nats.takes import SETTLES
from mq.storage.reader import Stored

STAND_BACK = 2.0  # at most so many times as long as an append takes, for each time in a row
BEATEN_MAX = 6  # of those; then it asks for the way
WAY_SECONDS = 0.1  # until a process that has asked for the way has gone, but for one that is stopped
SECONDS_MAX = 0.02  # an append that takes longer is not counted as one that does
GROUP_BYTES_MAX = 256 << 20
FALLEN_MAX = 6  # the more shared messages in a row do not hold, the more publishes are compared, up to 2^6
EMPTY = Encoded([b""], [])
UNKNOWN = "no answer from NATS, so the outcome is unknown; publish again with the same dedup_id"
TRIMMED = "the stream was trimmed meanwhile, so the outcome is unknown; publish again with the same dedup_id"
HEAD_ROOM = 4096  # of a message, for what the server counts beside the body
RESERVE_BYTES_MAX = 16 << 20  # of a stream with a limit, kept back for all that is no publish
RESERVE_SHARE = 8  # or such a part of it
TRIM_SHARE = 0.5  # of the reserve is for what trimming writes again; the rest is for deliveries and acks


class StreamLog(Following):
    biased = unsettled = False
    epoch = 0

    def __init__(
        self, connection: Connection, stream: Stream, came: Callable[[], object],
        is_awaited: Callable[[], object], *, custom_time: bool,
    ) -> None:  # fmt: skip
        """See Following."""
        super().__init__(connection, stream, came, is_awaited, custom_time=custom_time)
        self._sending = Sending(connection, stream, self.pages, self.arrivals)
        self.reader = self.glance = Reading(self.pages, self.read, self.stream_bytes, self.after_fork)
        self.failure = Unfailing()
        self.watch = self.reserve = self.following = self.syncing = Nothing()
        self.segments = [Part()]
        # The rest is touched in a turn only.
        self._needs_a_hold = False  # others came between what was appended and what it was decided on
        self._hold = NO_MARK  # the last one of this process
        self._fallen = 0  # how many shared messages in a row did not hold
        self._compares = 0  # so many plain publishes are compared, before one is shared again
        self._beaten = 0  # how often in a row another writer was first
        self._seconds = 0.0  # that an append takes, about

    # ── appending ──────────────────────────────────────────────────────────────────

    def append(self, now_ms: int, kind: int, flags: int, queue: int, payload: bytes) -> int:
        return self._append_apart(now_ms, [(kind, flags, queue, payload)])[0]

    def append_columns(
        self, now_ms: int, kinds: list[int], flags: list[int], numbers: list[int], payloads: list[bytes], *,
        atomic: bool = True,
    ) -> list[int]:  # fmt: skip
        return self.append_group(
            now_ms, list(zip(kinds, flags, numbers, payloads, strict=True)), atomic=atomic
        )

    def append_group(self, now_ms: int, drafts: Sequence[Draft], *, atomic: bool = True) -> list[int]:
        """See `mq.engine.log.Log`.  Without *atomic*, the position of a record that does not hold is 0."""
        if not atomic or (len(drafts) == 1 and drafts[0][0] in SETTLES):
            return self._append_apart(now_ms, drafts)
        return self._append_all(now_ms, self._encode(drafts), {kind for kind, *_ in drafts})

    def _append_apart(self, now_ms: int, drafts: Sequence[Draft]) -> list[int]:
        """Each of *drafts* holds or not, whatever becomes of the others; Conflict if none does.

        Plain publishes, deliveries and settlements of single messages go without a comparison.
        """
        encoded = self._encode(drafts)
        if len(encoded.bodies) == 1 and takes.may_share(self.state, drafts, self.seq, now_ms):
            is_taking = any(kind != records.PUBLISH for kind, *_ in drafts)
            if self._may_share(now_ms, is_taking=is_taking):
                found = self._share(now_ms, encoded, drafts, SHARED | TAKES if is_taking else SHARED)
                if found is not None:
                    return found
        return self._append_all(now_ms, encoded, {kind for kind, *_ in drafts})

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
        if self._stream.max_bytes > 0:
            kinds = {kind for kind, *_ in drafts}
            if not records.NEW.isdisjoint(kinds):
                self._require_room(size, 0.0)
            elif not AGAIN.isdisjoint(kinds):
                self._require_room(size, TRIM_SHARE)
        return encoded

    def _require_room(self, size: int, share: float) -> None:
        """DiskFull if *size* bytes left no room for what takes messages out of the queues.

        *share*: of the reserve, which may be taken.
        """
        if self.bytes + size > self.room(share):
            self.bytes = self.stream_bytes()  # the limit is asked for, too: it may have been raised
        if self.bytes + size > self.room(share):
            raise DiskFull(
                self._stream.path,
                f"the stream has {self.bytes} bytes of the {self._stream.max_bytes} that it may have, less a"
                " reserve: settle messages, or raise max_bytes of the stream",
            )

    def room(self, share: float) -> float:
        """How many bytes the stream may have, less the reserve, but for a *share* of that."""
        limit = self._stream.max_bytes
        reserve = min(RESERVE_BYTES_MAX, limit // RESERVE_SHARE)
        return limit - (1 - share) * reserve if limit > 0 else math.inf

    def mark(self, now_ms: int) -> int:
        """Append a fence without records; its sequence.

        The subject has a last message then, whatever is purged.
        """
        return self._append(now_ms, EMPTY, frozenset(), FENCE)

    def fence_from(self, seq: int, upto: int) -> int | None:
        """The first message from *seq* on at which the stream may be cut, if there is one before *upto*."""
        while seq < upto:
            pages = self.pages.get_all(range(seq, min(seq + AT_ONCE, upto)))
            for each in sorted(pages):
                if may_cut(each, message.head_of(pages[each])):
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
        order, is_unaffected, is_taking = self.order, kinds <= UNAFFECTED, not kinds <= ARRIVALS
        wholly = not (is_unaffected or order.held)
        if order.held:
            if order.fence != self._hold and self._lets_another_go():
                raise Conflict
            flags |= FENCE  # this is what the hold was for; or its writer is stopped, or has died
        elif self._needs_a_hold and not is_way:
            self._ask_for_the_way(now_ms)
        elif not is_unaffected or (not is_way and self._is_fence_due()):
            flags |= FENCE
        if is_taking:
            flags |= TAKES
        self._writer = (self._writer + 1) % WORD
        parts = encoded.messages(
            self._stream.seed, order.compared, self._writer, now_ms, flags, self.order.last
        )
        expected = Compared(order.last[0] if wholly else order.compared[0], wholly)
        is_beaten, holds, begin = False, True, time.monotonic()
        self._appends = True
        try:
            last = self._sending.send(parts, expected)
            is_beaten = last is None
            if last is not None:
                holds = self._note(last, parts)
        finally:
            self._appends = False
            if self.arrivals.last > self.seq and not is_beaten:  # else this thread follows at once
                self._came()
        if last is None:
            self._wait_for_the_first(expected)
            self._stand_back()
            is_in_the_way = wholly and any(each.is_shared() for each in self.arrivals.behind(self.seq))
            self._needs_a_hold = is_way or is_in_the_way or self._beaten >= BEATEN_MAX
            raise Conflict
        if not holds:
            self._needs_a_hold = True
            self._follow_own(last)
            raise Conflict
        if not is_way:
            self._beaten, self._needs_a_hold = 0, False
        self._seconds += (min(time.monotonic() - begin, SECONDS_MAX) - self._seconds) / 8
        self.last_ms = max(self.last_ms, now_ms)
        self._grow(sum(map(len, parts)))
        return last

    def _ask_for_the_way(self, now_ms: int) -> None:
        """Append a hold, and have all decided again: Conflict."""
        self._append(now_ms, EMPTY, frozenset(), HOLD, is_way=True)
        self.apply_up_to(self.end)  # so it is as if another writer had appended it
        self._hold = self.order.fence
        raise Conflict

    def _lets_another_go(self) -> bool:
        """Another process has asked for the way: wait until it has gone; False: it does not."""
        try:
            self.arrivals.wait_for_compared(self.order.compared[0], WAY_SECONDS)
        except StorageError:
            return False
        return True

    def _stand_back(self) -> None:
        """Leave the way to others for a moment.

        Of several processes that try again at once all but one try in vain, and the server and this machine
        are as busy with that as with what succeeds.
        """
        self._beaten = min(self._beaten + 1, BEATEN_MAX)
        time.sleep(random.random() * self._beaten * STAND_BACK * self._seconds)

    def _note(self, last: int, parts: list[bytes]) -> bool:
        """They are in the stream, up to the sequence *last*; what stands before them is applied first.

        Whether they hold.
        """
        first = last - len(parts) + 1
        self._apply_before(first)
        for seq, data in enumerate(parts, first):
            self.pages.keep(seq, data)
        if self.seq != first - 1:  # a part was trimmed before it had come
            self._is_torn = True
            return True
        if not self.order.behind(first, message.head_of(parts[0]))[1]:
            return False
        self.end = begin_of(last + 1)  # first: an interruption behind it has the state read anew
        for seq, data in enumerate(parts, first):
            self._go_on(seq, message.head_of(data))
        self.arrivals.drop(last)
        return True

    def _follow_own(self, seq: int) -> None:
        """The message *seq* of this process does not hold: it is followed as another writer's is."""
        self._apply_before(seq + 1)

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

    def _may_share(self, now_ms: int, *, is_taking: bool) -> bool:
        """Whether a message goes without.

        A plain publish does not where one has not held lately, and if a fence is due, it is that.  What takes
        would be in vain then, beside others that take: so a fence is appended first.
        """
        if self._compares > 0 and not is_taking:
            self._compares -= 1
            return False
        if self.order.held or not self._is_fence_overdue():
            return not self.order.held
        if is_taking:
            self.mark(now_ms)
            self.apply_up_to(self.end)  # as where it asks for the way
            raise Conflict
        return False

    def _share(
        self, now_ms: int, encoded: Encoded, drafts: Sequence[Draft], flags: int
    ) -> list[int] | None:  # fmt: skip
        """Append it; None: it was not even sent.  Conflict if nothing of it holds."""
        order = self.order
        self._writer = (self._writer + 1) % WORD
        (data,) = encoded.messages(self._stream.seed, order.fence, self._writer, now_ms, flags, order.last)
        self._appends = True
        try:
            try:
                seq = self._sending.share(data)
            except Unsure as unsure:
                seq = self._find(now_ms, data, is_full=unsure.is_full)
            if seq is None:
                return None
            held = self._note_shared(seq, data, drafts)
        finally:
            self._appends = False
            if self.arrivals.last > self.seq:
                self._came()
        self._fallen = 0
        self.last_ms = max(self.last_ms, now_ms)
        self._grow(len(data))
        return [at if holds else 0 for at, holds in zip(encoded.positions(seq), held, strict=True)]

    def _note_shared(self, seq: int, data: bytes, drafts: Sequence[Draft]) -> list[bool]:
        """It is in the stream, as the message *seq*: which of *drafts* hold there.  Conflict if none does."""
        self._apply_before(seq)
        if self.seq != seq - 1:
            raise StoreFailed(self._stream.path, TRIMMED)
        head = message.head_of(data)
        if not self.order.behind(seq, head)[1]:
            self._fallen = min(self._fallen + 1, FALLEN_MAX)
            self._compares = (1 << self._fallen - 1) - 1
            self._follow_own(seq)
            raise Conflict
        held = [self._holds(draft, head) for draft in drafts]
        if not any(held):
            self._follow_own(seq)
            raise Conflict
        self.pages.keep(seq, data)
        self.end = begin_of(seq + 1)  # first: as in `_note`
        self._go_on(seq, head)
        self.arrivals.drop(seq)
        return held

    def _holds(self, draft: Draft, head: message.Head) -> bool:
        """Whether a record of this process holds: see takes.py."""
        kind, _, number, payload = draft
        if kind == records.PUBLISH:
            return True
        id = takes.id_of(payload)
        holds = takes.holds(self.state, kind, number, id, head.known[0], head.time_ms)
        if kind == records.DELIVER:
            if holds:
                self.spread.took(number, self.spread.me)
            else:
                self.spread.met(number)
        return holds

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
