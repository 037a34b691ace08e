"""The fault tests in their long form: strike after strike on one cluster, as long as you like.

    python tests/jetstream/soak.py [--minutes N] [--seed S]

Each round is a scene of its own, with a few strikes in an order that follows from the seed; behind it
everything is checked.  What was broken is printed with the seed; the exit code is 1.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from scene import Scene
from servers import Cluster
from strikes import STRIKES, replace_a_member

STRIKES_A_ROUND = 4
REPLACED_SHARE = 0.3  # of the rounds end with another member


@click.command(help=__doc__.partition("\n")[0])
@click.option("--minutes", default=1.0, show_default=True)
@click.option("--seed", default=None, help="as it was printed; without it a new one")
def main(minutes: float, seed: str | None) -> None:
    give_up = time.monotonic() + 60 * minutes
    seeds = [seed] if seed else (str(random.randrange(1 << 32)) for _ in iter(int, 1))
    for each in seeds:
        try:
            play(each)
        except AssertionError as error:
            raise SystemExit(f"seed {each}: {error}") from error
        if time.monotonic() > give_up:
            break


def play(seed: str) -> None:
    chance = random.Random(seed)
    strikes = chance.choices([each for each in STRIKES if each is not replace_a_member], k=STRIKES_A_ROUND)
    if chance.random() < REPLACED_SHARE:
        strikes.append(replace_a_member)
    print(f"seed {seed}: {', '.join(strike.__name__ for strike in strikes)}", flush=True)
    with tempfile.TemporaryDirectory() as scratch, Cluster(Path(scratch) / "servers", links=True) as cluster:
        notes = Path(scratch) / "notes"
        notes.mkdir()
        with Scene(cluster, notes, seed) as scene:
            for strike in strikes:
                strike(scene)
                scene.goes_on()
                cluster.wait_ready()
            told = scene.end()
        failed = ", ".join(f"{count} × {what}" for what, count in told.failures.items())
        print(
            f"  {len(told.told):,} published; slowest call {told.slowest:.1f} s; failed: {failed or 'none'}"
        )


if __name__ == "__main__":
    main()
