"""Dedup ids that are remembered: oldest record first, each until its window is over.

    remembered:  "o-1" → id 4711, until 12:05, record at 4711
                 "o-2" → …

A dedup id outlives its message, so it is live by itself: the cleaner writes it again
when the record that it stands in is to go.  What is past its window means nothing, and
is forgotten when the next one comes, as far as the time is known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import takewhile
from typing import Final, NamedTuple

KEY_OVERHEAD_BYTES: Final = 48  # of a DEDUP record, beside the dedup id


class Seen(NamedTuple):
    id: int
    until: int  # store time, ms
    position: int  # of the record that says so


class Remembered:
    __slots__ = ("_bytes", "_seen")

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Seen] = OrderedDict()  # by position
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def bytes(self) -> int:
        """What has to be kept of them in the log, at least."""
        return self._bytes + len(self._seen) * KEY_OVERHEAD_BYTES

    def items(self) -> Iterator[tuple[str, Seen]]:
        return iter(self._seen.items())

    # ── the fold ───────────────────────────────────────────────────────────────────

    def note(self, key: str, seen: Seen) -> None:
        """The record at seen.position says it."""
        if key not in self._seen:
            self._bytes += len(key)
        self._seen[key] = seen
        self._seen.move_to_end(key)

    def again(self, key: str, seen: Seen) -> None:
        """It is written once more; if there is a newer one, that counts."""
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

    def forget(self, now_ms: int) -> None:
        """Let go of those that mean nothing any more, from the oldest on."""
        while self._seen and next(iter(self._seen.values())).until <= now_ms:
            key, _ = self._seen.popitem(last=False)
            self._bytes -= len(key)

    def within(self, base: int, limit: int) -> list[str]:
        """Those whose records are in [base, limit)."""
        early = takewhile(lambda item: item[1].position < limit, self._seen.items())
        return [key for key, seen in early if seen.position >= base]
