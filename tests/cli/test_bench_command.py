"""mq bench: measures in a scratch store that is gone afterwards, however it ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from commands import Run, Start, contents

from mq.cli import output, speed
from mq.cli.bench import rate
from mq.cli.scratch import LOCK, scratch

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


# ── what may go wrong ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "args, code, said",
    [
        (["-s", "nats://u:secret@h/x", "bench"], 2, "nats://h/x has no disk to measure; name a directory"),
        (["bench", ""], 2, "DIR is empty: name a directory"),
        (["bench", "disk/missing"], 1, "disk/missing: there is no such file or directory"),
        (["bench", "disk/file"], 1, "disk/file: part of the path is a file, not a directory"),
    ],
)
def test_what_is_no_place_to_measure_is_named(
    run: Run, disk: Path, args: list[str], code: int, said: str
) -> None:
    (disk / "file").touch()
    result = run(*args)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(f"mq: {said}") and result.stderr.count("\n") == 1


def test_a_full_disk_is_one_line(run: Run, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(place: str, *_: object) -> list[speed.Result]:
        assert Path(place).parent == disk
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)

    monkeypatch.setattr(speed, "measure", fill)
    result = run("bench", str(disk))
    assert result.exit_code == 1 and "the disk was full before all was measured" in result.stderr
    assert result.stderr.count("\n") == 1 and not list(disk.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are read from /proc")
@pytest.mark.parametrize("which", [0, 1], ids=["answer", "echo"])
def test_a_second_process_that_dies_is_one_line(start: Start, disk: Path, which: int) -> None:
    process = start("bench", str(disk), "--seconds", "12")
    known = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + PATIENCE
    while len(children := known.read_text().split()) < 2:
        assert time.monotonic() < until and process.poll() is None
        os.sched_yield()
    os.kill(int(children[which]), signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert said == b"mq: the second process of the hand-off died of SIGKILL; nothing was left behind\n"
    assert not list(disk.iterdir())


def test_what_a_killed_one_left_goes_with_the_next(disk: Path) -> None:
    """But not what is in use, and not what only has the name."""
    for name in ("mq-bench-killed", "mq-bench-mine"):
        (disk / name / "fast").mkdir(parents=True)
    (disk / "mq-bench-killed" / LOCK).touch()
    with scratch(str(disk), "mq-bench-") as used, scratch(str(disk), "mq-bench-") as other:
        kept = {"mq-bench-mine", Path(used).name, Path(other).name}
        assert {each.name for each in disk.iterdir()} == kept
    assert [each.name for each in disk.iterdir()] == ["mq-bench-mine"]
