"""The soak: explore, damage and fault until the time is up, and say what came of it.

Run as `scripts/crash --minutes N --seed S`.  One process for each processor; a process
takes seed after seed, its own, and for each goes through every workload.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import time
from multiprocessing.queues import Queue

import click

from . import damage, full, processes
from .explorer import Explorer, Tally, shorten
from .kernel import laboratory
from .workloads import WORKLOADS

STATES_PER_RUN = 3000
FAULTS_PER_SEED = 12
SCHEDULES_PER_SEED = 40  # for each workload of several processes
DEATHS_EVERY = 5
FULL = "full_disk"  # fill a small one, drain it, and fill it again
ALL = sorted({*WORKLOADS, *processes.WORKLOADS, FULL})


def explore_one(seed: int, name: str, report: Queue[object], until: float) -> None:
    """A workload of one process, and some of its calls with faults."""
    explorer = Explorer(seed, states_max=STATES_PER_RUN)
    found = explorer.run(name)
    if found:
        explorer.tally.violations[-1] = shorten(found)
    report.put(explorer.tally)
    faulted = Explorer(seed, per_call=1)
    faults = list(faulted.fault_runs(name))
    for at in range(seed % 7, len(faults), max(1, len(faults) // FAULTS_PER_SEED)):
        faulted.grant(STATES_PER_RUN // FAULTS_PER_SEED)
        faulted.tally.faults += 1
        if faulted.run(name, faults=faults[at]) or time.monotonic() > until:
            break
    report.put(faulted.tally)


def explore_several(seed: int, name: str, report: Queue[object], until: float) -> None:
    """A workload of several processes: schedules drawn from the seed, and deaths all along one of them."""
    with laboratory() as here:
        first = seed * SCHEDULES_PER_SEED
        seeds = itertools.takewhile(
            lambda _: time.monotonic() < until, range(first, first + SCHEDULES_PER_SEED)
        )
        runs, found = processes.explore(here, name, seeds)
        if not found and time.monotonic() < until:
            deaths, found = processes.explore_deaths(here, name, seed, every=DEATHS_EVERY)
            runs += deaths
        tally = Tally(schedules=runs)
        if found:
            tally.violations.append(processes.shorten(here, found))
    report.put(tally)


def work(first: int, step: int, names: list[str], report: Queue[object], until: float) -> None:
    """Seed after seed, each workload once; those that have the same name here and there are both meant."""
    for seed in itertools.count(first, step):
        begin = 7 * seed % len(names)
        for name in names[begin:] + names[:begin]:
            if time.monotonic() > until:
                report.put(None)
                return
            if name == FULL:
                found = full.hunt([full.draw(seed, full.LARGEST_BYTES)])
                report.put(Tally(violations=[found] if found else []))
            if name in processes.WORKLOADS:
                explore_several(seed, name, report, until)
            if name in WORKLOADS:
                explore_one(seed, name, report, until)


@click.command()
@click.option("--minutes", default=1.0, show_default=True, help="How long to go on.")
@click.option("--seed", default=None, type=int, help="The first seed; without it, one from the clock.")
@click.option("--workload", "names", multiple=True, type=click.Choice(ALL), help="Only this.")
@click.option("--processes", default=os.cpu_count() or 1, show_default=True)
@click.option("--damage/--no-damage", "damages", default=True, help="Also damage stores bit by bit, first.")
def main(minutes: float, seed: int | None, names: tuple[str, ...], processes: int, damages: bool) -> None:
    """Crash simulated stores in every way, and check what is left against the promises."""
    seed = int(time.time()) if seed is None else seed
    begin = time.monotonic()
    until = begin + 60 * minutes
    total, cases, wrong = Tally(), 0, []
    context = multiprocessing.get_context("spawn")
    report: Queue[object] = context.Queue()
    workers = [
        context.Process(target=work, args=(seed + index, processes, list(names or ALL), report, until))
        for index in range(processes)
    ]
    for worker in workers:
        worker.start()
    if damages:
        for name in damage.STORES:
            count, bad = damage.explore(name)
            cases, wrong = cases + count, wrong + bad
    running = processes
    while running:
        tally = report.get()
        if isinstance(tally, Tally):
            total += tally
            for violation in tally.violations:
                click.echo(f"\n{violation}\n")
        else:
            running -= 1
        click.echo(
            f"\r{time.monotonic() - begin:6.0f} s  {total.states:,} states  {total.schedules:,} schedules"
            f"  {cases:,} damaged  {len(total.violations) + len(wrong)} violations ", err=True, nl=False,
        )  # fmt: skip
    for worker in workers:
        worker.join()
    click.echo(err=True)
    for text in wrong:
        click.echo(f"\n{text}")
    click.echo(
        f"states {total.states:,} (opened {total.opened:,}), kills {total.kills:,}, power cuts"
        f" {total.power_cuts:,}, lives {total.lives:,}, runs with faults {total.faults:,}, schedules of"
        f" several processes {total.schedules:,}, damage cases {cases:,},"
        f" violations {len(total.violations) + len(wrong)}, seed {seed}, {time.monotonic() - begin:.0f} s"
    )
    sys.exit(bool(total.violations or wrong))


if __name__ == "__main__":
    main()
