"""Messages that several queues hold: each has one record with its body, and one id in all of them.

    id 4711    300 bytes    held by queues 2, 5, 9      the fan-out of one publish to a topic

It says two things that no queue knows by itself: which queues a message is to be moved for when its
record is, and how many bytes are counted more than once when those of all queues are added up.
A message that only one queue holds is not here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final

import msgspec

Holders = tuple[int, ...]
"""The numbers of the queues that hold a message, ascending; two at least."""


class _Share(msgspec.Struct, frozen=True, gc=False):
    size: int  # of what was published
    holders: Holders


class Shares:
    __slots__ = ("_known", "_shares", "extra_bytes")

    def __init__(self) -> None:
        self._shares: dict[int, _Share] = {}  # by id
        self._known: dict[Holders, Holders] = {}  # of many messages they are the same
        # What is counted more than once.  0 if there is nothing here: it is looked at wherever a message
        # leaves a queue.
        self.extra_bytes = 0

    def __len__(self) -> int:
        return len(self._shares)

    def __contains__(self, id: int) -> bool:
        return id in self._shares

    def holders(self, id: int) -> Holders:
        """The queues that hold the message; empty if they are not several."""
        share = self._shares.get(id)
        return share.holders if share else ()

    def held_by(self, queue: int) -> list[int]:
        """The ids of those that this *queue* holds, and others too."""
        return [id for id, share in self._shares.items() if queue in share.holders]

    # ── the fold ───────────────────────────────────────────────────────────────────

    def note(self, id: int, size: int, holders: Holders) -> None:
        """A new message; *holders* are two or more, ascending."""
        self._shares[id] = _Share(size, holders)
        self.extra_bytes += size * (len(holders) - 1)

    def put(self, id: int, size: int, holders: Iterable[int]) -> None:
        """These queues hold the message, and no other one does."""
        known = self._shares.pop(id, None)
        if known:
            self.extra_bytes -= known.size * (len(known.holders) - 1)
        several = tuple(sorted(holders))
        if len(several) > 1:
            several = self._known.setdefault(several, several)
            self._shares[id] = _Share(size, several)
            self.extra_bytes += size * (len(several) - 1)
        elif not self._shares:
            self._known.clear()

    def add_holder(self, ids: Sequence[int], sizes: Sequence[int], holder: int, queue: int) -> None:
        """Messages that *holder* holds, and perhaps other queues, are held by *queue* as well."""
        if self._shares.keys().isdisjoint(ids):  # as a rule
            pair: Holders = (min(holder, queue), max(holder, queue))
            pair = self._known.setdefault(pair, pair)
            self._shares.update(zip(ids, map(_Share, sizes, repeat(pair)), strict=True))
            self.extra_bytes += sum(sizes)
        else:
            for id, size in zip(ids, sizes, strict=True):
                self.put(id, size, {*self.holders(id), holder, queue})

    def let_go(self, id: int, queue: int) -> None:
        """The message left this *queue*."""
        share = self._shares.get(id)
        if share and queue in share.holders:
            self.put(id, share.size, (each for each in share.holders if each != queue))

    def carry(self, id: int, queue: int, to: int) -> None:
        """The message went from this *queue* to another one."""
        share = self._shares.get(id)
        if share and queue in share.holders:
            self.put(id, share.size, {to if each == queue else each for each in share.holders})

    # ── checkpoints ────────────────────────────────────────────────────────────────

    def freeze(self) -> Frozen:
        """What is here now: not changed afterwards."""
        return Frozen(dict(self._shares))

    def restore(self, columns: bytes, several: list[Holders]) -> None:
        """Be what `Frozen.columns` gave."""
        words = array("Q")
        words.frombytes(columns)
        count = len(words) // 3
        for id, size, which in zip(words[:count], words[count : 2 * count], words[2 * count :], strict=True):
            self.put(id, size, several[which])


class Frozen:
    """The messages that several queues held at one time."""

    __slots__ = ("_shares",)

    def __init__(self, shares: dict[int, _Share]) -> None:
        self._shares = shares

    def columns(self) -> tuple[bytes, list[Holders]]:
        """Ids, sizes and which holders, as u64; and the holders."""
        several: dict[Holders, int] = {}
        which = [several.setdefault(share.holders, len(several)) for share in self._shares.values()]
        columns: Final = [array("Q", self._shares), array("Q", [each.size for each in self._shares.values()])]
        return b"".join([*columns, array("Q", which)]), list(several)
