"""Ids that wait, oldest first, at eight bytes each: sorted arrays, and nothing else.

      taken  head                                        tail
        ┌──┬──┬──┬──┐   ┌──┬──┬──┬──┐         ┌──┬──┐
        │░░│░░│ 7│ 9│   │12│13│15│20│   …     │91│95│ ←── append
        └──┴──┴──┴──┘   └──┴──┴──┴──┘         └──┴──┘

An id is the position of its record, until compaction moves the record.  Then its chunk
gets a second array, of positions, and costs sixteen bytes an id.

Arrays that were handed to a checkpoint are not changed any more: the next change works on a
copy, so the checkpoint is written out while the queue goes on.  A chunk that a checkpoint
holds is read when it is first needed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

CHUNK_IDS: Final = 8192

Arrays = tuple["array[int]", "array[int] | None"]


class Chunk:
    """Some ids, and where their records are if one has moved.  `saved` says where a checkpoint has it."""

    __slots__ = ("_load", "_size", "first", "frozen", "held", "saved", "taken")

    def __init__(self, ids: array[int], positions: array[int] | None = None) -> None:
        self.held: Arrays | None = (ids, positions)  # None: not read yet
        self._load: Callable[[Chunk], Arrays] | None = None
        self.first = ids[0] if ids else 0
        self._size = 0  # while it is not read
        self.taken = 0  # how many of those at its front were taken already; `first` is behind them
        self.frozen = False  # a checkpoint has these arrays
        self.saved: Any = None

    @classmethod
    def stored(cls, first: int, size: int, saved: Any, load: Callable[[Chunk], Arrays]) -> Chunk:
        """One that is read when it is needed."""
        chunk = cls(array("Q"))
        chunk.held, chunk._load = None, load
        chunk.first, chunk._size, chunk.saved = first, size, saved
        return chunk

    @property
    def size(self) -> int:
        return self._size if self.held is None else len(self.held[0])

    @property
    def loaded(self) -> bool:
        return self.held is not None

    @property
    def unmoved(self) -> bool:
        """Whether no record has moved, as far as that is known without reading it."""
        return self.saved[1] is None if self.held is None else self.held[1] is None

    @property
    def arrays(self) -> Arrays:
        """To be read."""
        if self.held is None:
            assert self._load
            self.held = self._load(self)
            self.frozen = True
        return self.held

    def own(self, *, moved: bool = False) -> Arrays:
        """To be changed; with positions, if *moved*."""
        ids, positions = self.arrays
        if self.frozen:
            ids, positions = ids[:], None if positions is None else positions[:]
        if moved and positions is None:
            positions = ids[:]
        self.put(ids, positions)
        return ids, positions

    def put(self, ids: array[int], positions: array[int] | None) -> None:
        """Hold these from now on."""
        self.held, self.saved, self.frozen = (ids, positions), None, False


class Held(NamedTuple):
    """What a chunk held at one time."""

    chunk: Chunk | None  # None: it will not come to hold the same again
    first: int
    size: int
    saved: Any
    arrays: Arrays | None  # None: not read, so still where `saved` says

    def keep(self, saved: Any) -> None:
        """Note where it is kept, if the chunk holds the same still."""
        if self.chunk is not None and self.chunk.held is self.arrays:
            self.chunk.saved = saved


class Backlog:
    __slots__ = ("_at", "_chunks", "_count", "_moved", "_tail", "head")

    def __init__(self) -> None:
        self._tail: array[int] = array("Q")  # of the last chunk, which alone grows in place
        self._moved: array[int] | None = None  # and its positions
        self._chunks: list[Chunk] = [Chunk(self._tail)]
        self._at = 0  # the head's index in the first chunk
        self._count = 0
        self.head: int | None = None  # the oldest id

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        at = self._at
        for chunk in self._chunks:
            ids, _ = chunk.arrays
            for index in range(at, len(ids)):
                yield ids[index]
            at = 0

    def first(self, limit: int) -> list[int]:
        """The first *limit* ids."""
        found: list[int] = []
        at = self._at
        for chunk in self._chunks:
            found += chunk.arrays[0][at : at + limit - len(found)].tolist()
            if len(found) == limit:
                break
            at = 0
        return found

    def ids(self) -> array[int]:
        """All of them, copied."""
        ids = array("Q")
        at = self._at
        for chunk in self._chunks:
            ids += chunk.arrays[0][at:]
            at = 0
        return ids

    def append(self, id: int) -> None:
        """Add an id greater than all before it."""
        tail = self._tail
        if not tail or len(tail) >= CHUNK_IDS:
            tail = self._extend(id)
        tail.append(id)
        if self._moved is not None:
            self._moved.append(id)
        self._count += 1
        if self.head is None:
            self.head = id

    def extend(self, ids: list[int]) -> None:
        """`append` for many."""
        done = 0
        while done < len(ids):
            self.append(ids[done])
            part = ids[done + 1 : done + 1 + CHUNK_IDS - len(self._tail)]
            self._tail.extend(part)
            if self._moved is not None:
                self._moved.extend(part)
            self._count += len(part)
            done += 1 + len(part)

    def take(self, id: int) -> int | None:
        """Remove *id*; where its record is, None if it is not here.  Cheap at the head."""
        if id == self.head:
            first = self._chunks[0]
            ids, positions = first.held or first.arrays
            at = self._at
            self._at = behind = at + 1
            self._count -= 1
            if behind < len(ids):
                self.head = ids[behind]
            else:
                self._drop_first()
            return id if positions is None else positions[at]
        found = self._find(id)
        if found is None:
            return None
        chunk, index = found
        ids, positions = chunk.own()
        position = id if positions is None else positions.pop(index)
        del ids[index]
        self._count -= 1
        if not ids:  # never the first: its head is still there
            self._chunks.remove(chunk)
        self._find_tail()
        return position

    def take_run(self, ids: list[int]) -> Sequence[int] | None:
        """`take` for all of *ids*, if they come first; else None, and nothing is done."""
        if not self._is_first(ids):
            return None
        found: list[int] = []
        moved = False
        left = len(ids)
        while left:
            held, positions = self._chunks[0].arrays
            at, stop = self._at, min(len(held), self._at + left)
            left -= stop - at
            moved = moved or positions is not None
            found += (held if positions is None else positions)[at:stop]
            self._at = stop
            self._count -= stop - at
            if stop < len(held):
                self.head = held[stop]
            else:
                self._drop_first()
        return found if moved else ids

    def _is_first(self, ids: list[int]) -> bool:
        """Whether *ids* come first, in this order."""
        if ids[0] != self.head or len(ids) > self._count:
            return False
        at = self._at
        done = 0
        for chunk in self._chunks:
            held = chunk.arrays[0][at : at + len(ids) - done].tolist()
            if held != ids[done : done + len(held)]:
                return False
            at, done = 0, done + len(held)
            if done == len(ids):
                break
        return True

    def insert(self, ids: list[int], positions: list[int]) -> None:
        """Add *ids*, which ascend, anywhere; their records are at *positions*."""
        done = 0
        while done < len(ids):
            done += self._insert_some(ids, positions, done)
            self._find_tail()
            self.head = self._chunks[0].arrays[0][self._at]

    def _insert_some(self, ids: list[int], positions: list[int], begin: int) -> int:
        """The same for those from *begin* on that belong into one chunk; how many."""
        if not self._count:
            self.clear()
        at = max(0, bisect_right(self._chunks, ids[begin], key=_first) - 1)
        chunk, following = self._chunks[at], self._chunks[at + 1 : at + 2]
        stop = min(begin + CHUNK_IDS, len(ids))
        if following:
            stop = bisect_left(ids, following[0].first, begin, stop)
        part, places = ids[begin:stop], positions[begin:stop]
        here, there = chunk.own(moved=part != places)
        if self._at and not at:
            del here[: self._at]
            if there is not None:
                del there[: self._at]
            self._at = 0
        begin = bisect_left(here, part[0])
        if begin == len(here) or part[-1] < here[begin]:  # as a rule no other id is between them
            here[begin:begin] = array("Q", part)
            if there is not None:
                there[begin:begin] = array("Q", places)
        else:
            for id, place in zip(part, places, strict=True):
                index = bisect_left(here, id)
                here.insert(index, id)
                if there is not None:
                    there.insert(index, place)
        chunk.first = here[0]
        if len(here) > 2 * CHUNK_IDS:
            self._split(chunk)
        self._count += len(part)
        return len(part)

    def position(self, id: int) -> int | None:
        """Where the record of *id* is; None if it is not here."""
        if id == self.head and self._chunks[0].unmoved:
            return id
        found = self._find(id)
        if found is None:
            return None
        positions = found[0].arrays[1]
        return id if positions is None else positions[found[1]]

    def move(self, id: int, position: int) -> None:
        """The record of *id*, which is here, is elsewhere now."""
        found = self._find(id)
        assert found
        chunk, index = found
        positions = chunk.arrays[1]
        if positions is None or chunk.frozen:
            positions = chunk.own(moved=True)[1]
            assert positions is not None
            self._find_tail()
        positions[index] = position
        chunk.saved = None

    def within(self, base: int, limit: int) -> Iterator[list[int]]:
        """The ids whose records are in [base, limit), a chunk at a time."""
        for chunk in list(self._chunks):
            if chunk.first < limit:  # a record is never before where its id says
                ids, positions = chunk.arrays
                at = self._at if self._chunks and chunk is self._chunks[0] else 0
                if positions is not None:
                    yield [ids[i] for i in range(at, len(ids)) if base <= positions[i] < limit]
                else:
                    yield ids[max(at, bisect_left(ids, base)) : bisect_left(ids, limit)].tolist()

    def positions_within(self, base: int, limit: int) -> Iterator[list[int]]:
        """Where the records of those are, a chunk at a time."""
        at = self._at
        for chunk in self._chunks:
            if chunk.first < limit:
                ids, positions = chunk.arrays
                if positions is not None:
                    yield [position for position in positions[at:] if base <= position < limit]
                else:
                    yield ids[max(at, bisect_left(ids, base)) : bisect_left(ids, limit)].tolist()
            at = 0

    def part(self, first: int, count: int) -> tuple[array[int], array[int]]:
        """The *count* ids from *first* on, and where their records are."""
        ids, positions = array("Q"), array("Q")
        at = max(0, bisect_right(self._chunks, first, key=_first) - 1)
        for number, chunk in enumerate(self._chunks[at:], at):
            here, there = chunk.arrays
            begin = bisect_left(here, first, 0 if number else self._at)
            stop = begin + count - len(ids)
            ids += here[begin:stop]
            positions += (here if there is None else there)[begin:stop]
            if len(ids) == count:
                break
        return ids, positions

    def rank(self, id: int) -> int:
        """How many ids are smaller than *id*."""
        if not self._count:
            return 0
        number = max(0, bisect_right(self._chunks, id, key=_first) - 1)
        before = sum(chunk.size for chunk in self._chunks[:number])
        here = bisect_left(self._chunks[number].arrays[0], id)
        return max(0, before + here - self._at)

    def has_within(self, first: int, behind: int) -> bool:
        """Whether there is an id in [*first*, *behind*)."""
        return any(first <= id < behind for id in self.part(first, 1)[0])

    def slice(self, begin: int, count: int) -> tuple[array[int], array[int]]:
        """*count* ids from the one at index *begin* on, and where their records are."""
        ids, positions = array("Q"), array("Q")
        assert count >= 0
        skip = self._at + begin
        for chunk in self._chunks:
            if len(ids) == count:
                break
            if skip >= chunk.size:
                skip -= chunk.size
                continue
            here, there = chunk.arrays
            stop = skip + count - len(ids)
            ids += here[skip:stop]
            positions += (here if there is None else there)[skip:stop]
            skip = 0
        return ids, positions

    def __contains__(self, id: int) -> bool:
        return id == self.head or self._find(id) is not None

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def chunks(self) -> tuple[int, list[Held]]:
        """The head's index in the first chunk, and what the chunks hold: for a checkpoint to keep."""
        if not self._count:
            return 0, []
        held = []
        for chunk in self._chunks:
            chunk.frozen = True
            held.append(Held(chunk, chunk.first, chunk.size, chunk.saved, chunk.held))
        last = self._chunks[-1]
        if last.loaded:  # it goes on growing, so it is handed out as a copy
            last.frozen = False
            ids, positions = last.arrays
            copy = ids[:], None if positions is None else positions[:]
            held[-1] = Held(None, last.first, len(ids), None, copy)
        assert self.head is not None
        held[0] = held[0]._replace(first=self.head)
        return self._at, [each for each in held if each.size]

    def keep_only(self, is_kept: Callable[[Any], bool]) -> None:
        """Rely on what is saved elsewhere only where *is_kept* says that it is still there."""
        for chunk in self._chunks:
            if chunk.saved is not None and not all(map(is_kept, filter(None, chunk.saved))):
                _ = chunk.arrays  # read from where else it is
                chunk.saved = None

    def restore(self, at: int, chunks: list[Chunk]) -> None:
        """Be what `chunks` gave."""
        self.clear()
        if chunks:
            self._chunks, self._at = chunks, at
            self._count = sum(chunk.size for chunk in chunks) - at
            self._find_tail()
            self.head, chunks[0].taken = chunks[0].first, at

    # ── inside ─────────────────────────────────────────────────────────────────────

    def _extend(self, id: int) -> array[int]:
        """An array that *id* can be appended to."""
        if self._tail or not self._chunks[-1].loaded:
            self._chunks.append(Chunk(array("Q")))
        self._find_tail()
        if not self._tail:  # else it was read since, and has its ids
            self._chunks[-1].first = id
        return self._tail

    def _find_tail(self) -> None:
        """Grow in what is the last chunk now; in a new one, if that is not read yet."""
        last = self._chunks[-1]
        self._tail, self._moved = (array("Q"), None) if not last.loaded else last.own()

    def _drop_first(self) -> None:
        """The first chunk is used up."""
        self._at = 0
        del self._chunks[0]
        if not self._chunks:
            self._chunks.append(Chunk(array("Q")))
            self._find_tail()
        self.head = self._chunks[0].arrays[0][0] if self._count else None

    def _split(self, chunk: Chunk) -> None:
        """Halve a chunk that has grown too long."""
        ids, positions = chunk.arrays
        half = len(ids) // 2
        second = Chunk(ids[half:], None if positions is None else positions[half:])
        self._chunks.insert(self._chunks.index(chunk) + 1, second)
        chunk.put(ids[:half], None if positions is None else positions[:half])

    def _find(self, id: int) -> tuple[Chunk, int] | None:
        """The chunk, and the index in it, where *id* stands."""
        if not self._count:
            return None
        number = max(0, bisect_right(self._chunks, id, key=_first) - 1)
        ids, _ = self._chunks[number].arrays
        index = bisect_left(ids, id, self._at if number == 0 else 0)
        return (self._chunks[number], index) if index < len(ids) and ids[index] == id else None


def _first(chunk: Chunk) -> int:
    return chunk.first
