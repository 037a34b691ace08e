"""kill -9 of processes that do nothing but have a store open: each tick is published exactly once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from storage import reference

import mq

PATIENCE = 120.0
EVERY_MS = 200
TICKS = 25
PROCESSES = 3

IDLE = """
import mq, sys, time
broker = mq.open(sys.argv[1], sync=sys.argv[2])
print(".", flush=True)
time.sleep(600)
"""


def idle(path: Path, sync: str) -> subprocess.Popen[bytes]:
    """A process that only has the store open."""
    process = subprocess.Popen([sys.executable, "-c", IDLE, str(path), sync], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.read(1) == b"."
    return process


@pytest.mark.parametrize("sync", ["always", "never"])
def test_each_tick_comes_once_whichever_process_is_killed(tmp_path: Path, sync: str) -> None:
    path, rng, kills = tmp_path / "s", random.Random(sync), 0
    with mq.open(path, sync="never", segment_bytes=4096) as broker:
        first = idle(path, sync)  # before there is a schedule
        broker.schedule("beat", "q", "x" * 50, every=EVERY_MS / 1000, missed="all")
    others = [first, *(idle(path, sync) for _ in range(PROCESSES - 1))]
    try:
        give_up = time.monotonic() + PATIENCE
        while kills < PROCESSES or ticks(path) < TICKS:  # enough ticks may be there before all have begun
            assert time.monotonic() < give_up, f"{ticks(path)} ticks, {kills} kills"
            time.sleep(rng.random() * EVERY_MS / 1000)
            victim = others.pop(rng.randrange(len(others)))
            victim.kill()
            victim.communicate()
            kills += 1
            others.append(idle(path, sync))
    finally:
        for each in others:
            each.kill()
            each.communicate()
    entries = [entry for segment in reference.read_log(path) for entry in segment.entries]
    told = [entry for entry in entries if entry.kind in ("SCHEDULE", "PUBLISH", "TICK")]
    assert [each.kind for each in told[1:]] == ["PUBLISH", "TICK"] * (len(told) // 2)
    times = [each.fields[0] for each in told if each.kind == "TICK"]
    assert times == list(range(times[0], times[0] + len(times) * EVERY_MS, EVERY_MS))
    with mq.open(path) as broker:
        assert broker.queue("q").stats().published >= len(times)


def ticks(path: Path) -> int:
    with mq.open(path, read_only=True) as broker:
        return broker.queue("q").stats().published
