"""Real power cuts: a file system is shut down in mid-traffic, mounted again, and the store re-opened."""

from __future__ import annotations

import pytest

from .machine import Cut, Image
from .rounds import Scene, power_round

ROUNDS = 9  # of each file system


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_was_synced_survives_a_power_cut(kind, need, nursery, tmp_path):
    """P1-P9: never called damage, nothing lost that a publish or a flush returned for."""
    need("mount", f"mkfs.{kind}")
    with Image(kind, kind) as image:
        scene = Scene(nursery, f"{image.path}/data", str(tmp_path / "notes"), f"power cut, {kind}")
        at_stake: set[int] = set()
        while scene.cuts < ROUNDS or not at_stake or not scene.ledger.settled:
            power_round(scene, image, list(Cut)[scene.cuts % 3])
            at_stake |= scene.ledger.safe
            assert scene.cuts < 10 * ROUNDS, "hardly anything was done"


@pytest.mark.parametrize("how", [Cut.LOG_FLUSHED, Cut.NOTHING_FLUSHED])
def test_the_cut_is_one(how, need, nursery, tmp_path):
    """What was written and not synced is lost: else these tests would show nothing."""
    need("mount", "mkfs.ext4")
    with Image("ext4", "cut") as image:
        file = f"{image.path}/file"
        for text, sync in (("synced", True), ("not so", False)):
            nursery.run("crash.real.scripts:overwrite", file, text, sync)
        image.cut(how)
        image.unmount()
        image.mount()
        with open(file) as left:
            assert left.read() == "synced"
