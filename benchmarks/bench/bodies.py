"""Bodies with numbers in them, and the ledger that finds each number again."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache
from struct import Struct

NUMBER = Struct("<Q")
POOL_BYTES = 4 << 20
STOP = (1 << 64) - 1  # the number of a message that ends its receiver


class Wrong(Exception):
    """A message was lost, doubled, altered or invented."""


@cache
def pool() -> bytes:
    """Random bytes, the same in each process."""
    return random.Random(0).randbytes(POOL_BYTES)


def place(number: int, rest: int) -> int:
    """Where in the pool the bytes of this message are: those of its neighbours are beside them.

    So nothing that compresses blocks of messages finds anything twice.
    """
    return number * (rest + 5) % (POOL_BYTES - rest)


def make(numbers: Iterable[int], size: int) -> list[bytes]:
    pack, bytes_of_all, rest = NUMBER.pack, pool(), size - NUMBER.size
    bodies = []
    for number in numbers:
        at = place(number, rest)
        bodies.append(pack(number) + bytes_of_all[at : at + rest])
    return bodies


def stop(size: int) -> bytes:
    return make([STOP], size)[0]


def number_of(body: bytes) -> int:
    number: int = NUMBER.unpack_from(body)[0]
    return number


def numbers_of(bodies: Iterable[bytes], size: int) -> list[int]:
    """Their numbers, for a ledger that another process keeps; Wrong if a body was altered."""
    numbers = []
    for body in bodies:
        if not is_whole(body, size):
            raise Wrong("a body was altered")
        numbers.append(number_of(body))
    return numbers


def is_whole(body: bytes, size: int) -> bool:
    """Whether it is, byte for byte, the body of its number."""
    at, rest = place(number_of(body), size - NUMBER.size), size - NUMBER.size
    return body[NUMBER.size :] == pool()[at : at + rest]


class Ledger:
    """What was published, and how often each of it came out again."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._published = bytearray()  # by number: 1 if it was
        self._found = bytearray()  # by number: how often, up to 255
        self._strange = 0  # what is none of ours: altered, or invented

    def published(self, numbers: range) -> None:
        assert numbers.step == 1
        missing = numbers.stop - len(self._published)
        self._published.extend(bytes(max(0, missing)))
        self._published[numbers.start : numbers.stop] = bytes([1]) * len(numbers)

    def found(self, bodies: Iterable[bytes]) -> int:
        """Note that they came out; how many they were."""
        count = 0
        for count, body in enumerate(bodies, 1):  # noqa: B007 it is returned
            if is_whole(body, self._size):
                self.found_numbers([number_of(body)])
            else:
                self._strange += 1
        return count

    def found_numbers(self, numbers: list[int]) -> int:
        found, largest = self._found, len(self._published)
        found.extend(bytes(largest - len(found)))
        for number in numbers:
            if number < largest:
                found[number] = min(255, found[number] + 1)
            else:
                self._strange += 1
        return len(numbers)

    def check(self) -> None:
        """Raise Wrong unless each message that was published came out once, as it was."""
        found = self._found.ljust(len(self._published), b"\0")
        lost = invented = doubled = 0
        for was, times in zip(self._published, found, strict=True):
            lost += was and not times
            doubled += times > 1
            invented += not was and times > 0
        told = [
            f"{count} {what}"
            for count, what in (
                (lost, "lost"),
                (doubled, "doubled"),
                (self._strange, "altered or invented"),
                (invented, "there that were not published"),
            )
            if count
        ]
        if told:
            raise Wrong(", ".join(told))
