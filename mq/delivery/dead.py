"""Dead letters: where messages go that no receiver could process, and how they come back.

    orders ── max_attempts, reject, expired ──► orders.dead ── replay ──► orders

A dead-letter queue is a queue like any other, and may have one of its own; only a circle
is refused.  A message moves by a record that names it: its body stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Final

from mq.errors import QueueFull, UsageError

from . import records
from .intake import Room
from .now import Now
from .options import DEAD_SUFFIX, Declaration, replaced
from .plan import Plan
from .purge import IsMeant
from .queue import QueueState
from .records import Move
from .state import State, declaration_of
from .under_way import refuse_moving

NAME_BYTES_MAX: Final = 255
DEAD_LETTER_OPTIONS: Final = {
    "dead_letter",
    "max_attempts",
    "expired",
}  # options


def dead_letters_of(options: Declaration) -> str:
    """The name of the queue that a queue's dead letters go to."""
    name = options.dead_letter or options.name + DEAD_SUFFIX
    if len(name.encode()) > NAME_BYTES_MAX:
        raise UsageError(
            f"the dead letters of {options.name!r} would go to a queue whose name is too long: declare"
            " another with dead_letter="
        )
    return name


def check_dead_letters(state: State, name: str, changes: dict[str, Any]) -> None:
    """UsageError if the dead letters of *name*, declared with *changes*, would go in a circle.

    A queue that is not there yet counts as what its first message would make it.
    """
    if not changes.keys() & DEAD_LETTER_OPTIONS:
        return
    queue = state.named(name)
    options = replaced(declaration_of(queue) if queue else Declaration(name=name), changes)
    needed = options.dead_letter or options.max_attempts is not None or options.expired == "dead_letter"
    if not needed and not queue:
        return
    path = [name]
    while True:
        path.append(dead_letters_of(options))
        if path[-1] in path[:-1]:
            raise UsageError(f"dead letters would go in a circle: {' → '.join(map(repr, path))}")
        following = state.named(path[-1])
        if not following and len(path[-1].encode()) > NAME_BYTES_MAX - len(DEAD_SUFFIX):
            return
        options = following.options if following else Declaration(name=path[-1])


def move_to_dead_letters(plan: Plan, queue: QueueState, id: int, size: int, reason: str, flags: int) -> None:
    """Move a message to the dead letters; *flags*: FAILED or EXPIRED, if it was one of those."""
    to = plan.number(dead_letters_of(queue.options))
    move = Move(id, size, to, plan.now.store, plan.expires(to), queue.name, reason)
    plan.move(queue, records.DIED | flags, move)
    plan.free(queue, id, size)


class Replay:
    """Moving dead letters to where they died, or to *to*, a slice at a time.

    Those that are in flight, or not here, stay where they are.  Without *ids*, all that
    are there when it begins go, if they can.
    """

    def __init__(self, ids: list[int] | None, to: str | None, is_meant: IsMeant | None = None) -> None:
        """*is_meant*: only those of which it says so, in the turn in which they go."""
        self._ids, self._to, self._is_meant = ids, to, is_meant
        self._begun = False
        self._rest: Iterator[int] = iter(())
        self._slice: list[int] = []  # the last one
        self._left = 0  # in both
        self._moved = self._moved_last = 0  # and by the last slice

    @property
    def more(self) -> bool:
        """Whether another slice is to be planned."""
        return self._left > 0

    def plan(self, plan: Plan, queue: QueueState, is_late: Callable[[], bool]) -> int:
        """Plan the next slice; how many move with it."""
        if not self._begun:
            self._check(plan, queue)
            self._begun = True
            if self._ids is None:
                self._rest, self._left = queue.everything(), queue.total()
                return 0
            unique = list(dict.fromkeys(self._ids))
            self._rest, self._left = iter(unique), len(unique)
        arriving: dict[str, list[int]] = {}
        self._slice = []
        for id in self._rest:
            self._left -= 1
            self._slice.append(id)
            if self._goes(queue, id, plan.now) and (name := self._way_of(queue, id)):
                arriving.setdefault(name, []).append(self._move(plan, queue, id, name))
            if is_late():
                break
        for name, sizes in arriving.items():
            self._check_room(plan, name, sizes)
        count = sum(map(len, arriving.values()))
        self._moved, self._moved_last = self._moved + count, count
        return count

    def again(self) -> None:
        """The last slice was not appended: the next one begins with it."""
        self._left += len(self._slice)
        self._rest, self._slice = chain(self._slice, self._rest), []
        self._moved, self._moved_last = self._moved - self._moved_last, 0

    def _check(self, plan: Plan, queue: QueueState) -> None:
        refuse_moving(plan.state, queue.name)
        if self._to is not None and not plan.state.named(self._to):
            raise UsageError(f"there is no queue {self._to!r} to replay to: declare it first")
        if self._to == queue.name:
            raise UsageError(f"the messages are in {self._to!r} already")

    def _goes(self, queue: QueueState, id: int, now: Now) -> bool:
        return queue.waits(id, now) and (self._is_meant is None or self._is_meant(queue, id, now))

    def _way_of(self, queue: QueueState, id: int) -> str | None:
        """The name of the queue that the message goes to; None if it stays."""
        name = self._to or queue.traits(id).origin
        if name is None and self._ids is not None:
            raise UsageError(
                f"message {id} did not die in another queue: say where it goes with to= ({self._so_far})"
            )
        return name

    def _move(self, plan: Plan, queue: QueueState, id: int, name: str) -> int:
        """Plan it; the message's size."""
        target = plan.state.named(name)
        if target is None:
            raise UsageError(
                f"message {id} died in {name!r}, which is gone: say where it goes with to= ({self._so_far})"
            )
        size = plan.size_of(queue, id)
        move = Move(id, size, target.number, plan.now.store, plan.expires(target.number))
        plan.move(queue, 0, move)
        return size

    def _check_room(self, plan: Plan, name: str, sizes: list[int]) -> None:
        queue = plan.state.named(name)
        if queue and not Room(queue.options, queue.total(), queue.bytes).has(len(sizes), sum(sizes)):
            raise QueueFull(f"queue {name!r} has no room for {len(sizes):,} messages more ({self._so_far})")

    @property
    def _so_far(self) -> str:
        return f"{self._moved:,} were moved before" if self._moved else "nothing was moved"
