"""Dedup ids that are remembered: oldest record first, each until its window is over.

    remembered:  "o-1" → id 4711, until 12:05, record at 4711
                 "o-2" → …

A dedup id outlives its message, so it is live by itself: the cleaner copies it when the segment
with its record is to be dropped.  After its window it means nothing, and is forgotten: a few are
when the next one comes, and the others as work that falls due, so that a queue without publishes
forgets them too.  A window may be longer than that of a later id, so they are forgotten in the
order in which their windows end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from itertools import takewhile
from typing import Any, Final

import msgspec

from .agenda import Agenda

FORGET_AT_ONCE: Final = 8  # at most, for each that comes
FORGET_AFTER_MS: Final = 10_000  # behind the end of a window, so that no process looks more often
KEY_OVERHEAD_BYTES: Final = 48  # of a DEDUP record, beside the dedup id


class Seen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    id: int
    until: int  # store time, ms
    position: int  # of its record


class Remembered:
    __slots__ = ("_bytes", "_ends", "_seen")

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Seen] = OrderedDict()  # by position
        self._ends: Agenda[str] = Agenda(numbers=False)  # when a window is over, and whose
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def bytes(self) -> int:
        """How much of the log they keep live, at least."""
        return self._bytes + len(self._seen) * KEY_OVERHEAD_BYTES

    def items(self) -> Iterator[tuple[str, Seen]]:
        return iter(self._seen.items())

    def restore(self, seen: dict[str, Seen]) -> None:
        """Remember these, which are in the order of their positions."""
        self._seen, self._bytes = OrderedDict(seen), sum(map(len, seen))
        self._ends = Agenda.of([each.until for each in seen.values()], list(seen))

    def clear(self) -> list[Collection[Any]]:
        """Remember nothing; what takes long to free."""
        contents = [self._seen, *self._ends.contents()]
        self.restore({})
        return contents

    # ── the fold ───────────────────────────────────────────────────────────────────

    def note(self, key: str, seen: Seen) -> None:
        """Remember it, in place of an earlier one."""
        known = self._seen.get(key)
        if known is None:
            self._bytes += len(key)
        if known is None or known.until != seen.until:
            self._ends.add(seen.until, key)
        self._seen[key] = seen
        self._seen.move_to_end(key)

    def again(self, key: str, seen: Seen) -> None:
        """Its record was copied; if there is a newer one, that counts."""
        known = self._seen.get(key)
        if known is None or known.id <= seen.id:
            self.note(key, seen)

    # ── questions ──────────────────────────────────────────────────────────────────

    def find(self, key: str, now_ms: int) -> int | None:
        """The id that was published with this dedup id in its window."""
        seen = self._seen.get(key)
        return seen.id if seen and seen.until > now_ms else None

    def seen(self, key: str) -> Seen | None:
        return self._seen.get(key)

    def forget(self, now_ms: int, limit: int = FORGET_AT_ONCE) -> None:
        """Forget up to *limit* whose windows are over, the earliest end first."""
        while limit and (end := self._ends.first()) and end[0] <= now_ms:
            until, key = end
            seen = self._seen.get(key)
            if seen and seen.until == until:  # else it was published again since
                del self._seen[key]
                self._bytes -= len(key)
            self._ends.pop()  # last: interrupted before, it is looked at twice
            limit -= 1

    @property
    def look_at(self) -> int | None:
        """When there is next one to forget, store time, ms; None: there is none."""
        end = self._ends.first()
        return end[0] + FORGET_AFTER_MS if end else None

    def within(self, base: int, limit: int) -> list[str]:
        """Those whose records are in [base, limit)."""
        early = takewhile(lambda item: item[1].position < limit, self._seen.items())
        return [key for key, seen in early if seen.position >= base]

    def positions_within(self, base: int, limit: int) -> list[int]:
        """Where the records of those stand."""
        return [self._seen[key].position for key in self.within(base, limit)]
