"""The log on a stream: one total order, in which each append names the message that it follows.

    append     a message, if the last one of the subject is the one that this process knows: else Conflict
    follow     what other writers appended, as it was delivered, each message checked against the one before
    barrier    the last sequence, asked of the leader and waited for

Nothing is applied before the server has said that a majority has it.  An append whose outcome is open
(mq/nats/sending.py) leaves the log usable: if the message is stored, it is followed as another writer's is.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from mq.delivery import records
from mq.delivery.runs import Stretch
from mq.engine.log import Conflict
from mq.errors import DiskFull, StorageError, UsageError
from mq.forks import Lock
from mq.nats import message
from mq.nats.arrivals import Arrival, Arrivals
from mq.nats.connection import REQUEST_SECONDS, Connection
from mq.nats.message import HEAD, RECORD, WORD, Draft, Encoded, begin_of, place_of
from mq.nats.pages import Pages
from mq.nats.reading import Reading
from mq.nats.sending import Sending
from mq.nats.stand_ins import Nothing, Part, Settings, Unfailing
from mq.nats.stream import Stream
from mq.storage.reader import Stored

STAND_BACK = 2.0  # at most so many times as long as an append takes, for each time in a row
BEATEN_MAX = 8  # of those
SECONDS_MAX = 0.02  # an append that takes longer is not counted as one that does
GROUP_BYTES_MAX = 256 << 20
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
        self.before = (0, 0)  # its sequence and checksum; (0, 0): not known
        self.end = self.last_ms = self.head = 0
        self._beaten = 0  # how often in a row another writer was first
        self._seconds = 0.0  # that an append takes, about
        self._appends = False  # the loop's thread looks, too: what comes is this process's own, perhaps
        self._grown = 0
        self.taken_in = 0  # bytes of messages, appended and followed
        self.bytes = 0  # of the stream, as it was last asked

    # ── where it is ────────────────────────────────────────────────────────────────

    def start(self, seq: int, crc: int) -> None:
        """Follow the messages behind *seq*, whose checksum is *crc*; 0: it is not known."""
        self.head = begin_of(seq + 1)
        self.seq, self.before, self.end = seq, (seq, crc) if crc else (0, 0), begin_of(seq + 1)
        self.arrivals.begin(seq)

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
        return self.append_group(now_ms, [(kind, flags, queue, payload)])[0]

    def append_columns(
        self, now_ms: int, kinds: list[int], flags: list[int], numbers: list[int], payloads: list[bytes], *,
        atomic: bool = True,
    ) -> list[int]:  # fmt: skip
        return self.append_group(
            now_ms, list(zip(kinds, flags, numbers, payloads, strict=True)), atomic=atomic
        )

    def append_group(self, now_ms: int, drafts: Sequence[Draft], *, atomic: bool = True) -> list[int]:
        """See `mq.engine.log.Log`.  *atomic* or not, all are appended, or none."""
        encoded = message.encode(drafts, self._most())
        size = sum(map(len, encoded.bodies))
        if size > GROUP_BYTES_MAX or len(encoded.bodies) > message.PARTS_MAX:
            raise UsageError(
                f"{size} bytes at once; {GROUP_BYTES_MAX} is the most: publish in smaller batches"
            )
        if self._stream.max_bytes > 0 and not records.NEW.isdisjoint(kind for kind, *_ in drafts):
            self._require_room(size)
        return self._append(now_ms, encoded)

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

    def mark(self, now_ms: int) -> None:
        """Append a message without records: the subject has a last one, whatever is purged."""
        self._append(now_ms, Encoded([b""], []))

    def group_begin(self, seq: int) -> int:
        """The sequence of the first part of the group that has the message *seq*."""
        return seq - message.head_of(self.pages.get(seq)).part + 1

    def _most(self) -> int:
        """Bytes of a message: as the server allows."""
        return min(message.MESSAGE_BYTES_MAX, self._connection.nc.max_payload - HEAD_ROOM)

    def _append(self, now_ms: int, encoded: Encoded) -> list[int]:
        if self.before[0] != self.seq:
            self._learn()
        self._writer = (self._writer + 1) % WORD
        parts = encoded.messages(self._stream.seed, self.before, self._writer, now_ms)
        is_beaten, begin = False, time.monotonic()
        self._appends = True
        try:
            last = self._sending.send(parts, self.seq)
            is_beaten = last is None
            if last is not None:
                self._note(last, parts)
        finally:
            self._appends = False
            if self.arrivals.last > self.seq and not is_beaten:  # else this thread follows at once
                self._came()
        if last is None:
            self._wait_for_the_first()
            self._stand_back()
            raise Conflict
        self._beaten = 0
        self._seconds += (min(time.monotonic() - begin, SECONDS_MAX) - self._seconds) / 8
        self.last_ms = max(self.last_ms, now_ms)
        self._grow(sum(map(len, parts)))
        return encoded.positions(last - len(parts) + 1)

    def _stand_back(self) -> None:
        """Leave the way to others for a moment.

        Of several processes that try again at once all but one try in vain, and the server and this machine
        are as busy with that as with what succeeds.
        """
        self._beaten = min(self._beaten + 1, BEATEN_MAX)
        time.sleep(random.random() * self._beaten * STAND_BACK * self._seconds)

    def _note(self, last: int, parts: list[bytes]) -> None:
        """They are in the stream, up to the sequence *last*."""
        first = last - len(parts) + 1
        if first != self.seq + 1:
            raise self._stream.corrupt(f"appended behind {self.seq}, and others are in between", first)
        for seq, data in enumerate(parts, first):
            self.pages.keep(seq, data)
        self.end = begin_of(last + 1)  # first: an interruption behind it has the state read anew
        self.seq, self.before = last, (last, message.head_of(parts[-1]).crc)
        self.arrivals.drop(last)

    def _wait_for_the_first(self) -> None:
        """Until what another writer appended has come, so that what is decided again is decided on that."""
        try:
            self.arrivals.wait(self.seq + 1, REQUEST_SECONDS)
        except StorageError:
            self.barrier()  # it was never stored, or the stream ends before what this process has read

    def _learn(self) -> None:
        """The checksum of the last message, where the log was opened behind it."""
        if self.seq:
            data = self._connection.run(self.pages.fetch(self.seq))
            self.before = (self.seq, message.head_of(data).crc if data else 0)

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
        waiting = self.arrivals.waiting
        while self.end < upto and waiting:
            arrival = waiting.popleft()
            if arrival.seq > self.seq:
                yield from self._follow_group(arrival)

    def _follow_group(self, first: Arrival) -> Iterable[Stretch]:
        """The records of a message, and of the parts that belong to it."""
        head, stretches = self._take(first), []
        parts, last = deque([first]), first
        while head.part < head.parts:
            following = self.arrivals.waiting.popleft()
            if following.seq > self.seq:
                last = following
                head = self._take(last)
                parts.append(last)
        while parts:
            seq, _, data = parts.popleft()
            pieces, missing = [data], message.missing(data)
            while missing > 0 and parts:
                pieces.append(parts.popleft().data)
                missing -= len(pieces[-1]) - HEAD.size
            stretches.append(self._stretch(seq, message.join(pieces)))
        self.end = begin_of(last.seq + 1)
        self.last_ms = max(self.last_ms, head.time_ms, 0 if self._custom_time else last.time_ms)
        return stretches

    def _take(self, arrival: Arrival) -> message.Head:
        """Check that the message follows the last one, and is whole."""
        if arrival.seq != self.seq + 1:
            if self._stream.range().first > self.seq + 1:
                raise FileNotFoundError  # it was trimmed: the whole state is read anew
            raise self._stream.corrupt(f"missing: {arrival.seq} comes behind {self.seq}", self.seq + 1)
        try:
            head = message.check(arrival.data, self._stream.seed)
        except message.Damaged as error:
            raise self._stream.corrupt(str(error), arrival.seq) from error
        before = self.before if head.part == 1 else (0, self.before[1])
        if self.before != (0, 0) and self.before[0] == self.seq and head.before != before:
            raise self._stream.corrupt(
                f"it was appended behind {head.before}, and {before} is before it", arrival.seq
            )
        self.seq, self.before = arrival.seq, (arrival.seq, head.crc)
        self.pages.keep(arrival.seq, arrival.data)
        self._grow(len(arrival.data))
        return head

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
