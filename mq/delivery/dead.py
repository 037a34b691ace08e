"""Dead letters: where messages go that nobody can deal with, and how they come back.

    orders ── max_attempts, reject, expired ──► orders.dead ── replay ──► orders

A dead-letter queue is a queue like any other, and may have one of its own; only a circle
is refused.  A message moves by a record that names it: its body stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from mq.errors import QueueFull, UsageError

from . import events
from .events import Move
from .intake import Room
from .plan import Plan
from .queue import QueueState
from .state import State, declaration_of

SUFFIX: Final = ".dead"
NAME_BYTES_MAX: Final = 255
BURYING: Final = {"dead_letter", "max_attempts", "expired"}  # the options that dead letters are about


def grave_of(options: events.Declaration) -> str:
    """The name of the queue that a queue's dead letters go to."""
    name = options.dead_letter or options.name + SUFFIX
    if len(name.encode()) > NAME_BYTES_MAX:
        raise UsageError(
            f"the dead letters of {options.name!r} would go to a queue whose name is too long: declare"
            " another with dead_letter="
        )
    return name


def check_grave(state: State, name: str, changes: dict[str, Any]) -> None:
    """UsageError if the dead letters of *name*, declared with *changes*, would go in a circle.

    A queue that is not there yet counts as what its first message would make it.
    """
    if not changes.keys() & BURYING:
        return
    queue = state.named(name)
    options = events.replaced(declaration_of(queue) if queue else events.Declaration(name=name), changes)
    needed = options.dead_letter or options.max_attempts is not None or options.expired == "dead_letter"
    if not needed and not queue:
        return
    path = [name]
    while True:
        path.append(grave_of(options))
        if path[-1] in path[:-1]:
            raise UsageError(f"dead letters would go in a circle: {' → '.join(map(repr, path))}")
        following = state.named(path[-1])
        if not following and len(path[-1].encode()) > NAME_BYTES_MAX - len(SUFFIX):
            return
        options = following.options if following else events.Declaration(name=path[-1])


def bury(plan: Plan, queue: QueueState, id: int, size: int, reason: str, flags: int) -> None:
    """Move a message to the dead letters; *flags*: FAILED or EXPIRED, if it was one of those."""
    to = plan.number(grave_of(queue.options))
    said = Move(id, size, to, plan.now.store, plan.expires(to), queue.name, reason)
    plan.add(events.MOVE, events.DIED | flags, queue.number, events.encode_move(said))
    plan.free(queue, id, size)


def replay(plan: Plan, queue: QueueState, ids: Iterable[int] | None, to: str | None) -> int:
    """Move dead letters to where they died, or to *to*; how many.

    Those that are in flight, or not here, stay where they are.  Without *ids*, all that
    can go.
    """
    if to is not None and not plan.state.named(to):
        raise UsageError(f"there is no queue {to!r} to replay to: declare it first")
    if to == queue.name:
        raise UsageError(f"the messages are in {to!r} already")
    named = ids is not None
    going = dict.fromkeys(queue.oldest(queue.total()) if ids is None else ids)
    arriving: dict[int, list[int]] = {}
    for id in going:
        if not queue.waits(id, plan.now):
            continue
        name = to or queue.traits(id).origin
        if name is None:
            if named:
                raise UsageError(f"message {id} did not die in another queue: say where it goes with to=")
            continue
        target = plan.state.named(name)
        if target is None:
            raise UsageError(f"message {id} died in {name!r}, which is gone: say where it goes with to=")
        size = plan.size_of(queue, id)
        arriving.setdefault(target.number, []).append(size)
        said = Move(id, size, target.number, plan.now.store, plan.expires(target.number))
        plan.add(events.MOVE, 0, queue.number, events.encode_move(said))
    for number, sizes in arriving.items():
        queue = plan.state.queues[number]
        if not Room(queue.options, queue.total(), queue.bytes).has(len(sizes), sum(sizes)):
            raise QueueFull(
                f"queue {queue.name!r} has no room for {len(sizes):,} messages more: nothing was moved"
            )
    return sum(map(len, arriving.values()))
