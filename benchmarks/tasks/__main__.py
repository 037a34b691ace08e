"""Task libraries on mq beside the same ones on Redis: the same worker, the same tasks that do nothing.

    pip install "mq[celery,dramatiq,taskiq,huey,django]" redis taskiq-redis
    python -m benchmarks.tasks [--tasks N] [--rounds N] [--quick] [--library NAME …] [--directory DIR]

In each round all libraries with all their brokers, one after the other, each with stores and servers of its
own; medians, with the range over the rounds:

    enqueue     tasks a second, enqueued by one process, one after the other
    disk        what the disk alone does: `write` and `fdatasync` a second, in turns with the above
    syncs       calls of fdatasync and fsync for each task, by that process
    drain       the same tasks a second, run by one worker of two that has just started, from its first task
                to its last
    latency     milliseconds from enqueueing to the first line of the task, with an idle worker: the median,
                and that of 95 in 100
    idle        CPU of the worker with all its processes, in percent of one processor, while nothing happens

Redis runs without persistence, on a port of its own.  It is left out if there is no redis-server, and so is
a library that is not installed.  With taskiq each enqueueing is one run of an event loop.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.tasks.libraries import DURABLE, LIBRARIES, QUICK, REDIS, Library
from benchmarks.tasks.site import Measured, measure

ENQUEUE_MARK = 1000.0  # durable tasks a second
LATENCY_MARK = 5.0  # milliseconds
IDLE_MARK = 0.05  # percent: 0 as it is shown

FORMS = Measured(",.0f", ",.0f", ".2f", ",.0f", ".1f", ".1f", ".1f")
TITLES = Measured("enqueue/s", "disk/s", "syncs", "drain/s", "latency ms", "95 %", "idle %")

Rounds = dict[str, list[Measured]]  # by broker


def median(rounds: list[Measured]) -> Measured:
    return Measured(*(statistics.median(values) for values in zip(*rounds, strict=True)))


def shown(rounds: list[Measured]) -> list[str]:
    """The cells of one line."""
    cells = []
    for values, form in zip(zip(*rounds, strict=True), FORMS, strict=True):
        cell = f"{statistics.median(values):{form}}"
        if len(rounds) > 1:
            cell += f" ({min(values):{form}}-{max(values):{form}})"
        cells.append(cell)
    return cells


def table(found: Rounds) -> Iterator[str]:
    lines = [["", *TITLES], *([name, *shown(rounds)] for name, rounds in found.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        yield "  ".join(["  " + name.ljust(widths[0]), *right])


def marks(found: Rounds) -> Iterator[str]:
    if not {DURABLE, QUICK} <= found.keys():
        return
    durable, quick = median(found[DURABLE]), median(found[QUICK])
    yield mark(
        durable.enqueue >= ENQUEUE_MARK,
        f"durable enqueue {durable.enqueue:,.0f}/s, mark {ENQUEUE_MARK:,.0f};"
        f" the disk alone does {durable.disk:,.0f}/s",
    )
    if REDIS in found:
        redis = median(found[REDIS])
        for name in ("enqueue", "drain"):
            ratio = getattr(quick, name) / getattr(redis, name)
            yield mark(ratio >= 1, f"{name} with {QUICK}: {ratio:.2f} of that with Redis, mark 1")
    latency = max(durable.latency, quick.latency)
    yield mark(latency <= LATENCY_MARK, f"idle latency {latency:.1f} ms, mark {LATENCY_MARK:.0f}")
    idle = max(durable.idle, quick.idle)
    yield mark(idle < IDLE_MARK, f"idle worker {idle:.1f} % CPU, mark 0")


def mark(is_met: bool, text: str) -> str:
    return f"  {'met   ' if is_met else 'missed'}  {text}"


def run(
    found: dict[str, Rounds], libraries: list[Library], tasks: int, rounds: int, directory: str | None
) -> None:
    """Put what is measured into *found*."""
    for number in range(rounds):
        for library in libraries:
            for name, broker in library.brokers.items():
                click.echo(f"round {number + 1} of {rounds}: {library.name}, {name}", err=True)
                with tempfile.TemporaryDirectory(dir=directory) as place, broker(Path(place)) as store:
                    measured = measure(library, Path(place), store, tasks)
                found.setdefault(library.name, {}).setdefault(name, []).append(measured)


@click.command()
@click.option("--tasks", default=3000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="One round of few tasks, to see that it runs.")
@click.option("--library", "names", multiple=True, type=click.Choice(list(LIBRARIES)), help="Else all.")
@click.option("--directory", default=None, help="Where the stores are; else a temporary directory.")
def main(tasks: int, rounds: int, quick: bool, names: tuple[str, ...], directory: str | None) -> None:
    tasks, rounds = (100, 1) if quick else (tasks, rounds)
    libraries = [LIBRARIES[name] for name in names or LIBRARIES if LIBRARIES[name].is_there()]
    if not shutil.which("redis-server"):
        click.echo("no redis-server: without Redis", err=True)
    found: dict[str, Rounds] = {}
    try:
        run(found, libraries, tasks, rounds, directory)
    finally:  # also of what a Ctrl-C cuts off
        click.echo(f"{tasks:,} tasks that do nothing, {rounds} rounds: median (least-most)")
        for name, measured in found.items():
            click.echo("\n".join(["", name, *table(measured), *marks(measured)]))


if __name__ == "__main__":
    main()
