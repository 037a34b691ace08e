"""What is known of each of very many messages, by id: a dict of which nothing has to be moved at once.

      near     411 ─► …  395 ─► …  402 ─► …           a plain dict: all, while they are few
      far      2 │ 1,049,020 ─► …  1,049,131 ─► …      a dict for each stretch of the log in which
               3 │ 1,573,004 ─► …                      ids are, once `near` is full

A dict of 350,000 entries that is to hold one more moves all of them, in one call of 12 to 26 ms in which no
other thread runs.  To copy it for a checkpoint takes as long.  Here no dict has more than some ten thousand,
and a checkpoint gets the dicts of `far` themselves: each is copied before it is changed for the first time
behind that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, Generic, TypeVar

T = TypeVar("T")

NEAR_MAX: Final = 16 << 10  # entries; some more for a moment
STRETCH_BITS: Final = 19  # 512 KiB of log: 20,000 records at most, of which 5,000 have 80 bytes of body
PART: Final = 1024  # entries that are put in at once


class Table(Generic[T]):
    """Entries are not None."""

    __slots__ = ("_far", "_far_count", "_kept", "near")

    def __init__(self) -> None:
        # Hot operations use it themselves.  An entry that is in `far` is never put here; and whichever puts
        # entries here calls `spread` now and then.
        self.near: dict[int, T] = {}
        self._far: dict[int, dict[int, T]] = {}  # by id >> STRETCH_BITS; none is empty
        self._far_count = 0  # entries in all of them
        self._kept: set[int] = set()  # those of them that a checkpoint has

    def get(self, id: int) -> T | None:
        entry = self.near.get(id)
        if entry is None and self._far:
            stretch = self._far.get(id >> STRETCH_BITS)
            return stretch.get(id) if stretch else None
        return entry

    def __getitem__(self, id: int) -> T:
        entry = self.get(id)
        if entry is None:
            raise KeyError(id)
        return entry

    def __contains__(self, id: object) -> bool:
        return id in self.near or (len(self._far) > 0 and self.get(id) is not None)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.near) + self._far_count

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self.parts()) if self._far else iter(self.near)

    def items(self) -> Iterable[tuple[int, T]]:
        if self._far:
            return chain.from_iterable([each.items() for each in self.parts()])
        return self.near.items()

    def values(self) -> Iterable[T]:
        if self._far:
            return chain.from_iterable([each.values() for each in self.parts()])
        return self.near.values()

    def is_disjoint(self, ids: Iterable[int]) -> bool:
        """Whether none of *ids* is here."""
        if self._far:
            return not any(map(self.__contains__, ids))
        return self.near.keys().isdisjoint(ids)

    def get_all(self, ids: Iterable[int]) -> list[T | None]:
        """`get` for each of *ids*."""
        return list(map(self.get if self._far else self.near.get, ids))

    def parts(self) -> list[dict[int, T]]:
        """All entries, in dicts that are not to be changed."""
        return [self.near, *self._far.values()]

    def below(self, limit: int) -> list[dict[int, T]]:
        """Those dicts in which ids less than *limit* may be."""
        last = limit >> STRETCH_BITS
        return [self.near, *[each for key, each in self._far.items() if key <= last]]

    def in_order(self) -> Iterator[Iterator[int]]:
        """The ids, in some iterators, each in order; of the ids as they are now."""
        yield iter(sorted(self.near))
        stretches = [list(self._far[key]) for key in sorted(self._far)]
        yield chain.from_iterable(map(sorted, stretches))

    # ── changes ────────────────────────────────────────────────────────────────────

    def __setitem__(self, id: int, entry: T) -> None:
        near = self.near
        if self._far and id not in near and (len(near) >= NEAR_MAX or self.get(id) is not None):
            self._put_far(id, entry)
            return
        near[id] = entry
        if len(near) > NEAR_MAX:
            self.spread()

    def put_all(self, ids: Iterable[int], entries: Iterable[T]) -> None:
        pairs = zip(ids, entries, strict=True)
        while part := dict(islice(pairs, PART)):
            if self._far:
                for id, entry in part.items():
                    self[id] = entry
            else:
                self.near.update(part)
                self.spread()

    def pop(self, id: int) -> T | None:
        """Take it out, if it is here."""
        entry = self.near.pop(id, None)
        if entry is None and self._far and (entry := self.get(id)) is not None:
            key = id >> STRETCH_BITS
            stretch = self._own(key)
            del stretch[id]
            self._far_count -= 1
            if not stretch:
                del self._far[key]
        return entry

    def remove_all(self, ids: Sequence[int]) -> None:
        """Take out all of *ids*, which are here."""
        deque(map(self.pop if self._far else self.near.__delitem__, ids), maxlen=0)

    def spread(self) -> None:
        """Have no more near than is to be there."""
        while len(self.near) > NEAR_MAX:
            id, entry = self.near.popitem()
            self._put_far(id, entry)

    def _put_far(self, id: int, entry: T) -> None:
        stretch = self._own(id >> STRETCH_BITS)
        before = len(stretch)
        stretch[id] = entry
        self._far_count += len(stretch) - before

    def _own(self, key: int) -> dict[int, T]:
        """The dict of a stretch, to be changed."""
        stretch = self._far.get(key)
        if stretch is None:
            stretch = self._far[key] = {}
        elif key in self._kept:
            stretch = self._far[key] = stretch.copy()
        self._kept.discard(key)
        return stretch

    # ── checkpoints ────────────────────────────────────────────────────────────────

    def keep(self) -> list[dict[int, T]]:
        """What is here now, in dicts that are not changed any more."""
        self._kept = set(self._far)
        return [self.near.copy(), *self._far.values()]
