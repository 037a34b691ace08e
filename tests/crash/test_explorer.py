"""The CI share of the laboratory: a budget of crash states, faults at every call, damaged stores.

`scripts/crash` goes on for as long as one likes.
"""

from __future__ import annotations

import itertools
import os

import pytest

from mq.engine import clock

from . import copied, damage
from .disk import PowerCut, SimulatedDisk
from .driver import Driver
from .explorer import Explorer, Tally, determined
from .history import History
from .workloads import WORKLOADS, acks

STATES = int(os.environ.get("MQ_CRASH_STATES", 10_000))
SHARE = STATES // len(WORKLOADS) + 1


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_promise_is_broken_at_any_call(name):
    """P1 to P10, cut at each call of a whole workload: the process killed, the power failed in two ways."""
    explorer = Explorer(per_call=2, glance=True)
    explorer.run(name)
    assert not explorer.tally.violations, "\n\n".join(map(str, explorer.tally.violations))


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_promise_is_broken_in_any_crash_state(name):
    """P1 to P10, cut again while they recover and go on: a share for each workload, seed after seed."""
    total = Tally()
    for seed in itertools.count():
        explorer = Explorer(seed, states_max=SHARE - total.states)
        explorer.run(name)
        total += explorer.tally
        assert not total.violations, "\n\n".join(map(str, total.violations))
        if total.states >= SHARE:
            break


@pytest.mark.parametrize("name", damage.STORES)
def test_no_damage_is_taken_for_a_clean_store(name, thorough):
    """P3, P7 and P10: stores that have each kind of record, damaged in every byte, or in every bit."""
    count, wrong = damage.explore(name, thorough=thorough)
    assert not wrong, "\n".join(wrong[:20])
    assert count > 1000


@pytest.mark.parametrize("name", copied.COPIED)
def test_a_copy_made_beside_a_writer_holds_what_was_safe(name):
    assert copied.explore(name) == ""


@pytest.mark.parametrize(
    "name, states",
    [
        ("acks", 6), ("closing", 6), ("rotation", 6), ("moving_shares", 5),
        ("starting_far_in_the_past", 5), ("unsynced_scheduling", 5), ("batched_groups", 5),
    ],
)  # fmt: skip
def test_faults_at_every_call(name, states):
    """ENOSPC, EDQUOT, EIO, EMFILE, short writes: each call of a workload, each fault, then crashes."""
    explorer = Explorer(1, per_call=1)
    for fault in explorer.fault_runs(name):
        explorer.grant(states)
        explorer.run(name, faults=fault)
    assert not explorer.tally.violations, "\n\n".join(map(str, explorer.tally.violations[:3]))


def test_a_seed_reproduces_everything():
    first, second = (Explorer(7, states_max=1500) for _ in range(2))
    first.run("batches")
    second.run("batches")
    assert first.tally == second.tally
    assert first.tally.lives > 0


def test_a_cut_in_earnest_leaves_what_a_look_at_that_call_showed(monkeypatch):
    """The explorer looks at copies; a PowerCut raised at the same call leaves the same bytes."""
    monkeypatch.setattr(clock, "_ticks", lambda: 0)  # the page tells how far store time is ahead of it
    with determined(3):
        seen: dict[int, dict[str, bytes]] = {}
        disk = SimulatedDisk()
        disk.on_change = lambda _: seen.update({disk.calls: disk.after_kill().content()})
        acks(Driver(disk, History()))
    assert len(seen) > 50
    for call, content in seen.items():
        with determined(3):
            disk = SimulatedDisk(cut_at=call)
            with pytest.raises(PowerCut):
                acks(Driver(disk, History()))
            with pytest.raises(PowerCut):
                disk.names("data")
            assert disk.after_kill().content() == content
