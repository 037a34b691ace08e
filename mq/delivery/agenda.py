"""What happens when: (time, id) pairs, the earliest first.

      listed     12:05 12:05 12:06 …       those that came in order: nearly all
      parts      12:01 12:01 12:09 …       a heap of others, in order in each: BLOCK at least came
                 12:00 12:03 …             out of order, or were swept
      heap       12:04 12:02               the rest of the others

Times mostly come in order, for a delay or a time to live is usually the same for many
messages.  Those go to the end of two arrays, at sixteen bytes.  What is due is taken from the front
of each part at once (`take`), however much it is.  What is out of date is dropped a part at a time
(`sweep`): so no operation has to look at all entries.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from heapq import heappop, heappush, heapreplace, merge
from typing import Any, Final, Generic, Self, TypeVar

from .heaps import ascending

T = TypeVar("T", int, str)
Span = tuple["array[int]", Any, int]
"""Times, ids, and how many at their front are used up; in order.

`pop` is not part of the fold, and may be interrupted: so it replaces all three at once, and one
array is never longer than the other.
"""
Part = tuple[int, Any, Span]
"""Its first time and id, by which it has its place in a heap; and a span, which is not used up."""
InForce = Callable[["array[int]", Sequence[Any]], list[tuple[int, Any]]]
"""Given times and ids, in order: the pairs that are not out of date, in order."""

TRIM: Final = 4096  # entries that may be used up at the front of the arrays
BLOCK: Final = 1024  # entries that come out of order before they are put in order, and that are swept at once
SMALL: Final = BLOCK // 4  # entries: fewer make no part of their own


class Agenda(Generic[T]):
    __slots__ = ("_heap", "_in_parts", "_listed", "_numbers", "_parts", "_swept")

    def __init__(self, pairs: Iterable[tuple[int, T]] = (), *, numbers: bool = True) -> None:
        """*numbers*: the ids are numbers, and take eight bytes each; else any objects."""
        self._heap: list[tuple[int, T]] = []
        self._numbers = numbers
        self._parts: list[Part] = []
        self._swept: list[Part] = []  # those of them that this round of `sweep` has looked at
        self._in_parts = 0  # entries in both; more than there are if a `pop` was interrupted
        self._listed = self._span(sorted(pairs))

    @classmethod
    def of(cls, times: list[int], ids: list[T]) -> Self:
        """One with these, which are no numbers; quickly, if the times are in order."""
        if times != sorted(times):
            return cls(zip(times, ids, strict=True), numbers=False)
        made = cls(numbers=False)
        made._listed = array("Q", times), ids, 0
        return made

    def _span(self, pairs: Sequence[tuple[int, T]]) -> Span:
        """*pairs*, which are in order."""
        ids: Any = array("Q") if self._numbers else []
        ids.extend([id for _, id in pairs])
        return array("Q", [when for when, _ in pairs]), ids, 0

    def contents(self) -> list[Collection[Any]]:
        """What takes long to free; the agenda is not used any more."""
        return [self._heap, *[ids for _, ids, _ in self._spans() if isinstance(ids, list)]]

    def __len__(self) -> int:
        times, _, at = self._listed
        return len(self._heap) + len(times) - at + self._in_parts

    def add(self, when: int, id: T) -> None:
        times, ids, _ = self._listed
        if not times or when > times[-1] or (when == times[-1] and id > ids[-1]):
            times.append(when)
            ids.append(id)
        else:
            heappush(self._heap, (when, id))
            if len(self._heap) >= BLOCK:
                heap, self._heap = self._heap, []
                self._add_part(self._span(sorted(heap)), self._parts)

    def _add_part(self, span: Span, parts: list[Part]) -> None:
        times, ids, at = span
        heappush(parts, (times[at], ids[at], span))
        self._in_parts += len(times) - at

    def add_run(self, when: int, run: Sequence[T]) -> None:
        """`add` for many ids of one time, in order."""
        times, ids, _ = self._listed
        if not times or (when, run[0]) > (times[-1], ids[-1]):
            times.extend([when] * len(run))
            ids.extend(run)
        else:
            self.add_all([(when, id) for id in run])

    def add_all(self, pairs: Sequence[tuple[int, T]]) -> None:
        """`add` for many, in order."""
        if len(pairs) >= SMALL:
            self._add_part(self._span(pairs), self._parts)
        else:
            for when, id in pairs:
                self.add(when, id)

    def first(self) -> tuple[int, T] | None:
        """The earliest."""
        times, ids, at = self._listed
        first = (times[at], ids[at]) if at < len(times) else None
        if self._heap and (first is None or self._heap[0] < first):
            first = self._heap[0]
        for parts in (self._parts, self._swept):
            if parts and (first is None or parts[0][:2] < first):
                first = parts[0][:2]
        return first

    def ascending(self) -> Iterator[tuple[int, T]]:
        """All, the earliest first; nothing is to change meanwhile."""
        return merge(ascending(self._heap), *map(_pairs, self._spans()))

    def _spans(self) -> list[Span]:
        return [self._listed, *[span for _, _, span in (*self._parts, *self._swept)]]

    def pop(self) -> None:
        """Drop the earliest."""
        first = self.first()
        if self._heap and self._heap[0] == first:
            heappop(self._heap)
            return
        times, ids, at = self._listed
        if at < len(times) and (times[at], ids[at]) == first:
            self._listed = _without(self._listed, at + 1)
            return
        parts = self._parts if self._parts and self._parts[0][:2] == first else self._swept
        times, ids, at = parts[0][2]
        if at + 1 < len(times):
            heapreplace(parts, (times[at + 1], ids[at + 1], (times, ids, at + 1)))
        else:
            heappop(parts)
        self._in_parts -= 1

    def take(self, now: int) -> list[tuple[array[int], Sequence[T]]]:
        """Drop all that happen until *now*: their times and ids, in some parts, each in order.

        Not to be interrupted.
        """
        found: list[tuple[array[int], Sequence[T]]] = []
        for parts in (self._parts, self._swept):
            while parts and parts[0][0] <= now:
                span = heappop(parts)[2]
                self._in_parts -= len(span[0]) - span[2]
                rest, part = _until(span, now)
                found += part
                if rest[2] < len(rest[0]):
                    self._add_part(rest, parts)
        self._listed, part = _until(self._listed, now)
        found += part
        pairs = []
        while self._heap and self._heap[0][0] <= now:
            pairs.append(heappop(self._heap))
        if pairs:
            found.append(self._span(pairs)[:2])
        return found

    def drop_absent(self, here: Container[T]) -> None:
        """Drop the earliest of those that are not *here*, in whole blocks: the rest is dropped one by one."""
        for parts in (self._parts, self._swept):
            while parts and not _has_any(parts[0][2], here):
                times, _, at = heappop(parts)[2]
                self._in_parts -= len(times) - at
        _, ids, at = self._listed
        begin = at
        while at + BLOCK <= len(ids) and not any(map(here.__contains__, ids[at : at + BLOCK])):
            at += BLOCK
        if at > begin:
            self._listed = _without(self._listed, at)

    def sweep(self, in_force: InForce) -> int:
        """Drop what is out of date in the next part; how many entries it looked at, 0 behind the last one."""
        times, ids, at = self._listed
        stop = min(at + BLOCK, len(times))
        if stop - at >= SMALL:
            self._listed = _without(self._listed, stop)
        elif self._parts:
            times, ids, at = heappop(self._parts)[2]
            stop = len(times)
            self._in_parts -= stop - at
        else:
            self._parts, self._swept = self._swept, self._parts
            self._listed = self._span(in_force(times[at:], ids[at:]))
            times, ids, _ = self._span(sorted(self._heap))
            self._heap = in_force(times, ids)
            return 0
        rest = in_force(times[at:stop], ids[at:stop])
        if len(rest) >= SMALL:
            self._add_part(self._span(rest), self._swept)
        else:
            for when, id in rest:
                self.add(when, id)
        return stop - at


def _pairs(span: Span) -> Iterator[tuple[int, Any]]:
    times, ids, begin = span
    return ((times[at], ids[at]) for at in range(begin, len(times)))


def _has_any(span: Span, here: Container[Any]) -> bool:
    return any(map(here.__contains__, span[1][span[2] :]))


def _without(span: Span, at: int) -> Span:
    """*span*, of which *at* are used up."""
    times, ids, _ = span
    if at == len(times) or (at >= TRIM and 2 * at > len(times)):
        return times[at:], ids[at:], 0
    return times, ids, at


def _until(span: Span, now: int) -> tuple[Span, list[tuple[array[int], Any]]]:
    """*span* without what happens until *now*, and that."""
    times, ids, at = span
    if at == len(times) or times[at] > now:
        return span, []
    stop = bisect_right(times, now, at)
    return _without(span, stop), [(times[at:stop], ids[at:stop])]


class Agendas(dict[Any, Agenda[int]]):
    """An agenda for each of some kinds of entries."""

    __slots__ = ()

    def __missing__(self, key: Any) -> Agenda[int]:
        made = self[key] = Agenda[int]()
        return made

    def size(self) -> int:
        """Entries in all of them."""
        return sum(map(len, self.values()))

    def first(self) -> int | None:
        """When the earliest entry of all happens."""
        return min([pair[0] for agenda in self.values() if (pair := agenda.first())], default=None)

    def ascending(self) -> Iterator[tuple[int, int]]:
        """All entries, the earliest first; nothing is to change meanwhile."""
        return merge(*[agenda.ascending() for agenda in self.values()])

    def take(self, now: int) -> list[tuple[Any, array[int], Sequence[int]]]:
        """Drop all entries that happen until *now*: kind, times and ids of each part."""
        return [(key, *part) for key, agenda in self.items() for part in agenda.take(now)]

    def forget_empty(self, kept: Any) -> None:
        """Drop the agendas that are empty; *kept*: the kind of one that stays."""
        for key in [key for key, agenda in self.items() if key != kept and not agenda]:
            del self[key]
