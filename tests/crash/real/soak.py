"""Rounds of every kind that this machine allows, until the time is over.

Run as `scripts/crash --real --minutes N --seed S --kind company`.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import click

from . import faults, machine, small_disks
from .audience import Audience
from .company import Company
from .machine import Cut, Image
from .processes import Ended, Nursery
from .rounds import Broken, Scene, fault_round, kill_round, power_round

ROUNDS_OF_A_STORE = 60  # then a new one, of a new seed
COMPANIES = {"company": Company, "audience": Audience}


class Summary(NamedTuple):
    seed: str
    rounds: Counter[str]  # by kind
    kills: int
    power_cuts: int
    verdicts: Counter[str]
    skipped: list[str]  # what this machine does not allow
    violations: list[str]


def soak(minutes: float, seed: str, report: Callable[[str], None], only: Sequence[str] = ()) -> Summary:
    """Go on for so many *minutes*; *report* gets a line of progress now and then, and every violation.

    *only*: these kinds, of "kills", "company", "audience", "ext4", "xfs", "full" and "faults".
    """
    give_up = time.monotonic() + minutes * 60
    total = Summary(seed, Counter(), 0, 0, Counter(), [], [])
    kinds = ["kills", *COMPANIES]
    for kind, tools in (
        ("ext4", ("mount", "mkfs.ext4")),
        ("xfs", ("mount", "mkfs.xfs")),
        ("full", ("mount", "mkfs.ext4")),
        ("faults", ("gcc",)),
    ):
        if reason := machine.lacking(*tools):
            total.skipped.append(f"{kind}: {reason}")
        else:
            kinds.append(kind)
    kinds = [kind for kind in kinds if not only or kind in only]
    if not kinds:
        raise click.UsageError("nothing of that is possible here: " + "; ".join(total.skipped))
    generation = 0
    while time.monotonic() < give_up:
        for kind in kinds:
            if time.monotonic() > give_up:
                break
            own = f"{seed}/{kind}/{generation}"
            if kind == "full":
                violation = small_disks.round_of(own)
                total.rounds[kind] += 1
                if violation:
                    total.violations.append(f"{own}: {violation}")
                    report(total.violations[-1])
                continue
            scene, violation = _store(kind, own, give_up, total)
            total = total._replace(kills=total.kills + scene.kills, power_cuts=total.power_cuts + scene.cuts)
            total.verdicts.update(scene.verdicts)
            if violation:
                total.violations.append(f"{own}: {violation}")
                report(total.violations[-1])
            done = ", ".join(f"{count} {name}" for name, count in total.rounds.items())
            report(f"real kernels: rounds: {done}; violations: {len(total.violations)}")
        generation += 1
    return total


def _store(kind: str, seed: str, give_up: float, total: Summary) -> tuple[Scene | Company, str]:
    """Rounds of one kind on one store; what was broken, if so."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="mq-soak-"))
        library = faults.build(directory) if kind == "faults" else ""
        image = stack.enter_context(Image(kind, f"soak-{kind}")) if kind in ("ext4", "xfs") else None
        nursery = stack.enter_context(Nursery(preload=library))
        path = f"{image.path}/data" if image else str(directory / "data")
        done: Company | Scene = COMPANIES.get(kind, Scene)(nursery, path, str(directory / "notes"), seed)
        chance = random.Random(seed)
        for _ in range(ROUNDS_OF_A_STORE):
            if time.monotonic() > give_up:
                break
            try:
                if isinstance(done, Company):
                    done.round()
                elif image:
                    power_round(done, image, chance.choice(list(Cut)))
                elif kind == "faults":
                    fault_round(done)
                else:
                    kill_round(done)
            except (Broken, Ended) as error:
                return done, f"{error}\n(everything is kept in {directory})"
            total.rounds[kind] += 1
        shutil.rmtree(directory)
        return done, ""


@click.command(help=__doc__)
@click.option("--minutes", default=1.0, show_default=True)
@click.option("--seed", default="soak", show_default=True)
@click.option(
    "--kind", "only", multiple=True, help="kills, company, audience, ext4, xfs, full, faults; default: all."
)
def main(minutes: float, seed: str, only: tuple[str, ...]) -> None:
    total = soak(minutes, seed, click.echo, only)
    for skipped in total.skipped:
        click.echo(f"not tested here: {skipped}")
    click.echo(f"{total.kills} kills, {total.power_cuts} power cuts, verdicts: {dict(total.verdicts)}")
    sys.exit(1 if total.violations else 0)


if __name__ == "__main__":
    main()
