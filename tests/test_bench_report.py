"""What the bench makes of what was measured, and how it is told what to measure."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.bench import app, document, machine, plots, rounds, shim, tables
from benchmarks.bench.formats import ranged, short
from benchmarks.bench.peers import PEERS
from benchmarks.bench.results import Figure, Outcome, Results
from benchmarks.bench.workload import RATE, Group
from benchmarks.bench.workloads import WORKLOADS, growing, latency

PUBLISH = Group("publish", 100, "durable", False, 100)


def outcome(peer: str, round: int, rate: float, failed: str = "") -> Outcome:
    return Outcome(PUBLISH, peer, round, {} if failed else {"rate": rate}, {}, failed)


def results_of(*outcomes: Outcome) -> Results:
    peers = [app.info(peer) for peer in PEERS.values() if peer.name in ("mq", "sqlite3", "in-memory", "raw")]
    return Results(
        {"processor": "one"}, 3, peers, {"lmdb": "it is not installed"}, list(outcomes), finished=True
    )


@pytest.fixture
def three_rounds() -> Results:
    """mq is 2, 4 and 3 times as fast, in rounds of which the second was slow."""
    return results_of(
        outcome("mq", 0, 20_000), outcome("sqlite3", 0, 10_000),
        outcome("mq", 1, 4_000), outcome("sqlite3", 1, 1_000),
        outcome("mq", 2, 30_000), outcome("sqlite3", 2, 10_000),
    )  # fmt: skip


def everything() -> Results:
    """Made up: each workload with all peers of the standard library, in all settings."""
    chance, results = random.Random(1), results_of()
    for workload in WORKLOADS.values():
        for durability in workload.durabilities:
            for size in workload.body_sizes:
                for budget in workload.full:
                    group = Group(workload.name, size, durability, False, budget.messages)
                    for peer in results.peers:
                        if workload.suits(PEERS[peer.name]) and durability in PEERS[peer.name].durabilities:
                            results.outcomes += [
                                made_up(group, peer.name, round, chance) for round in range(3)
                            ]
    return results


def made_up(group: Group, peer: str, round: int, chance: random.Random) -> Outcome:
    metrics = WORKLOADS[group.workload].metrics
    values = {metric.name: chance.uniform(1, 9) * 10**4 / metric.scale for metric in metrics}
    names = growing.OPERATIONS if group.workload.startswith("growth") else ("disk",)
    series = {name: [(10.0**power, chance.uniform(1, 2)) for power in range(1, 4)] for name in names}
    return Outcome(group, peer, round, values, series)


# ── figures ────────────────────────────────────────────────────────────────────────


def test_a_figure_is_the_median_and_the_range(three_rounds: Results) -> None:
    assert three_rounds.figure(PUBLISH, "mq", RATE) == (20_000, 4_000, 30_000)


def test_a_ratio_is_taken_within_each_round(three_rounds: Results) -> None:
    assert three_rounds.ratio(PUBLISH, "sqlite3", RATE) == (3, 2, 4)


def test_a_ratio_above_one_is_always_for_mq() -> None:
    group, metric = Group(latency.PUBLISH.name, 100, "durable", False, 100), latency.METRICS[0]
    results = results_of(
        Outcome(group, "mq", 0, {"p50": 1e-5}, {}), Outcome(group, "sqlite3", 0, {"p50": 4e-5}, {})
    )
    assert results.ratio(group, "sqlite3", metric) == pytest.approx((4, 4, 4))


def test_a_peer_that_failed_once_has_no_figure_and_the_reason_is_told(three_rounds: Results) -> None:
    three_rounds.outcomes.append(outcome("sqlite3", 3, 0, "Wrong: 1 lost"))
    assert three_rounds.figure(PUBLISH, "sqlite3", RATE) is None
    assert three_rounds.ratio(PUBLISH, "sqlite3", RATE) is None
    told = tables.report(three_rounds, lambda name: "")
    assert (
        "sqlite3 has no figure for publish, durable, bodies of 100 bytes, 100 messages: Wrong: 1 lost."
        in told
    )


def test_results_are_the_same_after_they_were_written(tmp_path: Path) -> None:
    results = everything()
    results.write(tmp_path / "bench.json")
    assert Results.read(tmp_path / "bench.json").text() == results.text()


def test_a_run_that_was_cut_off_tells_of_the_rounds_that_there_were(tmp_path: Path) -> None:
    results = results_of(outcome("mq", 0, 10.0), outcome("sqlite3", 0, 10.0))
    results.write(tmp_path / "bench.json")
    assert "One round." in tables.about(Results.read(tmp_path / "bench.json"))


def test_a_run_in_two_parts_has_one_report(tmp_path: Path) -> None:
    group = Group("receive", 100, "durable", False, 100)
    results_of(outcome("mq", 0, 100)).write(tmp_path / "one")
    results_of(Outcome(group, "mq", 0, {"rate": 200}, {})).write(tmp_path / "two")
    words = ["--render", str(tmp_path / "one"), "--render", str(tmp_path / "two"), "--out", str(tmp_path)]
    assert CliRunner().invoke(app.main, words).exit_code == 0
    told = (tmp_path / "bench.md").read_text()
    assert re.search(r"publish +\| +receive and ack +\|", told) and re.search(
        r"\*\*mq\*\* +\| +100 \| +200 \|", told
    )


@pytest.mark.parametrize(
    "value, shown",
    [(0, "0"), (0.1234, "0.12"), (9.999, "10.0"), (850.4, "850"), (999.6, "1.00k"), (8_450, "8.45k"),
     (229_400, "229k"), (999_600, "1.00M"), (1_234_567, "1.23M")],
)  # fmt: skip
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert short(value) == shown


def test_a_range_is_shown_if_there_is_one() -> None:
    assert ranged(Figure(2, 1, 3)) == "2.00 (1.00–3.00)"
    assert ranged(Figure(2, 2, 2), "×") == "×2.00"
    assert ranged(None) == "–"


# ── where it goes ──────────────────────────────────────────────────────────────────


def test_the_report_has_a_part_for_each_workload_and_the_promises() -> None:
    told = tables.report(everything(), lambda name: f"({name})\n")
    for name in (
        "throughput-durable-100",
        "throughput-buffered-1024",
        "latency-durable",
        "recovery",
        "growth",
        "disk",
    ):
        assert f"({name})" in told
    for workload in WORKLOADS.values():
        if not workload.name.startswith(("reopen", "cleaning")):
            assert workload.title in told
    assert "lmdb was left out: it is not installed." in told
    assert PEERS["sqlite3"].guarantees.redelivery in told


def test_the_page_keeps_what_is_around_the_report(three_rounds: Results, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{document.BEGIN}\nold\n{document.END}\nafter\n")
    document.write_page(three_rounds, tmp_path, [], page)
    document.write_page(three_rounds, tmp_path, [], page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "old" not in text and text.count("### Messages a second") == 1
    with pytest.raises(document.NoPlace):
        document.with_block("no marks", "")


def test_the_page_of_this_project_has_a_place_for_the_report_and_says_what_is_promised() -> None:
    text = document.PAGE.read_text()
    assert document.with_block(text, "new") != text
    for peer in PEERS.values():
        if peer.name != "mq-before":
            assert peer.guarantees.redelivery in text or f"- {peer.name} was left out" in text


if not plots.missing():

    def test_every_plot_is_drawn(tmp_path: Path) -> None:
        names = plots.draw(everything(), tmp_path)
        assert len(names) == 9
        for name in names:
            assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


# ── the order of the rounds ────────────────────────────────────────────────────────


def plan(**changes: object) -> rounds.Plan:
    told = {
        "peers": [PEERS["mq"], PEERS["sqlite3"], PEERS["in-memory"]], "workloads": [WORKLOADS["publish"]],
        "rounds": 2, "quick": True, "body_sizes": [100], "durabilities": ["durable", "buffered"],
        "slow": True, "directory": None, "seconds_max": 60.0, "before": None,
    }  # fmt: skip
    return rounds.Plan(**{**told, **changes})  # type: ignore[arg-type]


def test_the_peers_take_turns_and_what_is_compared_is_measured_in_succession() -> None:
    first, second = (
        [(case.durability, case.slow, case.peer) for case in plan().cases(round)] for round in (0, 1)
    )
    durable, slow, buffered = ("durable", False), ("durable", True), ("buffered", False)
    assert first == [
        (*durable, "mq"), (*durable, "sqlite3"), (*slow, "mq"), (*slow, "sqlite3"),
        (*buffered, "mq"), (*buffered, "sqlite3"), (*buffered, "in-memory"),
    ]  # fmt: skip
    assert second == [
        (*durable, "sqlite3"), (*durable, "mq"), (*slow, "sqlite3"), (*slow, "mq"),
        (*buffered, "sqlite3"), (*buffered, "in-memory"), (*buffered, "mq"),
    ]  # fmt: skip


def test_heavy_workloads_have_fewer_rounds() -> None:
    heavy = plan(workloads=[WORKLOADS["reopen"]], durabilities=["buffered"])
    assert heavy.cases(WORKLOADS["reopen"].rounds_max - 1) and not heavy.cases(WORKLOADS["reopen"].rounds_max)


# ── the command ────────────────────────────────────────────────────────────────────


def test_a_run_from_the_command_to_the_report(tmp_path: Path) -> None:
    """A process of its own measures; the exit code says that mq lost nothing."""
    words = ["--quick", "--rounds", "1", "--peers", "mq", "--workloads", "publish",
             "--durability", "buffered", "--directory", str(tmp_path),
             "--out", str(tmp_path / "out")]  # fmt: skip
    done = CliRunner().invoke(app.main, words)
    assert done.exit_code == 0, done.output
    assert "**mq**" in (tmp_path / "out" / "bench.md").read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_what_was_measured_before_an_interruption_is_kept(
    three_rounds: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(plan: rounds.Plan, progress: rounds.Progress) -> Iterator[Outcome]:
        yield three_rounds.outcomes[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "run", interrupted)
    done = CliRunner().invoke(app.main, ["--out", str(tmp_path)])
    assert done.exit_code == 130
    kept = Results.read(tmp_path / "bench.json")
    assert kept.outcomes == three_rounds.outcomes[:1] and not kept.finished
    assert "interrupted" in (tmp_path / "bench.md").read_text()


@pytest.mark.parametrize(
    "words, said",
    [(["--peers", "mq,nonsense"], "there is no peer 'nonsense'"),
     (["--workloads", "nonsense"], "there is no workload 'nonsense'"),
     (["--bodies", "7"], "100 and 1024 bytes")],
)  # fmt: skip
def test_what_is_not_there_is_refused(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app.main, words)
    assert done.exit_code == click.UsageError.exit_code and said in done.output


def test_the_list_names_every_peer_with_its_promises_and_every_workload() -> None:
    told = CliRunner().invoke(app.main, ["--list"]).output
    for name in [*PEERS, *WORKLOADS]:
        assert f"  {name} " in told
    assert PEERS["sqlite3"].guarantees.power in told


def test_the_machine_is_described() -> None:
    told = machine.describe("/proc")
    assert told["file system"] == "proc" and told["Python"]


# ── the disk that waits ────────────────────────────────────────────────────────────

SYNCING = """
import mmap, os, sys, time
sys.path.insert(0, sys.argv[1])
from benchmarks.bench import shim
file = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
written = os.open(sys.argv[2], os.O_WRONLY | os.O_DSYNC)
os.ftruncate(file, 4096)
page = mmap.mmap(file, 4096)
begin, before = time.perf_counter(), shim.syncs()
os.fsync(file); os.fdatasync(file); page.flush(); os.write(written, b"1"); os.pwrite(written, b"2", 0)
seconds = time.perf_counter() - begin
os.write(file, b"3"); os.close(written); again = os.open(sys.argv[2], os.O_WRONLY); os.write(again, b"4")
print(shim.syncs() - before, seconds)
"""


if not shim.missing():

    @pytest.mark.parametrize("least_microseconds", [0, 4000])
    def test_waits_for_the_disk_are_counted_and_made_longer(least_microseconds: int, tmp_path: Path) -> None:
        """fsync, fdatasync, msync, and two writes to a file opened with O_DSYNC; no others."""
        environment = shim.environment(shim.build(tmp_path), tmp_path / "count", least_microseconds)
        command = [sys.executable, "-S", "-c", SYNCING, str(machine.ROOT), str(tmp_path / "file")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        count, seconds = done.stdout.split()
        assert count == "5"
        assert float(seconds) * 1e6 >= 5 * least_microseconds
