"""mq bench: measures in a scratch store that is gone afterwards, however it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from commands import Run, Start, contents

from mq.cli import output
from mq.cli.bench import rate

PATIENCE = 60.0
CASES = ["publish, one by one", "publish in hundreds", "receive and ack", "durable, one by one",
         "durable in hundreds", "hand-off"]  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path, store: Path) -> Path:
    """Where it measures."""
    place = tmp_path / "disk"
    place.mkdir()
    return place


def test_each_case_stands_beside_its_raw_loop(run: Run, disk: Path, store: Path, filled: list[int]) -> None:
    before = contents(store)
    result = run("bench", str(disk), "--seconds", "0.3", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    machine, *cases = [json.loads(line) for line in result.stdout.splitlines()]
    assert (machine["type"], machine["directory"], machine["body_bytes"]) == ("machine", str(disk), 100)
    assert [each["name"] for each in cases] == CASES
    for each in cases:
        for side in (each["mq"], each["raw"], each["ratio"]):
            assert 0 < side["low"] <= side["median"] <= side["high"]
        assert each["ratio"]["low"] <= each["mq"]["high"] / each["raw"]["low"]
    assert not list(disk.iterdir()) and contents(store) == before


def test_text_fits_a_terminal_and_says_what_a_sync_takes(
    run: Run, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(disk)
    result = run("bench", "--size", "1K", "--seconds", "0.2")
    lines = result.stdout.splitlines()
    assert "bodies of 1.0 KiB" in lines[0] and max(map(output.width, lines)) <= 80
    assert [line[:20].strip() for line in lines[3:9]] == CASES
    assert lines[-1].startswith("a write that waits for the disk takes ")
    assert not list(disk.iterdir()), "without DIR, beside the store"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_stays_if_it_is_interrupted(start: Start, disk: Path, number: signal.Signals) -> None:
    process = start("bench", str(disk), "--seconds", "600")
    until = time.monotonic() + PATIENCE
    while not list(disk.glob("*/shared/wake/*")):  # all is there, the other process too
        assert time.monotonic() < until and process.poll() is None
        os.sched_yield()
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (128 + number, b"")
    assert not list(disk.iterdir())


@pytest.mark.parametrize("name, code", [("missing", 1), ("file", 1)])
def test_where_nothing_can_be_made_it_says_so(run: Run, disk: Path, name: str, code: int) -> None:
    (disk / "file").touch()
    result = run("bench", str(disk / name))
    assert (result.exit_code, result.stdout) == (code, "") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--seconds=0", "--size=0", "--size=65M"])
def test_what_cannot_be_measured_is_refused(run: Run, disk: Path, option: str) -> None:
    result = run("bench", str(disk), option)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1


def test_without_matplotlib_it_says_so_before_it_measures(
    run: Run, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mq.cli.plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    result = run("bench", str(disk), "--plot", "x.png", "--seconds", "600")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "mq: --plot needs matplotlib: pip install 'mq[plot]'\n"


def test_it_is_drawn(run: Run, disk: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, the extra [plot]")
    result = run("bench", str(disk), "--plot", "x.png", "--seconds", "0.2")
    assert result.exit_code == 0
    assert Path("x.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert run("bench", str(disk), "--plot", "no/x.png", "--seconds", "0.1").exit_code == 1


@pytest.mark.parametrize(
    "value, shown",
    [(0.5, "0.5"), (999.4, "999"), (999.9, "1k"), (1234, "1.23k"), (999_400, "999k"), (999_900, "1M"),
     (12_345_678, "12.3M"), (1_234_567_890, "1,235M")],
)  # fmt: skip
def test_rates_have_three_digits(value: float, shown: str) -> None:
    assert rate(value) == shown
