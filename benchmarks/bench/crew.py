"""Threads that begin at the same moment, and are waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Crew(Generic[T]):
    """A thread for each of *works*, told until when it may work.  All are ready when this returns."""

    def __init__(self, works: Sequence[Callable[[float], T]]) -> None:
        self._gate = threading.Event()
        self._until = 0.0
        self._results: list[T | BaseException | None] = [None] * len(works)
        there = threading.Barrier(len(works) + 1)
        self._threads = [
            threading.Thread(target=self._work, args=(index, work, there), daemon=True)
            for index, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()
        there.wait()

    def _work(self, index: int, work: Callable[[float], T], there: threading.Barrier) -> None:
        there.wait()
        self._gate.wait()
        try:
            self._results[index] = work(self._until)
        except BaseException as error:  # noqa: BLE001 `results` raises it
            self._results[index] = error

    def go(self, seconds: float) -> None:
        self._until = time.perf_counter() + seconds
        self._gate.set()

    def results(self) -> list[T]:
        """What each work returned, once all have; the first exception is raised."""
        for thread in self._threads:
            thread.join()
        found = []
        for result in self._results:
            if isinstance(result, BaseException):
                raise result
            found.append(result)
        return found  # type: ignore[return-value]
