"""A store that is ill, for the tests of mq doctor: processes that hold it, and what is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from commands import Run, contents

from mq.cli.checks import processes

Hold = Callable[..., "subprocess.Popen[str]"]
HOLD = """
import os, resource, signal, sys, time, mq
from mq.storage import shared
def hold(do=lambda broker: None):
    with mq.open("data") as broker:
        do(broker)
        print("ready", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def hold(store: Path) -> Iterator[Hold]:
    """Start a process that has the store open, and does what the code says."""
    with ExitStack() as held:

        def start(code: str = "hold()", *, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
            command = [*before, sys.executable, "-c", HOLD + code]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = held.enter_context(subprocess.Popen(command, text=True, **pipes))
            held.callback(process.kill)
            assert process.stdout and process.stdout.readline() == "ready\n"
            return process

        yield start


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STUCK_SECONDS", 0.1)


def findings(run: Run, *, is_still: bool = True) -> dict[str, dict[str, Any]]:
    """What was found, by name, without a byte changed; *is_still*: no process writes meanwhile."""
    before = contents(Path("data")) if is_still else {}
    result = run("doctor", "--json")
    assert before == (contents(Path("data")) if is_still else {})
    *found, store = [json.loads(line) for line in result.stdout.splitlines()]
    assert store["type"] == "store"
    bad = [each for each in found if each["severity"] != "note"]
    corrupt = {"corrupt", "format-missing"} & {each["name"] for each in found}
    assert result.exit_code == (4 if corrupt else 1 if bad else 0)
    assert store["errors"] + store["warnings"] == len(bad)
    assert all(each["what"] and each["advice"] and "\n" not in each["what"] for each in found)
    return {each["name"]: each for each in found}


def names_of(found: dict[str, Any]) -> set[str]:
    """Without what this machine's own disk is found to be."""
    return set(found) - {"in-memory", "overlay", "file-system", "disk-low"}
