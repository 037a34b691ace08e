"""What a user holds: a Message, and a Delivery, which is a Message and the right to settle it.

Annotations are no texts here: msgspec evaluates those of a class, and looks for names in the module that the
class says it is of, which is `mq`.
"""

from collections.abc import Mapping
from datetime import datetime
from traceback import format_exception_only
from types import MappingProxyType, TracebackType
from typing import Any, Final, Generic, NamedTuple, NewType, Protocol, Self, TypeVar

import msgspec

from mq.delivery.queue import State
from mq.delivery.traits import Flight
from mq.engine import hot
from mq.engine.bodies import Decoder, More
from mq.engine.handle import Handle
from mq.errors import MqError
from mq.instants import datetime_at

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Receipt = NewType("Receipt", str)
"""The right to settle one delivery, as text: survives restarts and other processes."""

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Failure(NamedTuple):
    """One failed attempt.

    at         when it failed, an aware datetime
    reason     why: what was given to `nack` or `reject`, or the exception that left the block; 1 KiB of it
    attempt    which number the attempt had; the first is 1
    """

    at: datetime
    reason: str
    attempt: int


class Origin(Handle["Delivery[Any]"], Protocol):
    """The queue that a message came from, as far as the message needs it."""

    @property
    def _decoder(self) -> Decoder: ...
    @property
    def _face(self) -> Any: ...
    def _receipt(self, id: int, lsn: int, /) -> Receipt: ...
    def _nack(self, message: "Leased[Any]", delay: float | None, reason: str, /) -> None: ...
    def _release(self, message: "Leased[Any]", /) -> None: ...
    def _reject(self, message: "Leased[Any]", reason: str, /) -> None: ...
    def _extend(self, message: "Leased[Any]", seconds: float | None, /) -> None: ...
    def _skew_ms(self) -> int: ...
    def _received_ms(self, id: int, receipt: int, /) -> int | None: ...
    def _is_inherited(self, message: "Leased[Any]", /) -> bool: ...


class Message(msgspec.Struct, Generic[T_co], eq=False, gc=False):
    """A message as it is stored: a snapshot, read-only.

    id         its id: a number that grows with each publish to the store
    raw        the body as stored, bytes
    state      "ready", "delayed" or "in_flight"
    """

    _queue: Origin
    id: int
    _flight: Flight  # what the queue's state knows of it; a deadline that is a due if it is not in flight
    _flags: int
    _created_ms: int
    raw: bytes
    _more: More | None = None
    state: State = "in_flight"
    _body: Any = msgspec.UNSET

    @property
    def attempts(self) -> int:
        """How often it was delivered from this queue, this time included; released ones do not count."""
        return self._flight.attempts

    @property
    def queue(self) -> str:
        """The name of the queue that it was received from, or looked at in."""
        return self._queue.name

    @property
    def topic(self) -> str | None:
        """The topic that it was published to; None if it was published to a queue."""
        return self._more.said.topic if self._more else None

    @property
    def priority(self) -> int:
        """0 to 255, as published; a higher one is delivered first."""
        return self._more.said.priority if self._more else 0

    @property
    def group(self) -> str | None:
        """The group that it was published with, if any."""
        return self._more.said.group if self._more else None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that it was published with; read-only."""
        return MappingProxyType(self._more.said.headers) if self._more else NO_HEADERS

    @property
    def origin(self) -> str | None:
        """The name of the queue that it died in, if it is a dead letter."""
        return self._more.traits.origin if self._more else None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The first failed attempt and the last few; of a dead letter, those where it died."""
        if self._more is None or not self._more.traits.failures:
            return ()
        skew_ms = self._queue._skew_ms()  # they are in store time, and people look at the wall clock
        return tuple(
            Failure(datetime_at(each.at + skew_ms), each.reason, each.attempt)
            for each in self._more.traits.failures
        )

    @property
    def _size(self) -> int:
        """What it takes in the log, as it was published."""
        return self._more.size if self._more else len(self.raw)

    @property
    def created_at(self) -> datetime:
        """When it was published, by the wall clock."""
        return datetime_at(self._created_ms)

    @property
    def first_received_at(self) -> datetime | None:
        """When it was first delivered from this queue, by the wall clock; the log is asked when you ask.

        None if it never was.  Also if it arrived settled (delivery="at_most_once"), and once it is gone from
        the queue and from the log.

        Raises Closed.
        """
        flight = self._flight
        receipt = flight.traits.first or flight.receipt
        found = self._queue._received_ms(self.id, receipt) if receipt else None
        return None if found is None else datetime_at(found)

    @property
    def expires_at(self) -> datetime | None:
        """When it expires, unless it is in flight then; None if never."""
        expires = self._more.traits.expires if self._more else 0
        return datetime_at(expires) if expires else None

    @property
    def _due_ms(self) -> int | None:
        return self._flight.deadline or None

    @property
    def due_at(self) -> datetime | None:
        """When it will be ready, if it is delayed; when its delivery times out, if it is in flight.

        In the year 10000 or later: the last moment that a datetime can say.
        """
        due_ms = self._due_ms
        if due_ms is None:
            return None
        # Deadlines are in store time, and people look at the wall clock.
        skew_ms = self._queue._skew_ms() if self.state == "in_flight" else 0
        return datetime_at(due_ms + skew_ms)

    @property
    def body(self) -> T_co:
        """The body, decoded when it is first read: bytes, text or a structure, as it was published.

        Raises BadBody if it does not fit the queue's type; `raw` has its bytes.
        """
        if self._body is msgspec.UNSET:
            self._body = self._queue._decoder.decode(self.queue, self.id, self._flags, self.raw)
        return self._body  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        where = repr(self.queue) if self.queue else f"topic {self.topic!r}"  # it is one of a history
        return (
            f"<{type(self).__name__} {self.id} in {where}: {self.state}, attempts {self.attempts},"
            f" {len(self.raw)} bytes>"
        )


class Leased(Message[T_co], eq=False, gc=False):
    """What a delivery is, for threads and for tasks: a message and the right to settle it."""

    _settled: bool = False
    _buffered: bool = False  # a transaction that is not over yet is to settle it

    @property
    def _is_left(self) -> bool:
        """Whether the end of a block that did not raise has nothing to settle."""
        return self._settled or self._buffered or self._queue._is_inherited(self)

    @property
    def _lsn(self) -> int:
        """Of its DELIVER record; of the n-th message there, n more."""
        return self._flight.receipt

    @property
    def receipt(self) -> Receipt:
        """Text with which any process can settle this delivery: `queue.ack_many([receipt])`."""
        return self._queue._receipt(self.id, self._lsn)

    def _end(self, error: BaseException | None) -> None:
        """Settle it at the end of a block, unless it is settled; *error*: what left the block."""
        if error is None:
            if not self._is_left:
                hot.ack(self)
            return
        if self._settled or self._queue._is_inherited(self):
            return
        try:
            if isinstance(error, Exception):
                # This also knows what to do with an exception whose own __str__ fails.
                self._queue._nack(self, None, "".join(format_exception_only(error)).strip())
            else:
                self._queue._release(self)
        except MqError as failure:  # closed meanwhile, stale, …: the first exception is the one to see
            error.add_note(f"mq: {failure}")


class Delivery(Leased[T_co], eq=False, gc=False):
    """A message and the right to settle it: what `receive` returns.

    Every method raises StaleReceipt once that right is gone: the delivery was settled,
    or its visibility timeout passed and the message was delivered again.  And Closed, once the
    broker is.

    As a context manager: ack at the end; on an Exception nack, on KeyboardInterrupt and
    the like release; always raises the exception again; nothing if you settled it yourself,
    or a transaction around the block is to settle it, and nothing in the child of a fork, for
    the work is the parent's.
    """

    def ack(self) -> None:
        """Done: the message is gone.

        Raises StaleReceipt, Closed.
        """
        hot.ack(self)

    def nack(self, *, delay: float | None = None, reason: str = "") -> None:
        """Failed: the message is delivered again, or goes to the dead letters after the last attempt.

        *delay*: seconds until then; None (the default): the queue's backoff, which grows with the attempts.
        *reason*: text that is kept with the message, in `failures`.

        Raises StaleReceipt, UsageError, Closed.
        """
        self._queue._nack(self, delay, reason)

    def release(self) -> None:
        """Not tried: the message is back in its place at once, and the attempt is not counted.

        Raises StaleReceipt, Closed.
        """
        self._queue._release(self)

    def reject(self, reason: str = "") -> None:
        """Never to be tried again: the message goes to the dead letters now.

        *reason*: text that is kept with the message, in `failures`.

        Raises StaleReceipt, UsageError, Closed.
        """
        self._queue._reject(self, reason)

    def extend(self, seconds: float | None = None) -> None:
        """Keep it for longer: it is delivered again *seconds* from now, unless it is settled.

        *seconds*: None (the default): the queue's visibility timeout.

        Raises StaleReceipt, UsageError, Closed.
        """
        self._queue._extend(self, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)


class LoopDelivery(Delivery[T_co], eq=False, gc=False):
    """What a loop hands out whose next message comes with the ack: see mq/engine/ahead.py."""

    _loop: Any = None

    def ack(self) -> None:
        """See `Delivery.ack`."""
        self._loop.ack(self)

    def _end(self, error: BaseException | None) -> None:
        if error is None and not self._is_left:
            self.ack()
        else:
            Delivery._end(self, error)
