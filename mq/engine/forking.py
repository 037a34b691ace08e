"""Forks: every store that this process has open takes leave of its parent's files in a child.

What a store does there is in child.py; how a thread that forks inside an operation comes by its
locks is in mq/forks.py.
"""

from __future__ import annotations

import itertools
import os
from typing import Protocol

from mq import forks
from mq.weakly import Weakly


class Forked(forks.Forked, Protocol):
    def after_fork(self) -> None:
        """Called in a child: nothing that was open is its own."""

    def spoil(self, error: BaseException) -> None:
        """`after_fork` raised *error*: every use of the store raises it in this child."""


def note(store: Forked) -> None:
    """Have *store* take part in every fork, for as long as something else refers to it."""
    open_stores.add(next(_numbers), store)


def _before_fork() -> None:
    _taken.take(store for _, store in open_stores.items())


def _after_fork() -> None:
    """Each store by itself: what one raises must not leave the others with the parent's locks."""
    _taken.let_go()
    for _, store in open_stores.items():
        try:
            store.after_fork()
        except BaseException as error:  # noqa: BLE001  kept, and raised when the store is used
            store.spoil(error)


open_stores: Weakly[int, Forked] = Weakly()
_numbers = itertools.count()
_taken = forks.Taken()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_taken.let_go, after_in_child=_after_fork)
