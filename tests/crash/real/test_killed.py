"""kill -9, wherever it strikes: traffic, the cleaner, checkpoints, compaction, and recovery itself."""

from __future__ import annotations

from .conftest import skip
from .rounds import Scene, can_compact, kill_round

ROUNDS = 30


def test_what_was_told_holds_after_any_number_of_kills(nursery, tmp_path):
    """P1-P6, P8, P9."""
    scene = Scene(nursery, str(tmp_path / "data"), str(tmp_path / "notes"), "kill -9")
    ledger = scene.ledger
    while scene.looks < ROUNDS or min(len(ledger.tried), len(ledger.settled)) < 50:
        kill_round(scene)
        assert scene.looks < 10 * ROUNDS, "hardly anything was done"
    assert scene.kills > ROUNDS


def test_compaction_killed(nursery, tmp_path):
    """P1, P2, P8."""
    if not can_compact():
        skip("this mq has no `mq compact` yet")
    scene = Scene(nursery, str(tmp_path / "data"), str(tmp_path / "notes"), "compact")
    for _ in range(3):
        scene.kill(scene.traffic("busy"))
        for _ in range(3):
            scene.kill_soon("compact", 0.1)
        scene.look(power=False)
