"""Queues as a checkpoint holds them, which nothing has touched since: each is made when it is first needed.

A store may have tens of thousands of queues, and a queue a million delayed messages.
Opening makes none of them: what all queues together are asked is in the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from .queue import QueueState


class Image(msgspec.Struct, array_like=True, frozen=True):
    """One queue."""

    number: int
    name: str
    goes: bool  # when it is not used
    lowest: int  # no record that says anything of it stands before that
    total: int  # messages
    live_bytes: int
    store_alarm: int  # when it has work to do, by store time and by wall time
    wall_alarm: int
    packs: tuple[int, ...]  # files with its arrays
    contents: msgspec.Raw  # all else


class Unloaded:
    def __init__(
        self, images: Iterable[Image] = (), wake: Callable[[Image], QueueState] | None = None
    ) -> None:  # fmt: skip
        self._images = {image.number: image for image in images}
        self._numbers = {image.name: image.number for image in self._images.values()}
        self._load = wake

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

    def made(self, number: int) -> QueueState | None:
        """The queue, from its image; it sleeps until it is `forgotten`."""
        image = self._images.get(number)
        if image is None:
            return None
        assert self._load
        return self._load(image)

    def forget(self, number: int) -> None:
        """The queue is awake, or deleted."""
        if image := self._images.get(number):
            self._numbers.pop(image.name, None)
            del self._images[number]  # last: interrupted before, it is forgotten the next time
