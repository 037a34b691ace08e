"""Messages that several queues hold: each has one record with its body, and one id in all of them.

    id 4711    300 bytes    held by queues 2, 5, 9      the fan-out of one publish to a topic

It says two things that no queue knows by itself: which queues a message is to be moved for when its
record is, and how many bytes are counted more than once when those of all queues are added up.
A message that only one queue holds is not here.

There may be millions, so a message takes 16 bytes here: sorted arrays of ids, sizes, and the number of
a set of queues, which most messages share.  A message that is gone leaves a hole until half of its
chunk is holes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

CHUNK_IDS: Final = 1024
HOLE: Final = 0  # instead of the number of a set

Holders = tuple[int, ...]
"""The numbers of the queues that hold a message, ascending; two at least."""


class _Sets:
    """Sets of queues, by small numbers, for as long as a message has one."""

    __slots__ = ("_free", "_numbers", "_uses", "every")

    def __init__(self) -> None:
        self.every: list[Holders] = [()]  # by number; the first one stands for a hole
        self._uses = [0]  # how many messages have each
        self._numbers: dict[Holders, int] = {}
        self._free: list[int] = []

    def use(self, holders: Holders) -> int:
        number = self._numbers.get(holders)
        if number is None:
            if self._free:
                number = self._free.pop()
                self.every[number] = holders
            else:
                number = len(self.every)
                self.every.append(holders)
                self._uses.append(0)
            self._numbers[holders] = number
        self._uses[number] += 1
        return number

    def drop(self, number: int) -> None:
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._numbers[self.every[number]]
            self.every[number] = ()
            self._free.append(number)


class _Chunk:
    """Ids that ascend, and for each the size and the number of its set."""

    __slots__ = ("ids", "live", "sets", "sizes")

    def __init__(self, ids: Iterable[int] = (), sizes: Iterable[int] = (), sets: Iterable[int] = ()) -> None:
        self.ids, self.sizes, self.sets = array("Q", ids), array("I", sizes), array("I", sets)
        self.live = len(self.ids)  # without holes

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return (each for each in zip(self.ids, self.sizes, self.sets, strict=True) if each[2])

    def copy(self) -> _Chunk:
        return _Chunk(self.ids, self.sizes, self.sets)


class Shares:
    __slots__ = ("_chunks", "_count", "_firsts", "_sets", "extra_bytes")

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._firsts: list[int] = []  # for each chunk: no id in it is smaller, and none before it is as large
        self._sets = _Sets()
        self._count = 0
        # What is counted more than once.  0 if there is nothing here: it is looked at wherever a message
        # leaves a queue.
        self.extra_bytes = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, id: int) -> bool:
        return self._find(id) is not None

    def holders(self, id: int) -> Holders:
        """The queues that hold the message; empty if they are not several."""
        if not self._count:
            return ()
        found = self._find(id)
        return self._sets.every[found[0].sets[found[1]]] if found else ()

    def held_by(self, queue: int) -> list[int]:
        """The ids of those that this *queue* holds, and others too."""
        numbers = {number for number, holders in enumerate(self._sets.every) if queue in holders}
        chunks = [chunk for chunk in self._chunks if not numbers.isdisjoint(chunk.sets)] if numbers else []
        return [id for chunk in chunks for id, _, number in chunk if number in numbers]

    # ── the fold ───────────────────────────────────────────────────────────────────

    def note(self, id: int, size: int, holders: Holders) -> None:
        """A new message, which has a greater id than all; *holders* are two or more, ascending."""
        chunks = self._chunks
        if not chunks or len(chunks[-1].ids) >= CHUNK_IDS:
            chunks.append(_Chunk())
            self._firsts.append(id)
        last = chunks[-1]
        last.ids.append(id)
        last.sizes.append(size)
        last.sets.append(self._sets.use(holders))
        last.live += 1
        self._count += 1
        self.extra_bytes += size * (len(holders) - 1)

    def put(self, id: int, size: int, holders: Iterable[int]) -> None:
        """These queues hold the message, and no other one does."""
        several = tuple(sorted(holders))
        found = self._find(id)
        if found is not None:
            chunk, at = found
            before = self._sets.every[chunk.sets[at]]
            if len(several) > 1:
                number = self._sets.use(several)
                self._sets.drop(chunk.sets[at])
                chunk.sets[at] = number
                self.extra_bytes += chunk.sizes[at] * (len(several) - len(before))
            else:
                self.extra_bytes -= chunk.sizes[at] * (len(before) - 1)
                self._remove(id, chunk, at)
        elif len(several) > 1:
            if not self._chunks or id > self._chunks[-1].ids[-1]:
                self.note(id, size, several)
            else:
                self._insert(id, size, several)

    def add_holder(self, ids: Sequence[int], sizes: Sequence[int], holder: int, queue: int) -> None:
        """Messages that *holder* holds, and perhaps other queues, are held by *queue* as well."""
        for id, size in zip(ids, sizes, strict=True):
            self.put(id, size, {*self.holders(id), holder, queue})

    def let_go(self, id: int, queue: int) -> None:
        """The message left this *queue*."""
        found = self._find(id) if self._count else None
        if found is None:
            return
        chunk, at = found
        holders = self._sets.every[chunk.sets[at]]
        if queue in holders:
            self.extra_bytes -= chunk.sizes[at]
            if len(holders) > 2:
                number = self._sets.use(tuple([each for each in holders if each != queue]))
                self._sets.drop(chunk.sets[at])
                chunk.sets[at] = number
            else:
                self._remove(id, chunk, at)

    def carry(self, id: int, queue: int, to: int) -> None:
        """The message went from this *queue* to another one."""
        holders = self.holders(id)
        if queue in holders:
            self.put(id, 0, {to if each == queue else each for each in holders})

    # ── inside ─────────────────────────────────────────────────────────────────────

    def _find(self, id: int) -> tuple[_Chunk, int] | None:
        """The chunk, and the index in it, where *id* is."""
        number = bisect_right(self._firsts, id) - 1
        if number < 0:
            return None
        chunk = self._chunks[number]
        at = bisect_left(chunk.ids, id)
        return (chunk, at) if at < len(chunk.ids) and chunk.ids[at] == id and chunk.sets[at] else None

    def _insert(self, id: int, size: int, holders: Holders) -> None:
        number = max(0, bisect_right(self._firsts, id) - 1)
        chunk = self._chunks[number]
        self._firsts[number] = min(self._firsts[number], id)
        at = bisect_left(chunk.ids, id)
        if at < len(chunk.ids) and chunk.ids[at] == id:  # a hole
            chunk.sizes[at], chunk.sets[at] = size, self._sets.use(holders)
        else:
            chunk.ids.insert(at, id)
            chunk.sizes.insert(at, size)
            chunk.sets.insert(at, self._sets.use(holders))
        chunk.live += 1
        self._count += 1
        self.extra_bytes += size * (len(holders) - 1)
        if len(chunk.ids) > 2 * CHUNK_IDS:
            behind = _Chunk(chunk.ids[CHUNK_IDS:], chunk.sizes[CHUNK_IDS:], chunk.sets[CHUNK_IDS:])
            behind.live -= behind.sets.count(HOLE)
            chunk.live -= behind.live
            del chunk.ids[CHUNK_IDS:], chunk.sizes[CHUNK_IDS:], chunk.sets[CHUNK_IDS:]
            self._chunks.insert(number + 1, behind)
            self._firsts.insert(number + 1, behind.ids[0])

    def _remove(self, id: int, chunk: _Chunk, at: int) -> None:
        self._sets.drop(chunk.sets[at])
        chunk.sets[at] = HOLE
        chunk.live -= 1
        self._count -= 1
        if 2 * chunk.live <= len(chunk.ids):
            number = bisect_right(self._firsts, id) - 1
            if chunk.live:
                self._chunks[number] = _Chunk(*zip(*chunk, strict=True))
            else:
                del self._chunks[number], self._firsts[number]

    # ── checkpoints ────────────────────────────────────────────────────────────────

    def freeze(self) -> Frozen:
        """What is here now: not changed afterwards."""
        return Frozen([chunk.copy() for chunk in self._chunks], self._sets.every.copy())

    def restore(self, columns: bytes, several: list[Holders]) -> None:
        """Be what `Frozen.columns` gave."""
        words = array("Q")
        words.frombytes(columns)
        count = len(words) // 3
        for id, size, which in zip(words[:count], words[count : 2 * count], words[2 * count :], strict=True):
            self.note(id, size, several[which])


class Frozen:
    """The messages that several queues held at one time."""

    __slots__ = ("_chunks", "_sets")

    def __init__(self, chunks: list[_Chunk], sets: list[Holders]) -> None:
        self._chunks, self._sets = chunks, sets

    def columns(self) -> tuple[bytes, list[Holders]]:
        """Ids, sizes and which holders, as u64; and the holders."""
        columns = [array("Q") for _ in range(3)]
        for chunk in self._chunks:
            for id, size, number in chunk:
                columns[0].append(id)
                columns[1].append(size)
                columns[2].append(number)
        return b"".join(columns), self._sets
