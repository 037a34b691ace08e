"""A move to another store, as its source tells it: what is on its way is in NAME.moving.

    orders ──► orders.moving ──► orders, in the other store

The meta of NAME.moving says where that is.  Some of what is in there may be in the other store already, and
only a note there tells which: see mq/engine/passage.py.  So nothing else takes messages out of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mq.errors import UsageError

from .options import Declaration
from .state import State

MOVING_SUFFIX: Final = ".moving"
DESTINATION: Final = "mq.to"  # in the meta: where it goes, and which move this is
MOVER: Final = "mq.by"  # the same: the process that moves, or did so last, and what the other store is called


class Goal(NamedTuple):
    """Where a move goes."""

    store_id: str
    run: str  # what no other move has, also of a store that was put back from a backup
    to: str  # the queue's name there

    @classmethod
    def of(cls, options: Declaration) -> Goal | None:
        """None if the queue is not that of a move."""
        store_id, _, rest = options.meta.get(DESTINATION, "").partition(" ")
        run, _, to = rest.partition(" ")
        return cls(store_id, run, to) if to else None

    def __str__(self) -> str:
        return " ".join(self)


class UnderWay(NamedTuple):
    """What a move to another store has not brought to its end."""

    queue: str  # that the messages come from
    messages: int
    goal: Goal
    pid: int  # of the process that moves, or did so last; 0: unknown
    path: str  # of the other store


def under_way(state: State, name: str) -> UnderWay | None:
    """What is on its way from the queue *name*, or is in *name* itself."""
    for source, moving in ((name, name + MOVING_SUFFIX), (name.removesuffix(MOVING_SUFFIX), name)):
        held = state.named(moving)
        if held and (goal := Goal.of(held.options)):
            pid, _, path = held.options.meta.get(MOVER, "").partition(" ")
            return UnderWay(source, held.total(), goal, int(pid) if pid.isdigit() else 0, path)
    return None


def refuse_moving(state: State, name: str) -> None:
    """UsageError if the queue *name* is that of a move, from which nothing is to be received."""
    held = state.named(name)
    if held and Goal.of(held.options):
        refuse_under_way(state, name)


def refuse_under_way(state: State, name: str) -> None:
    """UsageError if messages of the queue *name* are on their way to another store, or are in *name*."""
    found = under_way(state, name)
    if found and found.messages:
        where = found.path or found.goal.store_id
        raise UsageError(
            f"a move to {where} has {found.messages:,} messages of {found.queue!r} under way: run that"
            " `mq move` again, or `mq move --back`, which puts them back"
        )
