"""Rounds of every kind that this machine allows, until the time is over."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from . import faults, machine
from .machine import Cut, Image
from .processes import Ended, Nursery
from .rounds import Broken, Scene, fault_round, kill_round, power_round

ROUNDS_OF_A_STORE = 60  # then a new one, of a new seed


class Summary(NamedTuple):
    seed: str
    rounds: Counter[str]  # by kind
    kills: int
    power_cuts: int
    verdicts: Counter[str]
    skipped: list[str]  # what this machine does not allow
    violations: list[str]


def soak(minutes: float, seed: str, report: Callable[[str], None]) -> Summary:
    """Go on for so many *minutes*; *report* gets a line of progress now and then, and every violation."""
    give_up = time.monotonic() + minutes * 60
    total = Summary(seed, Counter(), 0, 0, Counter(), [], [])
    kinds = ["kills"]
    for kind, tools in (
        ("ext4", ("mount", "mkfs.ext4")),
        ("xfs", ("mount", "mkfs.xfs")),
        ("faults", ("gcc",)),
    ):
        if reason := machine.lacking(*tools):
            total.skipped.append(f"{kind}: {reason}")
        else:
            kinds.append(kind)
    generation = 0
    while time.monotonic() < give_up:
        for kind in kinds:
            if time.monotonic() > give_up:
                break
            own = f"{seed}/{kind}/{generation}"
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


def _store(kind: str, seed: str, give_up: float, total: Summary) -> tuple[Scene, str]:
    """Rounds of one kind on one store; what was broken, if so."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="mq-soak-"))
        library = faults.build(directory) if kind == "faults" else ""
        image = stack.enter_context(Image(kind, f"soak-{kind}")) if kind in ("ext4", "xfs") else None
        nursery = stack.enter_context(Nursery(preload=library))
        path = f"{image.path}/data" if image else str(directory / "data")
        scene = Scene(nursery, path, str(directory / "notes"), seed)
        chance = random.Random(seed)
        for _ in range(ROUNDS_OF_A_STORE):
            if time.monotonic() > give_up:
                break
            try:
                if image:
                    power_round(scene, image, chance.choice(list(Cut)))
                elif kind == "faults":
                    fault_round(scene)
                else:
                    kill_round(scene)
            except (Broken, Ended) as error:
                return scene, f"{error}\n(everything is kept in {directory})"
            total.rounds[kind] += 1
        shutil.rmtree(directory)
        return scene, ""
