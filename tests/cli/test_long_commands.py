"""Commands on a store that takes long, or is large: they say how far they are, and need no more memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import AT_ONCE
from test_terminal import Terminal

import mq
from mq.cli import output, screen
from mq.engine import compacting
from mq.storage.segment import Scan

SEGMENT_BYTES = 1 << 20
BODY_BYTES = 1 << 14


def fill(store: Path, megabytes: int) -> None:
    """A queue with so much in it, dead letters, what a topic retains; no checkpoint."""
    with mq.open(store, sync="never", segment_bytes=SEGMENT_BYTES) as broker:
        body = b"x" * BODY_BYTES
        for _ in range(megabytes):
            broker.queue("mail").publish_many([body] * 44)
            failing = broker.queue("orders", max_attempts=1)
            failing.publish_many([body] * 10)
            failing.reject_many(failing.receive_many(10, timeout=0), reason="no route")
            broker.topic("shop", retain_count=1_000_000).publish(body)
            [broker.topic("shop").publish(body) for _ in range(9)]
    for path in (store / "checkpoint").iterdir():
        path.unlink()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two stores: one of 3 MB or so, one of 24 MB."""
    found = [tmp_path_factory.mktemp("store") / f"of-{size}" for size in (3, 24)]
    for path, size in zip(found, (3, 24), strict=True):
        fill(path, size)
    return found


# ── how far it is ──────────────────────────────────────────────────────────────────


def bars(terminal: Terminal, label: str) -> list[str]:
    return [line for line in terminal.lines() if line.startswith(label)]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_repair_says_how_far_it_is(store: Path, columns: int) -> None:
    fill(store, 3)
    segment = sorted((store / "log").glob("*.seg"))[1]
    with open(segment, "r+b") as file:
        file.seek(5000)
        file.write(b"?")
    dry = Terminal("repair", "--dry-run", columns=columns, command=AT_ONCE)
    assert dry.end() == 0
    terminal = Terminal("repair", columns=columns, command=AT_ONCE)
    assert terminal.end() == 0
    for each in (dry, terminal):
        found = bars(each, "reading")
        assert found and max(map(output.width, found)) < columns
        assert re.search(r"\d+%", found[-1]) and "\r\x1b[K" in each.shown
    assert "1 place repaired" in terminal.shown


@pytest.mark.parametrize("command", ["compact --dry-run", "compact", "inspect", "verify", "backup ../copy"])
def test_whatever_reads_all_of_it_says_how_far_it_is(store: Path, command: str) -> None:
    fill(store, 3)
    terminal = Terminal(*command.split(), command=AT_ONCE)
    assert terminal.end() == 0
    label = {"compact": "compacting", "verify": "verifying", "backup": "copying"}
    found = bars(terminal, "reading" if "--dry-run" in command else label.get(command.split()[0], "reading"))
    assert any("%" in line for line in found), terminal.shown


@pytest.mark.parametrize("command", ["queues", "publish mail x", "stats"])
def test_a_store_that_takes_long_to_open_says_how_far_it_is(store: Path, command: str) -> None:
    """There is no checkpoint, so that all of the log is read."""
    fill(store, 3)
    terminal = Terminal(*command.split(), columns=40, command=AT_ONCE)
    assert terminal.end() == 0
    found = bars(terminal, "opening")
    assert any("%" in line for line in found) and max(map(output.width, found)) < 40
    assert "\r\x1b[K" in terminal.shown.rpartition("opening")[2], "it has gone"


def test_the_bar_of_an_opening_does_not_run_into_the_screen_of_top(store: Path) -> None:
    fill(store, 3)
    with mq.open(store) as broker:
        terminal = Terminal("top", "--every", "0.01", command=AT_ONCE)
        terminal.wait_for(screen.CLEAR_BELOW)
        broker.queue("mail").publish("more")  # it reads all of the log again
        terminal.wait_for(screen.CLEAR_BELOW, 4)
        terminal.send("q")
        assert terminal.end() == 0
    assert "opening" not in terminal.shown.partition(screen.BEGIN)[2]


def test_names_that_are_looked_for_are_a_bar_too(store: Path) -> None:
    """A queue's number is looked for in all of the log, whose records say nothing else of it."""
    fill(store, 2)
    shell = ["sh", "-c", 'exec "$@" > shown', "sh", *AT_ONCE]
    terminal = Terminal("dump", "--queue", "mail", command=shell)
    assert terminal.end() == 0
    assert any("%" in line for line in bars(terminal, "reading names"))


def test_a_compaction_reads_the_log_between_its_turns(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store without garbage is read from its end to its beginning: other processes go on meanwhile."""
    read = []
    with mq.open(store, sync="never", segment_bytes=SEGMENT_BYTES) as broker:
        broker.queue("mail").publish_many([b"x" * BODY_BYTES] * 100)
        turn = broker._store.turn

        class Watched(Scan):
            def __init__(self, *args: Any) -> None:
                read.append(turn.mutex._is_owned())  # type: ignore[attr-defined]
                super().__init__(*args)

        monkeypatch.setattr(compacting, "Scan", Watched)
        broker._store.maintenance.compact()
        assert len(read) > 1 and not any(read)
        queue = broker.queue("mail")
        queue.purge()
        broker._store.maintenance.compact()
        assert broker.stats().disk_bytes < 2 * SEGMENT_BYTES


# ── memory ─────────────────────────────────────────────────────────────────────────


READING = [
    "queues", "stats", "stats mail", "peek mail -n 3", "tail --since 0 --until-end", "top -n 1", "dead",
    "dead show orders -n 3", "topics", "topic history shop", "subscriptions", "schedules", "doctor",
    "inspect", "dump", "verify", "compact --dry-run", "backup COPY", "export",
]  # fmt: skip
PEAK = """
import json, os, sys
from click.testing import CliRunner
from mq.cli import cli
small, large, *commands = sys.argv[1:]
said = os.dup(2)
null = os.open(os.devnull, os.O_WRONLY)
os.dup2(null, 1)
os.dup2(null, 2)

def peak(store, words):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            cli(["-s", store, *(word.replace("COPY", f"{store}.copy") for word in words)], prog_name="mq")
        except SystemExit as end:
            code = end.code or 0
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), used.ru_maxrss

for command in commands:  # all is imported before the first is measured
    words = command.replace("COPY", f"{small}.first").split()
    CliRunner().invoke(cli, ["-s", small, *words])
found = {command: [peak(store, command.split()) for store in (small, large)] for command in commands}
os.write(said, json.dumps(found).encode())
"""
GROWTH_KIB = 3 << 10  # of a store that is 21 MB larger; a state has 16 bytes for each message


def test_no_command_needs_more_memory_for_a_larger_store(stores: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, stores), *READING], capture_output=True, text=True,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"}, check=False,
    )  # fmt: skip
    found = json.loads(done.stderr)
    assert list(found) == READING
    assert {code for peaks in found.values() for code, _ in peaks} <= {0, 1, 3}, found
    grown = {command: large - small for command, ((_, small), (_, large)) in found.items()}
    assert max(grown.values()) < GROWTH_KIB, grown
