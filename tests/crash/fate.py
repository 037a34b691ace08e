"""What a power cut leaves of the un-synced.

All of it comes from `pick(n)`, a number in [0, n): drawn from a seeded Random to sample,
or counted through by an Odometer to visit every combination.

A *weather* decides for all files at once, because single coins rarely fall together:

    ALL      everything un-synced got there
    NONE     nothing did
    PREFIX   what was written before some moment, the last piece of it torn
    SUBSET   each piece did or did not
    WILD     each piece: whole, not, torn at either end, with garbage, or stale bytes
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from .disk import Change, Growth, Write

ALL, NONE, PREFIX, SUBSET, WILD = range(5)
DATA = (ALL, NONE, NONE, PREFIX, PREFIX, PREFIX, SUBSET, SUBSET, WILD, WILD, WILD, WILD)
NAMES = (ALL, ALL, NONE, SUBSET, SUBSET)
WORDS = (ALL, ALL, ALL, NONE, SUBSET)

GARBAGE = random.Random(0).randbytes(8192)

TAIL_BYTES = 24  # of zeros that a record may end in

Pick = Callable[[int], int]


class Fate:
    def __init__(self, pick: Pick, data: int, names: int, words: int) -> None:
        self.pick, self._data, self._names, self._words = pick, data, names, words
        self._moment = 0

    def __str__(self) -> str:
        labels = ("all", "none", "prefix", "subset", "wild")
        data, names, words = (labels[each] for each in (self._data, self._names, self._words))
        return f"data: {data}, names: {names}, words: {words}"

    def begin(self, orders: list[int]) -> None:
        """What is un-synced was written at these moments."""
        if self._data == PREFIX and orders:
            self._moment = orders[self.pick(len(orders))]

    def file(self, base: bytes, pending: Sequence[Write | Growth], stale: list[bytes]) -> bytes:
        """The platter's bytes of a file."""
        if self._data == NONE:
            return base
        content = bytearray(base)
        sizes = [len(base)]
        for each in pending:
            if isinstance(each, Growth):
                sizes.append(each.size)
                continue
            end = each.offset + len(each.data)
            if end > len(content):
                content += bytes(end - len(content))
            under = bytes(content[each.offset : end])
            # A sector of zeros was never written, unless a record that is on the platter ends in it.
            fresh = not under.strip(b"\0") and not base[max(0, each.offset - TAIL_BYTES) : end].strip(b"\0")
            content[each.offset : end] = self._piece(each, under, stale, fresh)
        size = self._size(sizes, pending)
        return bytes(content[:size]) + bytes(max(0, size - len(content)))

    def _piece(self, write: Write, under: bytes, stale: list[bytes], fresh: bool) -> bytes:
        if self._data == ALL:
            return write.data
        if self._data == PREFIX:
            if write.order != self._moment:
                return write.data if write.order < self._moment else under
            cut = self.pick(len(write.data) + 1)
            return write.data[:cut] + under[cut:]
        if self._data == SUBSET:
            return write.data if self.pick(2) else under
        return self._wild(write, under, stale, fresh)

    def _wild(self, write: Write, under: bytes, stale: list[bytes], fresh: bool) -> bytes:
        size = len(write.data)
        how = self.pick(7 if fresh else 4)
        if how == 0:
            return write.data
        if how == 1:
            return under
        cut = self.pick(size)
        if how == 2:
            return write.data[:cut] + under[cut:]
        if how == 3:
            return under[:cut] + write.data[cut:]
        if how == 6 and stale:
            left = stale[self.pick(len(stale))][write.offset : write.offset + size]
            return left + bytes(size - len(left))
        start = self.pick(len(GARBAGE) - size)
        garbage = GARBAGE[start : start + size]
        return garbage if how == 5 else write.data[:cut] + garbage[cut:]

    def _size(self, sizes: list[int], pending: Sequence[Write | Growth]) -> int:
        if self._data == ALL or self.pick(2):
            return max(sizes)
        return sizes[self.pick(len(sizes))]

    def change(self, change: Change) -> Change | None:
        """What of a change to a directory is there.  Half a rename is a second name, never none."""
        if self._names != SUBSET:
            return change if self._names == ALL else None
        how = self.pick(3 if change.gone and change.name else 2)
        if how == 2:
            return change._replace(gone=None)
        return change if how else None

    def word(self, values: list[int]) -> int:
        """The value of a word of the mapped page: the newest, the oldest, or any it ever had."""
        if self._words == ALL:
            return values[-1]
        return values[0] if self._words == NONE else values[self.pick(len(values))]


def draw(rng: random.Random) -> Fate:
    """Any fate."""
    number = rng.random

    def pick(n: int) -> int:
        return int(number() * n)

    return Fate(pick, DATA[pick(len(DATA))], NAMES[pick(len(NAMES))], WORDS[pick(len(WORDS))])


def evicting(rng: random.Random) -> Fate:
    """The fate of pages that a failed fsync marked clean: each on the platter or not."""
    return Fate(rng.randrange, (NONE, SUBSET)[rng.randrange(2)], ALL, ALL)


def everything() -> Iterator[Fate]:
    """Every subset of pieces, names and words; endless if there is no end to them, so take some."""
    odometer: list[list[int]] = []  # [value, how many], by position
    while True:
        at = 0

        def pick(n: int) -> int:
            nonlocal at
            if at == len(odometer):
                odometer.append([0, n])
            at += 1
            return odometer[at - 1][0]

        yield Fate(pick, SUBSET, SUBSET, SUBSET)
        while odometer and odometer[-1][0] == odometer[-1][1] - 1:
            odometer.pop()
        if not odometer:
            return
        odometer[-1][0] += 1


def nothing_but_the_platter() -> Fate:
    return Fate(lambda n: 0, NONE, NONE, NONE)
