"""What is going on, on standard error: a line that is written over, or in a file a line for each round."""

from __future__ import annotations

import sys
import time

from benchmarks.bench.workload import Case
from benchmarks.bench.workloads import WORKLOADS


class ProgressLine:
    def __init__(self, rounds: int, seconds_max: float) -> None:
        """*seconds_max*: after which the first round is the last."""
        self._rounds, self._seconds_max = rounds, seconds_max
        self._began = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._round = -1

    def __call__(self, round: int, index: int, count: int, case: Case) -> None:
        spent = time.monotonic() - self._began
        done = round * count + index
        left = ""
        if done > 10:
            each = spent / done
            first = each * (count - done)
            whole = each * (self._rounds * count - done)
            left = f", {clock(max(first, min(whole, self._seconds_max - spent)))} left"
        told = f"round {round + 1} of {self._rounds}, {index + 1} of {count}{left}: {title_of(case)}"
        if self._terminal:
            print(f"\r\x1b[K{told[:120]}", end="", file=sys.stderr, flush=True)
        elif round != self._round or index * 10 // count != (index - 1) * 10 // count:
            print(told, file=sys.stderr, flush=True)
        self._round = round

    def end(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def title_of(case: Case) -> str:
    slow = ", slow disk" if case.slow else ""
    return f"{WORKLOADS[case.workload].title}, {case.durability}{slow}, {case.body_bytes} bytes, {case.peer}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{rest:02} min"
