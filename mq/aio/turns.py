"""Turns: tasks with something in the way of their turn.  One thread takes the turns of all that wait.

With a thread for each, they would be in each other's way: a thread that has the turn, and waits for the
interpreter, keeps out the event loop, which sends more threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mq.errors import StoreLocked

from .one_thread import Outcome, outcome


def take_all(turns: list[Callable[[], Any]]) -> list[Outcome]:
    found: list[Outcome] = []
    locked: StoreLocked | None = None
    for do in turns:
        # Those behind it have waited as long: in a row, their waits would add up to minutes.
        result, error = (None, locked) if locked else outcome(do)
        locked = error if isinstance(error, StoreLocked) else None
        found.append((result, error))
    return found
