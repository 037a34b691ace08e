"""What the engine knows of two things that users hold: the handle on a queue, and a delivery.

Their classes are above the engine, in api/.  The engine makes deliveries with the class that a handle
names, so that no exception can come between a DELIVER record and the object that stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from mq.delivery.traits import Flight
from mq.engine.bodies import More
from mq.engine.channel import Channel
from mq.engine.store import Store

D_co = TypeVar("D_co", bound="Held", covariant=True)


class Held(Protocol):
    """A delivery: a message, and the right to settle it."""

    id: int
    raw: bytes
    _flight: Flight
    _flags: int
    _more: More | None
    _settled: bool

    @property
    def _queue(self) -> Handle[Any]: ...
    @property
    def _size(self) -> int:
        """What it takes in the log, as it was published."""


D = TypeVar("D", bound=Held)


class Handle(Protocol[D_co]):
    """A queue, as far as receiving from it needs to know."""

    @property
    def name(self) -> str: ...
    @property
    def _store(self) -> Store: ...
    @property
    def _channel(self) -> Channel: ...
    @property
    def _delivery(self) -> Callable[[Any, int, Flight, int, int, bytes, More | None], D_co]:
        """The class of its deliveries: handle, id, flight, flags, when it was created, body, what else."""
