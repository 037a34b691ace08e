"""Syncs: tasks that wait for the disk.  One thread syncs for all that wait at the same time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .one_thread import Outcome, outcome


def sync_all(sync: Callable[[int], None], owed: list[int]) -> list[Outcome]:
    """*sync*: returns when the log is on the disk up to a position.  *owed*: those that tasks wait for."""
    return [outcome(partial(sync, max(owed)))] * len(owed)
