"""What the log asks of the store that has it, and what it tells that store.

The log calls these in the turn of its caller, before anything is written: between a write and
the end that says so, nothing of the store is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from .standing import Standing, Trouble

Kept = Callable[[Collection[int], int], tuple[int, int]]
"""Of an append of these kinds, so many records: how much is to be kept back on the disk
before it may go ahead if it is refusable, and how much it must leave of that if it is not."""


def _keep_nothing(kinds: Collection[int], count: int) -> tuple[int, int]:
    return 0, 0


def _nothing() -> None:
    pass


def _nothing_of(trouble: Trouble) -> None:
    pass


def _run(do: Callable[[], object]) -> object:
    return do()


class Owner(msgspec.Struct):
    """The defaults are for a log that no other process and no other thread has."""

    skew_ms: Callable[[], int] = int  # how far the wall clock is ahead of store time
    kept: Kept = _keep_nothing
    refusable: frozenset[int] = frozenset()  # kinds that may not use the room kept back
    may_map: bool = False  # what is appended may be copied to the file, where it is mapped
    standing: Standing | None = None  # tells whether the files are still the store's
    turn: Callable[[Callable[[], object]], object] = _run
    """Runs a function in a turn, if this thread has none: no thread and no process appends meanwhile."""

    grown: Callable[[], None] = _nothing
    """Called when room was reserved, or could not be: perhaps there is something to clean.

    No answer of `append`: the store would have to look at that behind each append, and behind each
    one that was refused.
    """
    observe_sync: Callable[[float], object] | None = None  # is given the seconds of each fdatasync
    stood: Callable[[], None] = _nothing  # called each second while the log grows, when the files are its own
    lost: Callable[[Trouble], None] = _nothing_of  # called once, when they are not
