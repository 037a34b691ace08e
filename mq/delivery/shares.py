"""Messages that several queues hold: each has one record with its body, and one id in all of them.

    id 4711    300 bytes    held by queues 2, 5, 9      the fan-out of one publish to a topic

It says two things that no queue knows by itself: which queues a message is to be moved for when its
record is, and how many bytes are counted more than once when those of all queues are added up.
A message that only one queue holds is not here.

There may be millions, so a message takes 16 bytes here: sorted arrays of ids, sizes, and the number of
a set of queues, which most messages share.  A message that is gone leaves a hole until half of its
chunk is holes.  When all messages leave a queue, which is purged or deleted, only the sets change: those of
which one queue is left are holes from then on, and the chunks are looked at one by one later.
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

    __slots__ = ("_free", "_numbers", "bytes", "every", "uses")

    def __init__(self) -> None:
        self.every: list[Holders] = [()]  # by number; an empty one, as the first, stands for a hole
        self.uses = [0]  # how many messages have each, holes included
        self.bytes = [0]  # and how many bytes those have together
        self._numbers: dict[Holders, int] = {}
        self._free: list[int] = []

    def use(self, holders: Holders, size: int, count: int = 1) -> int:
        """The number of the set that *count* messages more have, of *size* bytes together."""
        number = self._numbers.get(holders)
        if number is None:
            if self._free:
                number = self._free.pop()
                self.every[number] = holders
            else:
                number = len(self.every)
                self.every.append(holders)
                self.uses.append(0)
                self.bytes.append(0)
            self._numbers[holders] = number
        self.uses[number] += count
        self.bytes[number] += size
        return number

    def drop(self, number: int, size: int, count: int = 1) -> None:
        self.uses[number] -= count
        self.bytes[number] -= size
        if not self.uses[number]:
            self.rename(number, ())
            self._free.append(number)

    def rename(self, number: int, holders: Holders) -> None:
        """All messages that have this set have these *holders* now; none: they are holes."""
        if self._numbers.get(self.every[number]) == number:
            del self._numbers[self.every[number]]
        self.every[number] = holders
        if holders:
            self._numbers.setdefault(holders, number)


class _Chunk:
    """Ids that ascend, and for each the size and the number of its set."""

    __slots__ = ("ids", "live", "sets", "sizes")

    def __init__(self, ids: Iterable[int] = (), sizes: Iterable[int] = (), sets: Iterable[int] = ()) -> None:
        self.ids, self.sizes, self.sets = array("Q", ids), array("I", sizes), array("I", sets)
        self.live = len(self.ids)  # without holes, but for those of a queue that was purged

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.ids, self.sizes, self.sets, strict=True)

    def copy(self) -> _Chunk:
        return _Chunk(self.ids, self.sizes, self.sets)


class Shares:
    __slots__ = ("_chunks", "_count", "_firsts", "_sets", "_untidy", "extra_bytes")

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._firsts: list[int] = []  # for each chunk: no id in it is smaller, and none before it is as large
        self._sets = _Sets()
        self._count = 0
        self._untidy = 0  # so many chunks, from the first on, have holes that are not counted
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

    # ── the fold ───────────────────────────────────────────────────────────────────

    def note(self, id: int, size: int, holders: Holders) -> None:
        """A new message, which has a greater id than all; *holders* are two or more, ascending."""
        if self._untidy:
            self._tidy_one()
        chunks = self._chunks
        if not chunks or len(chunks[-1].ids) >= CHUNK_IDS:
            chunks.append(_Chunk())
            self._firsts.append(id)
        last = chunks[-1]
        last.ids.append(id)
        last.sizes.append(size)
        last.sets.append(self._sets.use(holders, size))
        last.live += 1
        self._count += 1
        self.extra_bytes += size * (len(holders) - 1)

    def put(self, id: int, size: int, holders: Iterable[int]) -> None:
        """These queues hold the message, and no other one does."""
        if self._untidy:
            self._tidy_one()
        several = tuple(sorted(holders))
        found = self._find(id)
        if found is not None:
            chunk, at = found
            before, known = self._sets.every[chunk.sets[at]], chunk.sizes[at]
            if len(several) > 1:
                number = self._sets.use(several, known)
                self._sets.drop(chunk.sets[at], known)
                chunk.sets[at] = number
                self.extra_bytes += known * (len(several) - len(before))
            else:
                self.extra_bytes -= known * (len(before) - 1)
                self._remove(id, chunk, at)
        elif len(several) > 1:
            if not self._chunks or id > self._chunks[-1].ids[-1]:
                self.note(id, size, several)
            else:
                self._insert(id, size, several)

    def add_holder(self, ids: Sequence[int], sizes: Sequence[int], holder: int, queue: int) -> None:
        """Messages that *holder* holds, and perhaps other queues, are held by *queue* as well: ids ascend."""
        if self._chunks and self._add_together(ids, sizes, holder, queue):
            return
        for id, size in zip(ids, sizes, strict=True):
            self.put(id, size, {*self.holders(id), holder, queue})

    def let_go(self, id: int, queue: int) -> None:
        """The message left this *queue*."""
        if self._untidy:
            self._tidy_one()
        found = self._find(id) if self._count else None
        if found is None:
            return
        chunk, at = found
        holders = self._sets.every[chunk.sets[at]]
        if queue in holders:
            size = chunk.sizes[at]
            self.extra_bytes -= size
            if len(holders) > 2:
                number = self._sets.use(tuple([each for each in holders if each != queue]), size)
                self._sets.drop(chunk.sets[at], size)
                chunk.sets[at] = number
            else:
                self._remove(id, chunk, at)

    def carry(self, id: int, queue: int, to: int) -> None:
        """The message went from this *queue* to another one."""
        holders = self.holders(id)
        if queue in holders:
            self.put(id, 0, {to if each == queue else each for each in holders})

    def leave(self, queue: int, kept: Iterable[int]) -> None:
        """All messages left this *queue*, but those that are *kept*."""
        stay = [(id, holders) for id in kept if queue in (holders := self.holders(id))]
        sizes = [self._size(id) for id, _ in stay]
        sets = self._sets
        for number, holders in enumerate(sets.every):
            if queue in holders:
                others = tuple(each for each in holders if each != queue)
                self.extra_bytes -= sets.bytes[number]
                if len(others) > 1:
                    sets.rename(number, others)
                else:
                    self._count -= sets.uses[number]
                    sets.rename(number, ())
                    self._untidy = len(self._chunks)
        for (id, holders), size in zip(stay, sizes, strict=True):
            self.put(id, size, holders)

    def _add_together(self, ids: Sequence[int], sizes: Sequence[int], holder: int, queue: int) -> bool:
        """`add_holder`, if no other message is between them and all have the same holders; else False."""
        number = max(0, bisect_right(self._firsts, ids[0]) - 1)
        if ids[-1] >= (self._firsts[number + 1 : number + 2] or [ids[-1] + 1])[0]:
            return False
        chunk, count = self._chunks[number], len(ids)
        begin, stop = bisect_left(chunk.ids, ids[0]), bisect_right(chunk.ids, ids[-1])
        before: Holders = (holder,)
        if begin < stop:
            known = chunk.sets[begin]
            before = self._sets.every[known]
            if (
                len(before) < 2 or queue in before or chunk.sets[begin:stop].count(known) < count
                or chunk.ids[begin:stop].tolist() != list(ids)
            ):  # fmt: skip
                return False
            size = sum(chunk.sizes[begin:stop])
            self._sets.drop(known, size, count)
        else:
            size = sum(sizes)
            chunk.ids[begin:begin] = array("Q", ids)
            chunk.sizes[begin:begin] = array("I", sizes)
            chunk.live += count
            self._count += count
            self._firsts[number] = min(self._firsts[number], ids[0])
        holders = tuple(sorted({*before, holder, queue}))
        chunk.sets[begin:stop] = array("I", [self._sets.use(holders, size, count)]) * count
        self.extra_bytes += size * (len(holders) - len(before))
        if len(chunk.ids) > 2 * CHUNK_IDS:
            self._split(number)
        return True

    # ── inside ─────────────────────────────────────────────────────────────────────

    def _find(self, id: int) -> tuple[_Chunk, int] | None:
        """The chunk, and the index in it, where *id* is."""
        number = bisect_right(self._firsts, id) - 1
        if number < 0:
            return None
        chunk = self._chunks[number]
        at = bisect_left(chunk.ids, id)
        if at == len(chunk.ids) or chunk.ids[at] != id or not self._sets.every[chunk.sets[at]]:
            return None
        return chunk, at

    def _size(self, id: int) -> int:
        found = self._find(id)
        return found[0].sizes[found[1]] if found else 0

    def _insert(self, id: int, size: int, holders: Holders) -> None:
        number = max(0, bisect_right(self._firsts, id) - 1)
        chunk = self._chunks[number]
        self._firsts[number] = min(self._firsts[number], id)
        at = bisect_left(chunk.ids, id)
        if at < len(chunk.ids) and chunk.ids[at] == id:  # a hole
            if chunk.sets[at] != HOLE:
                self._sets.drop(chunk.sets[at], chunk.sizes[at])
                chunk.live -= 1
            chunk.sizes[at], chunk.sets[at] = size, self._sets.use(holders, size)
        else:
            chunk.ids.insert(at, id)
            chunk.sizes.insert(at, size)
            chunk.sets.insert(at, self._sets.use(holders, size))
        chunk.live += 1
        self._count += 1
        self.extra_bytes += size * (len(holders) - 1)
        if len(chunk.ids) > 2 * CHUNK_IDS:
            self._split(number)

    def _split(self, number: int) -> None:
        """Chunk *number* is two from now on."""
        chunk = self._chunks[number]
        behind = _Chunk(chunk.ids[CHUNK_IDS:], chunk.sizes[CHUNK_IDS:], chunk.sets[CHUNK_IDS:])
        behind.live -= behind.sets.count(HOLE)
        chunk.live -= behind.live
        del chunk.ids[CHUNK_IDS:], chunk.sizes[CHUNK_IDS:], chunk.sets[CHUNK_IDS:]
        self._untidy += number < self._untidy
        self._chunks.insert(number + 1, behind)
        self._firsts.insert(number + 1, behind.ids[0])

    def _remove(self, id: int, chunk: _Chunk, at: int) -> None:
        self._count -= 1
        self._make_hole(chunk, at)
        if 2 * chunk.live <= len(chunk.ids):
            self._shrink(bisect_right(self._firsts, id) - 1)

    def _make_hole(self, chunk: _Chunk, at: int) -> None:
        self._sets.drop(chunk.sets[at], chunk.sizes[at])
        chunk.sets[at] = HOLE
        chunk.live -= 1

    def _shrink(self, number: int) -> None:
        """Chunk *number* without its holes."""
        chunk = self._chunks[number]
        if chunk.live:
            self._chunks[number] = _Chunk(*zip(*[each for each in chunk if each[2] != HOLE], strict=True))
        else:
            del self._chunks[number], self._firsts[number]
            self._untidy -= number < self._untidy

    def _tidy_one(self) -> None:
        """Count the holes of one chunk."""
        self._untidy -= 1
        chunk = self._chunks[self._untidy]
        for at, number in enumerate(chunk.sets):
            if number != HOLE and not self._sets.every[number]:
                self._make_hole(chunk, at)
        if 2 * chunk.live <= len(chunk.ids):
            self._shrink(self._untidy)

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
                if self._sets[number]:
                    columns[0].append(id)
                    columns[1].append(size)
                    columns[2].append(number)
        return b"".join(columns), self._sets
