"""Messages that expire, of those that are not in flight: when each does, and how many have.

What has expired stays in the queue until a process comes by and drops it.  Until then it is neither
delivered nor counted, so it has to be known how many these are: `tally.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from .agenda import Agenda
from .tally import Tally


class Expiries:
    __slots__ = ("_all", "_early", "agenda")

    def __init__(self) -> None:
        # (When, id).  An entry may be out of date, and stays after it has come until it is dropped.
        self.agenda = Agenda[int]()
        self._all = Tally()
        self._early = Tally()  # those of them whose delay or backoff is not over

    def restart(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Have these in the agenda, in place of what is there."""
        self.agenda = Agenda(pairs)

    def contents(self) -> list[Collection[Any]]:
        """What takes long to free; this is not used any more."""
        return [*self.agenda.contents(), *self._all.contents(), *self._early.contents()]

    def count(self, when: int, *, early: bool, many: int = 1) -> None:
        """So many messages that expire then are here."""
        self._all.add(when, many)
        if early:
            self._early.add(when, many)

    def uncount(self, when: int, *, early: bool) -> None:
        """It is gone, or in flight."""
        self._all.remove(when)
        if early:
            self._early.remove(when)

    def not_early(self, when: int) -> None:
        """Its delay, or its backoff, is over."""
        self._early.remove(when)

    def passed(self, wall_ms: int) -> tuple[int, int]:
        """How many have expired by then, and how many of those are early; time never goes back."""
        return self._all.passed(wall_ms), self._early.passed(wall_ms)
