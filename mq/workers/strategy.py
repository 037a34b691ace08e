"""Which of the slots that have room is given the next message.

round_robin    by turns
least_busy     the one that has the fewest messages; by turns among equals
random         any
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from .asked import Strategy
from .slot import Slot

Pick = Callable[[Sequence[Slot], int], int | None]
"""Given the slots, and which of them was given the last one: the next; None if none has room."""


def round_robin(slots: Sequence[Slot], last: int) -> int | None:
    return next((at for at in _turn(slots, last) if slots[at].has_room), None)


def least_busy(slots: Sequence[Slot], last: int) -> int | None:
    roomy = [at for at in _turn(slots, last) if slots[at].has_room]
    return min(roomy, key=lambda at: slots[at].load, default=None)


def at_random(slots: Sequence[Slot], last: int) -> int | None:
    roomy = [at for at, slot in enumerate(slots) if slot.has_room]
    return random.choice(roomy) if roomy else None


def _turn(slots: Sequence[Slot], last: int) -> list[int]:
    """All of them, beginning with the one behind the last."""
    return [*range(last + 1, len(slots)), *range(last + 1)]


STRATEGIES: Final[dict[Strategy, Pick]] = {
    "round_robin": round_robin,
    "least_busy": least_busy,
    "random": at_random,
}
