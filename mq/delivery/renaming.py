"""Another name for a queue: the records that say so, or why it cannot be.

    orders ──► sales        DECLARE, with the name that it had: what names the queue follows, in the fold
    orders.dead ──► sales.dead      the same, in one group, if it is where the dead letters go by default

Subscriptions, messages and deliveries know a queue by its number, and need nothing.
"""

from __future__ import annotations

from mq.errors import UsageError

from . import records
from .dead import NAME_BYTES_MAX
from .options import DEAD_SUFFIX, Declaration, replaced
from .plan import Plan
from .state import State, declaration_of
from .under_way import refuse_under_way


def rename(plan: Plan, name: str, new: str) -> None:
    """Plan that the queue *name* is called *new*; UsageError if it cannot be."""
    state = plan.state
    if state.named(name) is None:
        raise UsageError(f"there is no queue {name!r}: nothing is there to be renamed")
    if name == new:
        raise UsageError(f"the queue is called {name!r} already: give another name")
    names = _that_go(state, name, new)
    _check_free(state, names)
    _check_circle(state, names, new)
    for was, now in names.items():
        refuse_under_way(state, was)
        queue = state.named(was)
        assert queue
        declaration = replaced(declaration_of(queue), {"name": now, "was": was})
        plan.add(*records.declare(queue.number, declaration))


def _that_go(state: State, name: str, new: str) -> dict[str, str]:
    """The queues that get other names: this one, and those where dead letters go by default."""
    names = {name: new}
    while (queue := state.named(name)) and not queue.options.dead_letter:
        name, new = name + DEAD_SUFFIX, new + DEAD_SUFFIX
        if state.named(name):
            names[name] = new
    return names


def _check_free(state: State, names: dict[str, str]) -> None:
    for was, now in names.items():
        if len(now.encode()) > NAME_BYTES_MAX:
            raise UsageError(f"{was!r} would be called {now!r}, which is too long: give a shorter name")
        if state.named(now):
            raise UsageError(
                f"{was!r} cannot be called {now!r}, for there is such a queue: give another name, or delete"
                " that queue first"
            )


def _check_circle(state: State, names: dict[str, str], new: str) -> None:
    """UsageError if dead letters of *new* would come back to it: a queue may name it as where they go."""
    before = {now: was for was, now in names.items()}
    path = [new]
    while True:
        name = path[-1]
        queue = None if name in names else state.named(before.get(name, name))
        options = queue.options if queue else Declaration(name=name)
        to = options.dead_letter
        path.append(names.get(to, to) if to else name + DEAD_SUFFIX)
        if path[-1] in path[:-1]:
            raise UsageError(f"dead letters would go in a circle: {' → '.join(map(repr, path))}")
        if queue is None:
            return
