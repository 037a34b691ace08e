"""Queues that are still as a checkpoint holds them: each is loaded when it is first needed.

A store may have tens of thousands of queues, and a queue a million delayed messages.
Opening loads none of them: the images hold what all queues together are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from .queue import QueueState
from .subscription import Subscription


class Image(msgspec.Struct, array_like=True, frozen=True):
    """One queue, as a checkpoint holds it.  Times in ms."""

    number: int
    name: str
    goes: bool  # it is deleted when no process receives from it
    lowest: int  # the lowest position of a record about it
    total: int  # messages
    live_bytes: int
    store_alarm: int  # when it has work to do, by store time
    wall_alarm: int  # the same, by wall time
    packs: tuple[int, ...]  # the files that hold its arrays
    contents: msgspec.Raw  # all else
    subscriptions: tuple[Subscription, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()  # of other queues since it was made: see `State.since_loaded`


class Unloaded:
    def __init__(
        self, images: Iterable[Image] = (), load: Callable[[Image], QueueState] | None = None
    ) -> None:  # fmt: skip
        self._images = {image.number: image for image in images}
        self._numbers = {image.name: image.number for image in self._images.values()}
        self._load = load

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Image]:
        return iter(self._images.values())

    def __contains__(self, number: int) -> bool:
        return number in self._images

    def names(self) -> Iterable[str]:
        return self._numbers.keys()

    def number(self, name: str) -> int | None:
        return self._numbers.get(name)

    def total(self, number: int) -> int:
        """How many messages queue *number* holds; 0 if it is not here."""
        image = self._images.get(number)
        return image.total if image else 0

    def name(self, number: int) -> str:
        image = self._images.get(number)
        return image.name if image else ""

    def made(self, number: int) -> QueueState | None:
        """The queue, from its image, which stays here until the caller calls `forget`."""
        image = self._images.get(number)
        if image is None:
            return None
        assert self._load
        return self._load(image)

    def forget(self, number: int) -> None:
        """The queue is loaded, or deleted."""
        if image := self._images.get(number):
            self._numbers.pop(image.name, None)
            del self._images[number]  # last: interrupted before, it is forgotten the next time
