"""Rounds: run a worker, kill it, open the store again, audit.

    a round         a worker runs ─► its notes pass a random mark ─► SIGKILL ─► mq.open (timed) ─► audit
    the last round  a worker runs to its end                                 ─► mq.open (timed) ─► audit

The seed chooses the marks.  The instant behind a mark is left to chance: inside a write,
inside an fsync, between two messages.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from audit import Audit, Row
from notes import Notes
from workers import open_queue

import mq

STALL_SECONDS = 60.0  # a worker that notes nothing for so long hangs
POLL_SECONDS = 0.0002
AIM_SECONDS = 0.002  # the kill comes up to this long after the mark


class Failed(Exception):
    """A worker did what it must not: the text says what."""


class Rounds:
    def __init__(self, work: Path, lines: list[bytes], total: int, kills: int, chance: random.Random) -> None:
        self._work, self._total, self._kills, self._chance = work, total, kills, chance
        self._published, self._consumed = Notes(work / "published"), Notes(work / "consumed")
        self.audit = Audit(self._published, self._consumed, lines)
        self._rows: list[Row] = []

    def run(self) -> list[Row]:
        """One row for each round; Failed if a worker fails by itself."""
        try:
            for what in ("publish", "consume"):
                for number, mark in enumerate(self._marks(self._total), 1):
                    killed = self._run_worker(what, mark, number)
                    row = Row(f"{what}, to the end" if mark is None else f"{what} {number}", killed)
                    self._recover(row)
                    self._rows.append(row)
        finally:
            self._progress("", 0, 0)
        return self._rows

    def _marks(self, count: int) -> Iterator[int | None]:
        """How far each round gets: one mark in each of as many equal parts, then to the end."""
        for part in range(self._kills):
            # The last part has no mark, so that there is always something left to kill.
            share = count / (self._kills + 1)
            yield max(part + 1, int(share * (part + self._chance.random())))
        yield None

    def _run_worker(self, what: str, mark: int | None, number: int) -> bool:
        """Run a worker until *mark* messages are noted, and kill it; whether the kill met it alive."""
        notes, per_message = (self._published, 1) if what == "publish" else (self._consumed, 2)
        command = [sys.executable, Path(__file__).parent, "--worker", what, self._work, str(self._total)]
        worker = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            noted, since = notes.look(), time.monotonic()
            while worker.poll() is None:
                if mark is not None and noted >= mark * per_message:
                    aim = time.perf_counter() + self._chance.uniform(0, AIM_SECONDS)
                    while time.perf_counter() < aim:
                        pass
                    break
                if noted < notes.look():
                    noted, since = notes.count, time.monotonic()
                    self._progress(what, noted // per_message, number)
                elif time.monotonic() > since + STALL_SECONDS:
                    raise Failed(f"the {what}ing process has noted nothing for {STALL_SECONDS:.0f} seconds")
                time.sleep(POLL_SECONDS)
        finally:
            worker.kill()
            _, errors = worker.communicate()
        if worker.returncode > 0:
            raise Failed(f"the {what}ing process failed by itself:\n{errors.decode(errors='replace')}")
        return worker.returncode < 0

    def _recover(self, row: Row) -> None:
        begin = time.perf_counter()
        with mq.open(self._work / "store") as broker:
            row.recovery_seconds = time.perf_counter() - begin
            self.audit.check(row, open_queue(broker))

    def _progress(self, what: str, done: int, number: int) -> None:
        if not sys.stderr.isatty():
            return
        if not what:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            return
        bar = "█" * (24 * done // self._total)
        print(f"\r\x1b[K{what:8} {bar:·<24} {done:,} of {self._total:,}, round {number}",
              end="", file=sys.stderr, flush=True)  # fmt: skip
