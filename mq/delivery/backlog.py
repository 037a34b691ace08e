"""Ids that wait, oldest first, at eight bytes each: sorted arrays, and nothing else.

      taken  head                                        tail
        ┌──┬──┬──┬──┐   ┌──┬──┬──┬──┐         ┌──┬──┐
        │░░│░░│ 7│ 9│   │12│13│15│20│   …     │91│95│ ←── append
        └──┴──┴──┴──┘   └──┴──┴──┴──┘         └──┴──┘

Ids only ever grow, so the arrays are sorted by themselves.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

CHUNK_IDS: Final = 8192


class Backlog:
    __slots__ = ("_at", "_chunks", "_count", "head")

    def __init__(self) -> None:
        self._chunks: list[array[int]] = [array("Q")]
        self._at = 0  # the head's index in the first chunk
        self._count = 0
        self.head: int | None = None  # the oldest id

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        at = self._at
        for chunk in self._chunks:
            for index in range(at, len(chunk)):
                yield chunk[index]
            at = 0

    def append(self, id: int) -> None:
        tail = self._chunks[-1]
        if len(tail) >= CHUNK_IDS:
            tail = array("Q")
            self._chunks.append(tail)
        tail.append(id)
        self._count += 1
        if self.head is None:
            self.head = id

    def take(self, id: int) -> bool:
        """Remove *id*; whether it was there.  Cheap at the head, a search elsewhere."""
        if id == self.head:
            self._at += 1
            self._count -= 1
            first = self._chunks[0]
            if self._at < len(first):
                self.head = first[self._at]
            else:
                self._drop_first()
            return True
        found = self._find(id) if self._count else None
        if not found:
            return False
        chunk, index = found
        del self._chunks[chunk][index]
        self._count -= 1
        if not self._chunks[chunk]:  # never the first: its head is still there
            del self._chunks[chunk]
        return True

    def __contains__(self, id: int) -> bool:
        return bool(self._count and self._find(id))

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def _drop_first(self) -> None:
        """The first chunk is used up."""
        self._at = 0
        if len(self._chunks) > 1:
            del self._chunks[0]
        else:
            self._chunks[0] = array("Q")
        self.head = self._chunks[0][0] if self._count else None

    def _find(self, id: int) -> tuple[int, int] | None:
        """The chunk and the index in it where *id* stands."""
        chunk = max(0, bisect_right(self._chunks, id, key=_first) - 1)
        ids = self._chunks[chunk]
        index = bisect_left(ids, id, self._at if chunk == 0 else 0)
        return (chunk, index) if index < len(ids) and ids[index] == id else None


def _first(chunk: array[int]) -> int:
    return chunk[0]
