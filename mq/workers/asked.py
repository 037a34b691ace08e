"""What workers ask of a broker, its queues and deliveries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol


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
