"""What the stream delivers: every message, in order, without a gap.

    the server ── push consumer, in memory, no acks ──► this ──► a queue, from which the log follows

A consumer is as short-lived as the server that has it, and a client that is slow loses messages.  So each
message names how many were delivered before it, and a heartbeat comes each second: what does not fit, or
silence, has a new consumer begin behind the last message that came.  They come over a wire of their own, if
that is possible (wire.py), and else over nats-py.

    the loop reads the wire         while no thread of the program does, or a receiver sleeps
    a thread that has a turn does   as the turn begins, and while it waits for a message; the loop looks again
                                    once none has for READ_AGAIN_SECONDS

So a process that appends one message after the other is not woken for each that others append: its own
thread takes in all at once what has come since its last turn, and no thread hands anything to another one.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mq.errors import Closed, StorageError
from mq.nats.connection import PATIENCE_SECONDS, SILENT, Connection
from mq.nats.message import SHARED, Damaged, Head, begin_of, head_of
from mq.nats.stream import Stream
from mq.nats.wire import Wire, place_of
from mq.notes import ERROR

HEARTBEAT_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 3.0  # without message or heartbeat: the consumer is gone
READ_AGAIN_SECONDS: Final = 0.01  # without a thread that reads: then the loop does
NAP_SECONDS: Final = 0.01  # of a thread that waits at the wire, before it lets others come there
PREFIX: Final = "$JS.ACK."  # of the subject by which a message would be acked
SHORT_WORDS: Final = 9  # of that subject; a longer one has two more words in front
LAST, STALLED = "Nats-Last-Consumer", "Nats-Consumer-Stalled"  # headers of a heartbeat
SEQ, COUNT, TIME = 5, 6, 7  # its words: sequence in the stream, how many were delivered, nanoseconds

Headers = Mapping[str, str] | bytes | None


class Arrival(NamedTuple):
    seq: int
    time_ms: int  # the stream's
    data: bytes
    head: Head | None  # None: it is damaged, which the log says when it comes there

    def is_shared(self) -> bool:
        """Whether it was appended without a comparison."""
        return self.head is not None and bool(self.head.flags & SHARED)


class Arrivals:
    def __init__(
        self, connection: Connection, stream: Stream, came: Callable[[], object],
        applied: Callable[[], int], is_awaited: Callable[[], object],
    ) -> None:  # fmt: skip
        """*came* is called by the loop's thread behind what it reads; *applied* says which one is applied.

        *is_awaited*: a receiver sleeps, until a message comes.
        """
        self._connection, self._stream, self._came, self._applied = connection, stream, came, applied
        self._is_awaited = is_awaited
        # The thread that reads puts in, and the thread with the turn takes out.  After an interruption a
        # message may be there twice.
        self.waiting: deque[Arrival] = deque()
        self.last = 0  # sequence of the last one that came; changed by the thread that reads, and by `begin`
        self.end = 0  # of the log, as far as whole groups have come
        self.compared = 0  # sequence of the last compared one that came, since `begin`
        self._subscription: Subscription | None = None
        self._wire: Wire | None = None  # instead
        self._reading = threading.Lock()  # held while a thread reads the wire, or waits for what comes
        self._is_broken = False  # the wire: it has ended, or a thread was interrupted while it read
        self._read_at = -math.inf  # monotonic seconds, by a thread of the program
        self._rest: asyncio.TimerHandle | None = None  # the loop does not read the wire until then
        self._lost = asyncio.Event()  # set when the wire has ended
        self._telling: asyncio.Future[None] | None = None  # that this is still here, to the server
        self._number = 0  # of this consumer: what another one delivers is late
        self._count = 0  # delivered by this consumer
        self._heard_at = 0.0  # monotonic seconds
        self._watch: asyncio.Task[None] | None = None
        self._moved = threading.Condition()  # notified when `last` has moved, if a thread waits for that
        self._waited = 0  # by how many threads

    # ── for threads of the program ─────────────────────────────────────────────────

    def begin(self, seq: int) -> None:
        """Deliver the messages behind *seq*, whatever was delivered before."""
        self._connection.run(self._begin(seq))

    def look(self) -> None:
        """Take in what has come; called in a turn.  Waits for nothing."""
        # Not in the loop's own thread: a finaliser comes by in it, perhaps while the loop reads.
        if (wire := self._wire) and not self._connection.is_this_thread():
            with self._reading:
                self._read_at = time.monotonic()
                self._read(wire)

    def expect(self) -> None:
        """A receiver goes to sleep: the loop reads."""
        self._read_at = -math.inf
        if self._rest:
            self._connection.call(self._read_by_loop)

    def wait(self, seq: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Return once the message *seq* has come; StorageError if it does not come."""
        self._wait(lambda: self.last >= seq, f"message {seq}", seconds)

    def wait_for_compared(self, seq: int, seconds: float) -> None:
        """The same, of the first compared message behind *seq*."""
        self._wait(lambda: self.compared > seq, f"what was appended behind message {seq}", seconds)

    def _wait(self, has_come: Callable[[], bool], what: str, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while not has_come():
            left = give_up - time.monotonic()
            if left <= 0:
                raise StorageError(self._stream.path, f"{what} has not come within {seconds:g} seconds")
            if not self._wait_at_wire(has_come, min(left, NAP_SECONDS)):
                self._wait_for_others(has_come, left)

    def _wait_at_wire(self, has_come: Callable[[], bool], seconds: float) -> bool:
        """Read what comes, for so long; False: there is no wire.

        Not for long: another thread may wait for a message that comes sooner, or the loop to close the wire.
        """
        if (wire := self._wire) is None:
            return False
        with self._reading:
            if self._is_broken or wire is not self._wire:
                return self._wire is not None and not self._is_broken
            if not has_come() and wire.wait(seconds):
                self._read(wire)
        return True

    def _wait_for_others(self, has_come: Callable[[], bool], seconds: float) -> None:
        """The same; the loop hears what comes."""
        with self._moved:
            self._waited += 1
            try:
                self._moved.wait_for(has_come, seconds)
            finally:
                self._waited -= 1

    def _read(self, wire: Wire) -> None:
        """Take in what has come over the *wire*; called with `_reading`."""
        if wire is not self._wire or self._is_broken:
            return
        self._is_broken = True  # until this is through, uninterrupted
        try:
            wire.read()
            while frame := wire.frame():
                self._hear(frame.reply.decode(), frame.headers, frame.body)
        except BlockingIOError:
            pass
        except (OSError, ValueError):
            self._lose()
            return
        self._is_broken = False

    def _lose(self) -> None:
        """The wire has ended: have the loop begin another consumer."""
        self._heard_at = 0.0
        self._connection.call(self._lost.set)

    def drop(self, seq: int) -> None:
        """Forget the messages up to *seq*: this process has appended them; called in a turn."""
        with suppress(IndexError):
            self._drop(seq)

    def _drop(self, seq: int) -> None:
        while self.waiting[0].seq <= seq:
            self.waiting.popleft()

    def first_compared(self, seq: int, seconds: float) -> Arrival | None:
        """The first compared message behind *seq*, if it comes in time, and is not applied; in a turn."""
        with suppress(StorageError):
            self.wait_for_compared(seq, seconds)
        return self.compared_at_hand(seq)

    def compared_at_hand(self, seq: int) -> Arrival | None:
        """The same, if it has come; called by any thread."""
        return next((each for each in self.behind(seq) if not each.is_shared()), None)

    def at_hand(self, seq: int) -> Arrival | None:
        """The message *seq*, if it has come and is not applied; called by any thread."""
        return next((each for each in self.behind(seq - 1) if each.seq == seq), None)

    def behind(self, seq: int) -> list[Arrival]:
        """Those behind *seq* that have come and are not applied; called by any thread."""
        return [each for each in tuple(self.waiting) if each.seq > seq]

    def close(self) -> None:
        """Deliver nothing more."""
        with suppress(Closed):
            self._connection.run(self._end())
        self.after_fork()

    def after_fork(self) -> None:
        """In a child: its descriptor is closed, and neither the server nor the parent's loop is told."""
        if self._wire:
            self._wire.close()

    # ── on the loop ────────────────────────────────────────────────────────────────

    async def _begin(self, seq: int) -> None:
        if self._watch:
            self._watch.cancel()
        await self._leave()
        self.waiting.clear()
        self.last, self.end, self.compared = seq, begin_of(seq + 1), 0
        await self._subscribe()
        self._watch = asyncio.ensure_future(self._look_after())

    async def _end(self) -> None:
        if self._watch:
            self._watch.cancel()
        await self._leave()

    async def _subscribe(self) -> None:
        """A new consumer, behind the last message that came."""
        await self._leave()
        self._count, self._heard_at = 0, time.monotonic()
        self._number += 1
        inbox = await self._listen_by_wire() or await self._listen()
        config = {
            "deliver_subject": inbox, "deliver_policy": "by_start_sequence", "opt_start_seq": self.last + 1,
            "ack_policy": "none", "max_deliver": 1, "mem_storage": True, "num_replicas": 1,
            "flow_control": True, "idle_heartbeat": int(HEARTBEAT_SECONDS * 1e9),
        }  # fmt: skip
        asked = {"stream_name": self._stream.name, "config": config}
        answer = await self._connection.ask(f"CONSUMER.CREATE.{self._stream.name}", asked)
        if error := answer.get("error"):
            raise StorageError(self._stream.path, f"no consumer can be had: {error.get('description')}")

    async def _listen(self) -> str:
        """Hear what is sent to the subject that this returns."""
        nc = self._connection.nc
        inbox = nc.new_inbox()
        self._subscription = await nc.subscribe(inbox, cb=partial(self._hear_message, self._number))
        return inbox

    async def _listen_by_wire(self) -> str | None:
        """The same; None if it is not possible."""
        loop, place = asyncio.get_running_loop(), place_of(self._connection)
        if place is None:
            return None
        with ThreadPoolExecutor(1, "mq-nats-wire") as pool:  # it may wait, and others go on meanwhile
            try:
                wire = await loop.run_in_executor(pool, Wire, self._connection.address, place)
            except (OSError, ValueError, RuntimeError):  # the last one: no thread can be had
                return None
        self._is_broken, self._wire = False, wire
        loop.add_reader(wire.socket, self._read_wire, wire)
        return wire.inbox

    def _read_wire(self, wire: Wire) -> None:
        """Called by the loop when something has come."""
        if self._is_read_by_others() or not self._reading.acquire(blocking=False):
            asyncio.get_running_loop().remove_reader(wire.socket)
            self._rest = self._rest_a_moment()
            return
        last = self.last
        try:
            self._read(wire)
            is_broken = self._is_broken
        finally:
            self._reading.release()
        if is_broken:
            self._leave_wire()
            self._lose()
        if self.last > last:
            self._came()

    def _is_read_by_others(self) -> bool:
        return not self._is_awaited() and time.monotonic() - self._read_at < READ_AGAIN_SECONDS

    def _rest_a_moment(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(READ_AGAIN_SECONDS, self._read_again)

    def _read_again(self) -> None:
        """Called by the loop when it has rested."""
        if self._is_read_by_others():
            self._rest = self._rest_a_moment()
        else:
            self._read_by_loop()

    def _read_by_loop(self) -> None:
        if self._rest:
            self._rest.cancel()
            self._rest = None
            if wire := self._wire:
                asyncio.get_running_loop().add_reader(wire.socket, self._read_wire, wire)

    def _leave_wire(self) -> None:
        if wire := self._wire:
            self._wire = None  # so no thread waits for long with it
            if self._rest:
                self._rest.cancel()
                self._rest = None
            asyncio.get_running_loop().remove_reader(wire.socket)
            with self._reading:
                wire.close()

    async def _leave(self) -> None:
        self._leave_wire()
        if subscription := self._subscription:
            self._subscription = None
            with suppress(*SILENT):
                await subscription.unsubscribe()

    async def _look_after(self) -> None:
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._lost.wait(), HEARTBEAT_SECONDS)
            self._lost.clear()
            if time.monotonic() - self._heard_at > SILENCE_SECONDS:
                await self._try_to_subscribe()

    async def _try_to_subscribe(self) -> None:
        """Whatever is in the way: it is tried again when the next silence is noticed."""
        try:
            with suppress(StorageError, *SILENT):
                await self._subscribe()
        except Exception as error:  # noqa: BLE001  # else nothing would come any more, unsaid
            self._stream.notes.put_down_rarely(
                ERROR, "%s: no consumer can be had, which is tried again: %r", self._stream.path, error
            )

    async def _hear_message(self, number: int, message: Msg) -> None:
        if number == self._number:  # else of a consumer that was left
            last = self.last
            self._hear(message.reply or "", message.headers, message.data)
            if self.last > last:
                self._came()

    def _hear(self, reply: str, headers: Headers, data: bytes) -> None:
        self._heard_at = time.monotonic()
        if not reply.startswith(PREFIX):
            self._hear_status(reply, fields(headers))
            return
        words = reply.split(".")
        shift = 0 if len(words) == SHORT_WORDS else 2
        if int(words[COUNT + shift]) != self._count + 1:
            self._heard_at = 0.0  # what was lost on the way comes again
            return
        self._count += 1
        seq = int(words[SEQ + shift])
        if seq <= self.last:
            return
        try:
            head = head_of(data)
        except Damaged:
            head = None
        # In this order: what an interruption cuts off comes again.
        if seq > self._applied():  # else this process has appended it
            self.waiting.append(Arrival(seq, int(words[TIME + shift]) // 1_000_000, data, head))
        if head is None or not head.flags & SHARED:
            self.compared = seq
        if head is None or head.part == head.parts:
            self.end = begin_of(seq + 1)
        self.last = seq
        if self._waited:
            with self._moved:
                self._moved.notify_all()

    def _hear_status(self, reply: str, headers: Mapping[str, str]) -> None:
        """A heartbeat, which tells how many were delivered; or the server asks how far this has come."""
        if reply:
            self._say(reply)
        elif int(headers.get(LAST, self._count)) != self._count:
            self._heard_at = 0.0
        elif stalled := headers.get(STALLED):
            self._say(stalled)

    def _say(self, subject: str) -> None:
        """That it has come so far."""
        if wire := self._wire:
            wire.send(f"PUB {subject} 0\r\n\r\n".encode())
        elif self._subscription:  # else a thread has read what the loop is about to leave
            self._telling = asyncio.ensure_future(self._connection.nc.publish(subject, b""))


def fields(headers: Headers) -> Mapping[str, str]:
    """*headers* as nats-py has them, or as they came."""
    if not isinstance(headers, bytes):
        return headers or {}
    pairs = (line.partition(":") for line in headers.decode(errors="replace").split("\r\n"))
    return {key.strip(): value.strip() for key, _, value in pairs}
