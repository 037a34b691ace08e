"""Ids that expire, in the order of delivery: a block that has expired as a whole is passed over at once.

      until 12:05          until 12:06          until 13:00
    ┌──┬──┬──┬──┬──┐    ┌──┬──┬──┬──┬──┐    ┌──┬──┬──┐
    │ 7│ 9│12│13│15│    │20│21│30│31│33│    │40│44│50│ ←── append
    └──┴──┴──┴──┴──┘    └──┴──┴──┴──┴──┘    └──┴──┴──┘

Hundreds of thousands of messages may expire at one moment, in front of one that has not.
A heap would have to take out each of them to find that one.  This class looks at each block only.
Entries may be out of date: the caller says which ids are ready, and the others are dropped
when they come up.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from typing import Final

BLOCK_IDS: Final = 1024
STEP_BITS: Final = 64  # a rank is the id, less 2⁶⁴ for each step of priority


class Block:
    """Ids of one priority, ascending; `until`: when the last of them expires, wall time, ms."""

    __slots__ = ("ids", "level", "until")

    def __init__(self, level: int, ids: array[int], until: int) -> None:
        self.level, self.ids, self.until = level, ids, until

    @property
    def rank(self) -> int:
        return self.ids[0] - (self.level << STEP_BITS)


class Blocks(list[Block]):
    """The blocks, by rank; none is empty."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        super().__init__()
        self.size = 0  # ids in all blocks

    def add(self, id: int, level: int, expires: int) -> None:
        self.size += 1
        last = self[-1] if self else None
        if last and level == last.level and id >= last.ids[-1]:  # as a rule
            if len(last.ids) < BLOCK_IDS:
                last.ids.append(id)
                last.until = max(last.until, expires)
            else:
                self.append(Block(level, array("Q", [id]), expires))
            return
        at = bisect_right(self, id - (level << STEP_BITS), key=_rank)
        if at and self[at - 1].level == level:
            at -= 1
        elif at == len(self) or self[at].level != level:
            self.insert(at, Block(level, array("Q", [id]), expires))
            return
        block = self[at]
        insort(block.ids, id)
        block.until = max(block.until, expires)
        if len(block.ids) > 2 * BLOCK_IDS:
            self.insert(at + 1, Block(level, block.ids[BLOCK_IDS:], block.until))
            del block.ids[BLOCK_IDS:]

    def add_run(self, ids: Sequence[int], level: int, expires: int) -> None:
        """`add` for many, which ascend."""
        last = self[-1] if self else None
        if (
            last and level == last.level and ids[0] >= last.ids[-1]
            and len(last.ids) + len(ids) <= BLOCK_IDS
        ):  # fmt: skip
            self.size += len(ids)
            last.ids.extend(ids)
            last.until = max(last.until, expires)
        else:
            for id in ids:
                self.add(id, level, expires)

    def first(self, wall_ms: int, is_ready: Callable[[int], bool]) -> int | None:
        """The rank of the first that is ready; those before it are dropped."""
        while self:
            block = self[0]
            if block.until > wall_ms:
                for index, id in enumerate(block.ids):
                    if is_ready(id):
                        if index:
                            self.size -= index
                            del block.ids[:index]
                        return block.rank
            self.size -= len(block.ids)
            del self[0]
        return None

    def ready(self, wall_ms: int, is_ready: Callable[[int], bool]) -> Iterator[int]:
        """The ranks of all that are ready, in order; nothing is dropped."""
        last = None
        for block in self:
            if block.until > wall_ms:
                base = block.level << STEP_BITS
                for id in block.ids:
                    if id - base != last and is_ready(id):
                        last = id - base
                        yield last

    def oldest(self, wall_ms: int, is_ready: Callable[[int], bool]) -> Iterator[int]:
        """The lowest id of each priority that is ready."""
        level = None
        for block in self:
            if block.level != level and block.until > wall_ms:
                found = next(filter(is_ready, block.ids), None)
                if found is not None:
                    level = block.level
                    yield found

    def sweep(self, is_here: Callable[[int], bool]) -> None:
        """Keep those that are here."""
        for block in self:
            block.ids = array("Q", filter(is_here, block.ids))
        self[:] = [block for block in self if block.ids]
        self.size = sum(len(block.ids) for block in self)


def _rank(block: Block) -> int:
    return block.rank
