"""When each delivery times out, store time: by how it is to be treated then.

    first attempts, nothing but bodies    12:05 id 10,  12:05 id 13,  12:06 id 17 …     nearly all
    priority 9, attempt 2                 12:04 id 11 …
    in a group                            12:07 id 19 …

Entries are not removed on ack: an ack is far more common than a timeout.  So stale ones are swept out as
others are added.  If few deliveries are in force, they are listed anew.  If many are, a part of the entries
is looked at each time, some for each that was added, so that no operation waits for all of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final

from .agenda import Agenda, Agendas
from .ready import STALE_MAX
from .table import Table
from .traits import Flight, Traits

# How a delivery is to be treated that times out.
SOON: Final = 1  # though no receiver asks: of messages that expire
AT_ONCE: Final = 2  # of messages in a group: others may go back with them
FIRST: Final = (0, 1, 0)  # of a first attempt, of a message that is nothing but its body

FEW: Final = 1024  # deliveries: so many are listed anew in less than a millisecond
SWEEP_SHARE: Final = 4  # entries that are looked at for each that is added, while most are stale
SWEEP_LEAST: Final = 16  # that a part counts for, however short it is


class Deadlines(Agendas):
    """An agenda for each (priority, attempts, treatment)."""

    __slots__ = ("_flights", "_kinds", "_owed", "plain")

    def __init__(self, flights: Table[Flight]) -> None:
        """*flights*: those of the queue, which changes them; some may have timed out."""
        super().__init__()
        self._flights = flights
        self._owed = 0  # entries that are to be looked at for those that were added
        self._kinds: list[Any] = []  # whose agendas are to be swept in this round
        self.list_anew()

    def list_anew(self, after: int = -1) -> None:
        """Have an entry for each delivery that times out later than *after*, and no others."""
        by_kind: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
        for id, flight in self._flights.items():
            if flight.deadline > after:
                by_kind.setdefault(kind_of(flight), []).append((flight.deadline, id))
        self.forget()
        for kind, pairs in by_kind.items():
            self[kind] = Agenda(pairs)
        self.plain = self[FIRST]

    def forget(self) -> None:
        """All entries are stale."""
        self.clear()
        self.plain = self[FIRST]

    def sweep(self, added: int, after: int) -> bool:
        """Drop stale entries if most are; whether they were.  *added*: how many are new since the last time.

        *after*: the time until which all were taken.
        """
        if self.size() <= 2 * len(self._flights) + STALE_MAX:
            return False
        if len(self._flights) <= FEW:
            self.list_anew(after)
            return True
        self._owed += SWEEP_SHARE * added
        while self._owed > 0:
            if not self._kinds:
                self._kinds = list(self)
            agenda = self.get(self._kinds[-1])
            looked_at = agenda.sweep(self._in_force) if agenda else 0
            if not looked_at:
                self._kinds.pop()
            self._owed -= max(looked_at, SWEEP_LEAST)
        return True

    def _in_force(self, times: array[int], ids: Sequence[int]) -> list[tuple[int, int]]:
        pairs = dict.fromkeys(zip(times, ids, strict=True))  # a message may be extended to one time twice
        found = self._flights.get_all([id for _, id in pairs])
        each = zip(pairs, found, strict=True)
        return [pair for pair, flight in each if flight and flight.deadline == pair[0]]

    def is_valid(self, deadline: int, id: int) -> bool:
        flight = self._flights.get(id)
        return flight is not None and flight.deadline == deadline

    def count_valid(self) -> int:
        """How many deliveries are in force that have not timed out; looks at all entries."""
        return len({id for deadline, id in self.ascending() if self.is_valid(deadline, id)})

    def first_valid(self) -> int | None:
        """When the next delivery that is still in force times out; stale entries before it are dropped."""
        if not self._flights:
            self.forget()
            return None
        self.plain.drop_absent(self._flights)
        return first_valid(self, self.is_valid)


def first_valid(agendas: Agendas, is_valid: Callable[[int, int], bool]) -> int | None:
    """When the first entry that is valid happens; those before it are dropped."""
    for agenda in agendas.values():
        while (pair := agenda.first()) and not is_valid(*pair):
            agenda.pop()
    return agendas.first()


def kind_of(flight: Flight) -> tuple[int, int, int]:
    traits = flight.traits
    return traits.priority, flight.attempts, treatment(traits)


def treatment(traits: Traits) -> int:
    """How a delivery of such a message is to be treated that times out; 0: when a receiver asks."""
    if traits.group is not None:
        return AT_ONCE
    return SOON if traits.expires else 0
