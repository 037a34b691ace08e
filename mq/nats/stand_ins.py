"""What the engine tells and asks a log in files, and what stands for it where there is nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

from mq.errors import StorageError


class Part(NamedTuple):
    """What stands for one of the files that a log in files is made of."""

    base: int = 0
    limit: int = 0
    skew_ms: int = 0  # the wall clock is store time


class Settings:
    """What the engine tells its log, and asks of one in files: here nothing depends on most of it."""

    grown: Callable[[], object] = staticmethod(int)  # called in a turn, once the log has grown by a step
    observe_sync: Callable[[float], object] | None = None


class Unfailing:
    """No append makes the log unusable, for the next one is compared with what is there."""

    error: StorageError | None = None
    told = False

    def check(self) -> None:
        pass

    def unheard(self) -> nullcontext[None]:
        return nullcontext()


class Nothing:
    """What is to be done for files only."""

    full = False  # the disk, as far as this process knows
    way_made = False

    def stand(self) -> None:
        pass

    def stand_again(self, now_ms: int) -> None:
        pass

    def hold(self, size: int) -> None:
        pass

    def is_syncing(self) -> bool:
        return False

    def appended_since(self, begin: int) -> list[Any]:
        """What an exception cut off comes back after its visibility timeout."""
        return []
