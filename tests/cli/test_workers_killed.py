"""`mq worker` under load, with a publisher, each of their processes killed: P1, P5, P12.

Killed are processes of the worker, its parent and the publisher, each in the midst of its work, after
some messages more, by chance.  Each call of a handler leaves lines in a file, with its process; so do
the publisher and what kills.  A longer run: MQ_KILLS=100 python -m pytest tests/cli/test_workers_killed.py
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

import noted
import pytest
from commands import COMMAND
from companions import is_gone, until

import mq

KILLS = int(os.environ.get("MQ_KILLS", "4"))
VISIBLE_SECONDS = 6.0  # more than a busy machine takes, twice: half of it is left when a delivery is extended

STEP_SECONDS_MAX = 0.1

CLOCK = """
import mmap

with open("clock", "rb") as file:
    now = memoryview(mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)).cast("d")
clock = lambda: now[0]
"""

JOBS = f"""
import os, time, mq, noted
from clock import clock

broker = mq.open("data", sync="never", clock=clock)
notes = noted.Notes("lines")

@broker.consumer("orders", concurrency=3, prefetch=5)
def handle(delivery: mq.Delivery[list[int]]) -> None:
    call = os.getpid(), delivery.id, *delivery.body
    notes.write("begin", *call)
    if delivery.body[1] % 50 == 7:
        time.sleep({VISIBLE_SECONDS * 1.3})  # longer than the visibility timeout
    notes.write("end", *call)
"""

PUBLISHER = """
import random, sys, mq, noted
from clock import clock

queue, chance = mq.open("data", sync="never", clock=clock).queue("orders"), random.Random(sys.argv[1])
notes = noted.Notes("told")
for number in range(int(sys.argv[1]), 1 << 30):
    group = chance.randrange(6)
    id = queue.publish([group, number], group=str(group), timeout=3600)
    notes.write(id)
"""


class Clock(threading.Thread):
    """The time of the store, for all its processes.

    Where the machine stands still for some seconds it does so as well.  Else a visibility timeout would be
    over before the process that works could extend it.
    """

    def __init__(self, home: Path) -> None:
        super().__init__()
        (home / "clock.py").write_text(CLOCK)
        with (home / "clock").open("w+b") as file:
            file.write(bytes(8))
            file.flush()
            self._now = memoryview(mmap.mmap(file.fileno(), 8)).cast("d")
        self._now[0] = time.time()
        self._ends = threading.Event()

    def __call__(self) -> float:
        return float(self._now[0])

    def run(self) -> None:
        last = time.monotonic()
        while not self._ends.wait(0.005):
            now = time.monotonic()
            self._now[0] += min(now - last, STEP_SECONDS_MAX)
            last = now

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self.join()


class Load:
    """A worker of two processes, and a publisher, which are killed and begun again."""

    def __init__(self, home: Path, seed: str) -> None:
        self._home, self._chance, self._number = home, random.Random(seed), 0
        (home / "jobs.py").write_text(JOBS)
        (home / "publisher.py").write_text(PUBLISHER)
        (home / "lines").touch()
        self.worker, self.publisher = self.work(), self._publish()

    def work(self, *given: str) -> subprocess.Popen[bytes]:
        return self._start(*COMMAND, "worker", "jobs", "-p", "2", *given)

    def _publish(self) -> subprocess.Popen[bytes]:
        self._number += 1_000_000  # of the next publisher, so that each group's go up
        return self._start(sys.executable, "publisher.py", str(self._number))

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        roots = [str(Path(mq.__file__).parents[1]), str(Path(noted.__file__).parent)]
        path = os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")])
        with (self._home / "said").open("ab") as said:
            return subprocess.Popen(
                command, cwd=self._home, env={**os.environ, "PYTHONPATH": path}, stderr=said
            )

    def lines(self) -> list[list[str]]:
        return noted.read(self._home / "lines")[0]

    def kill_one(self, what: str) -> None:
        """In the midst of it: so many lines further."""
        lines = self._home / "lines"
        far = lines.stat().st_size + self._chance.randrange(500, 3000)
        until(lambda: lines.stat().st_size >= far)
        if what == "publisher":
            self._kill(self.publisher.pid)
            self.publisher.wait()
            self.publisher = self._publish()
        elif what == "parent":
            self._kill(self.worker.pid)
            self.worker.wait()
            self.worker = self.work()
        else:
            until(self._children)
            self._kill(self._chance.choice(self._children()))

    def _children(self) -> list[int]:
        """Those that have called a handler, and live."""
        pid = self.worker.pid
        mine = set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return sorted({int(line[1]) for line in self.lines() if line[1] in mine})

    def _kill(self, pid: int) -> None:
        """Noted before and after: until the latter it may have written."""
        os.kill(pid, signal.SIGKILL)
        until(lambda: is_gone(pid))
        noted.write(self._home / "lines", f"killed {pid} 0 0 0")

    def end(self) -> tuple[int, int]:
        """No more comes; how the worker ended after SIGTERM, and then one that works until all is done."""
        self.publisher.kill()
        self.publisher.wait()
        until(self._children)
        self.worker.send_signal(signal.SIGTERM)
        return self.worker.wait(120), self.work("--until-empty").wait(120)

    def said(self) -> str:
        return (self._home / "said").read_text()


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="this system has no /proc")
def test_nothing_is_lost_out_of_order_or_done_twice_while_processes_die(tmp_path: Path) -> None:
    """A handler longer than the visibility timeout is run again only if its process was killed."""
    with Clock(tmp_path) as clock, mq.open(tmp_path / "data", sync="never", clock=clock) as broker:
        orders = broker.queue(
            "orders", visibility_timeout=VISIBLE_SECONDS, max_length=60, backoff=mq.Backoff(0.1, 1, 0.1)
        )
        load = Load(tmp_path, "workers")
        for number in range(KILLS):
            load.kill_one(("child", "publisher", "child", "parent")[number % 4])
        assert load.end() == (0, 0), load.said()
        assert orders.stats()[:3] == (0, 0, 0)
    told = {int(id) for (id,) in noted.read(tmp_path / "told")[0]}
    lines = load.lines()
    assert complaints(lines, told) == []
    assert any(line[0] == "end" and int(line[4]) % 50 == 7 for line in lines), "none was long"
    assert len(told) > 100


def complaints(lines: list[list[str]], told: set[int]) -> list[str]:
    """What is wrong."""
    wrong, dead, ended, begun = [], set(), set(), defaultdict[int, list[str]](list)
    last: dict[str, int] = {}  # of each group, the number that was begun last
    for what, pid, id, group, number in lines:
        if what == "killed":
            dead.add(pid)
        elif what == "end":
            ended.add(int(id))
        else:
            if alive := [each for each in begun[int(id)] if each not in dead]:
                wrong.append(f"P12: {id} is begun by {pid}, and {alive} live")
            if int(number) < last.get(group, 0):
                wrong.append(f"P5: {number} of group {group} behind {last[group]}")
            last[group] = int(number)
            begun[int(id)].append(pid)
    if lost := told - ended:
        wrong.append(f"P1: {sorted(lost)} were never done")
    return wrong


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("end 1 10 0 1|begin 1 11 0 2|end 1 11 0 2", ""),
        ("killed 1 0 0 0|begin 2 10 0 1|end 2 10 0 1|begin 2 11 0 2|end 2 11 0 2", ""),
        ("end 1 10 0 1", "P1"),
        ("end 1 10 0 1|begin 1 11 0 2|end 1 11 0 2|begin 1 10 0 1", "P12"),
        ("killed 1 0 0 0|begin 2 11 0 2|end 2 11 0 2|begin 2 10 0 1|end 2 10 0 1", "P5"),
        ("begin 2 10 0 1|end 2 10 0 1|begin 2 11 0 2|end 2 11 0 2", "P12"),
    ],
)
def test_what_is_wrong_is_found(more: str, complaint: str) -> None:
    lines: Any = [line.split() for line in ("begin 1 10 0 1|" + more).split("|")]
    found = complaints(lines, {10, 11})
    assert (found[0].partition(":")[0] if found else "") == complaint
