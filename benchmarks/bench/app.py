"""scripts/bench: what it can be told."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar, get_args

import click

from benchmarks.bench import machine, plots, rounds, shim
from benchmarks.bench.document import write_page, write_report
from benchmarks.bench.peer import Durability, Peer
from benchmarks.bench.peers import PEERS
from benchmarks.bench.progress import ProgressLine
from benchmarks.bench.results import BEFORE, OURS, PeerInfo, Results, together
from benchmarks.bench.workloads import WORKLOADS

T = TypeVar("T")
ROUNDS, QUICK_ROUNDS = 5, 3
QUICK_SECONDS = 150.0  # after which no further round goes on
QUICK_SIZES = (100,)
SAVE_SECONDS = 60.0  # between two times that the results are written
SIZES = (100, 1024)

HELP = """Measure mq and its peers on the same work, in interleaved rounds, each measurement in a new process.

\b
  scripts/bench --quick                        three minutes: small amounts, bodies of 100 bytes
  scripts/bench                                all of it: some hours, on a machine that does nothing else
  scripts/bench --peers 'mq,sqlite3' --workloads 'publish*'
  scripts/bench --before ../other-checkout     mq as it is there, in the same rounds
  scripts/bench --render bench-out/bench.json --docs    no measuring: into docs/performance.md
  scripts/bench --render one/bench.json --render two/bench.json    of a run in two parts

What was measured is in --out: bench.md (tables), bench.json (everything), and PNGs.  Ctrl-C ends it, and
leaves what was measured so far.  The exit code is 1 if mq lost, doubled or altered a message, or failed.

How the figures are kept comparable is in benchmarks/bench/__init__.py, what each peer promises in --list."""


@click.command(help=HELP, context_settings={"max_content_width": 110})
@click.option("--quick", is_flag=True, help="Small amounts, in about three minutes.")
@click.option("--peers", help="Names or patterns with commas between; without it, all that are installed.")
@click.option("--workloads", help="The same for workloads.")
@click.option("--rounds", "round_count", type=click.IntRange(1), help=f"[default: {ROUNDS}]")
@click.option("--bodies", help="Sizes of bodies in bytes, with commas between.  [default: 100,1024]")
@click.option("--durability", type=click.Choice(get_args(Durability)), help="Only this.  [default: both]")
@click.option(
    "--slow/--no-slow", default=None, help="Also on a disk with a 1 ms fsync.  [default: not if quick]"
)
@click.option("--directory", type=click.Path(exists=True, file_okay=False), help="On the disk to measure.")
@click.option("--before", type=click.Path(exists=True, file_okay=False, resolve_path=True),
              help="Another checkout of mq, as one more peer.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("bench-out"),
              show_default=True, help="Where the results go.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(dir_okay=False, allow_dash=True),
              help="The JSON to this file too; - is standard output.")  # fmt: skip
@click.option("--render", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Measure nothing: report on this JSON; on several as one, if they are parts.")  # fmt: skip
@click.option("--docs", is_flag=True, help="Put the tables and plots into docs/performance.md.")
@click.option("--list", "listed", is_flag=True, help="Say which peers and workloads there are.")
def main(
    quick: bool, peers: str | None, workloads: str | None, round_count: int | None, bodies: str | None,
    durability: Durability | None, slow: bool | None, directory: str | None, before: str | None, out: Path,
    json_file: str | None, render: tuple[Path, ...], docs: bool, listed: bool,
) -> None:  # fmt: skip
    if listed:
        return list_all()
    if render:
        results = together([Results.read(file) for file in render])
    else:
        chosen = chosen_of(PEERS, peers, "peer")
        here, left_out = installed(chosen, before, named=peers is not None)
        plan = rounds.Plan(
            peers=here,
            workloads=chosen_of(WORKLOADS, workloads, "workload"),
            rounds=round_count or (QUICK_ROUNDS if quick else ROUNDS),
            quick=quick,
            body_sizes=sizes(bodies) if bodies else list(QUICK_SIZES if quick else SIZES),
            durabilities=[durability] if durability else list(get_args(Durability)),
            slow=(not quick if slow is None else slow) and not shim.missing(),
            directory=directory,
            seconds_max=QUICK_SECONDS if quick and not round_count else float("inf"),
            before=before,
        )
        results = measure(plan, left_out, out / "bench.json")
    names = write_report(results, out)
    say(f"{out}/bench.md, bench.json" + "".join(f", {name}.png" for name in names))
    if docs:
        write_page(results, out, names)
    if json_file:
        with click.open_file(json_file, "w") as file:
            file.write(results.text())
    ours = [why for (_, peer), why in results.failures().items() if peer == OURS]
    if not results.finished:
        sys.exit(130)
    sys.exit(1 if ours else 0)


def measure(plan: rounds.Plan, left_out: dict[str, str], file: Path) -> Results:
    """What was measured, also if this is interrupted.  Now and then it is written to *file*."""
    for name, why in left_out.items():
        say(f"{name} is left out: {why}")
    for why in filter(None, (plots.missing() and f"no plots: {plots.missing()}", no_shim())):
        say(why)
    directory = plan.directory or tempfile.gettempdir()
    about = machine.describe(directory)
    if plan.before:
        about["before"] = machine.commit(plan.before)
    if note := about.get("note"):
        say(note)
    results = Results(about, plan.rounds, [info(peer) for peer in plan.peers], left_out)
    file.parent.mkdir(parents=True, exist_ok=True)
    line, written = ProgressLine(plan.rounds, plan.seconds_max), time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for outcome in rounds.run(plan, line):
            results.outcomes.append(outcome)
            if outcome.failed:
                line.end()
                say(f"{outcome.peer}, {outcome.group.workload}: {outcome.failed}")
            if time.monotonic() - written > SAVE_SECONDS:
                results.write(file)
                written = time.monotonic()
        results.finished = True
    except KeyboardInterrupt:
        say("interrupted: what was measured so far is kept")
    finally:
        line.end()
        results.count_rounds()
    return results


def no_shim() -> str:
    why = shim.missing()
    return f"waits for the disk are not counted, and there is no slow disk: {why}" if why else ""


def info(peer: Peer) -> PeerInfo:
    return PeerInfo(
        peer.name, peer.title, peer.version(), *peer.guarantees, survives=peer.survives, floor=peer.floor
    )


def installed(peers: Iterable[Peer], before: str | None, *, named: bool) -> tuple[list[Peer], dict[str, str]]:
    """Those that can run here, and why the others cannot."""
    here: list[Peer] = []
    left_out: dict[str, str] = {}
    for peer in peers:
        if peer.name == BEFORE:
            if before:
                here.append(peer)
            elif named:
                left_out[peer.name] = peer.missing()
        elif why := peer.missing():
            left_out[peer.name] = why
        else:
            here.append(peer)
    return here, left_out


def chosen_of(there: dict[str, T], patterns: str | None, what: str) -> list[T]:
    """Those whose name fits one of *patterns*."""
    found = []
    for pattern in patterns.split(",") if patterns else ["*"]:
        fits = [name for name in there if fnmatch(name, pattern.strip())]
        if not fits:
            raise click.UsageError(f"there is no {what} {pattern!r}; there are {', '.join(there)}")
        found += fits
    return [each for name, each in there.items() if name in found]


def sizes(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--bodies are sizes in bytes, as in 100,1024, not {text!r}") from None
    if not set(found) <= set(SIZES):
        raise click.UsageError(f"--bodies are of {' and '.join(map(str, SIZES))} bytes")
    return found


def list_all() -> None:
    width = max(map(len, [*PEERS, *WORKLOADS])) + 2
    click.echo("peers")
    for peer in PEERS.values():
        why = peer.missing()
        click.echo(f"  {peer.name:{width}}{why and '(' + why + ') '}{peer.title}")
        for what, words in peer.guarantees._asdict().items():
            click.echo(f"  {'':{width}}  {what.replace('_', ' ')}: {words}")
    click.echo("workloads")
    for workload in WORKLOADS.values():
        click.echo(f"  {workload.name:{width}}{workload.title}")


def say(text: str) -> None:
    click.echo(f"bench: {text}", err=True)
