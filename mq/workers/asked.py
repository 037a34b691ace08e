"""What workers ask of a broker, its queues and deliveries; and what a program asks of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

Strategy = Literal["round_robin", "least_busy", "random"]

Wrap = Callable[[Any, Callable[[], object]], object]
"""Around a call of a handler: given the delivery (of a batch: the list) and what calls the rest."""


class Held(Protocol):
    """A delivery."""

    id: int
    _settled: bool
    _queue: Any

    @property
    def body(self) -> Any: ...


class Source(Protocol):
    """A queue."""

    @property
    def name(self) -> str: ...
    def receive_many(self, limit: int, timeout: float | None = None) -> list[Any]: ...
    def _takes_ahead(self) -> bool:
        """Whether an ack may take the next message along, and that is cheaper than to receive it."""

    def _ack_and_take(self, message: Any) -> Any | None:
        """Ack it; the next one, if it came along."""

    def ack_many(self, messages: Iterable[Any]) -> None: ...
    def nack_many(
        self, messages: Iterable[Any], *, delay: float | None = None, reason: str = ""
    ) -> None: ...  # fmt: skip
    def release_many(self, messages: Iterable[Any]) -> None: ...
    def reject_many(self, messages: Iterable[Any], reason: str = "") -> None: ...
    def stats(self) -> Counts: ...


class Counts(Protocol):
    """What a queue holds."""

    @property
    def ready(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def delayed(self) -> int: ...
    @property
    def paused(self) -> bool: ...


class Watching(Protocol):
    def arm(self, queues: Iterable[Any]) -> float: ...
    def close(self) -> None: ...


class Keeper(Protocol):
    """A broker."""

    def watch(self, notify: Callable[[], None]) -> Watching: ...
    def keep(self, delivery: Any) -> None: ...
