"""Every planted bug is caught; the library without them passes the same hunts."""

from __future__ import annotations

import pytest

from .disk import SimulatedDisk
from .planted import BUGS, Bug, Outdated, caught, hunt, planted

# Without a fault, a hunt is test_no_promise_is_broken_at_any_call.
HUNTS = sorted({(workload, bug.fault) for bug in BUGS if bug.fault for workload in bug.hunt.split()})


@pytest.mark.parametrize("bug", [pytest.param(bug, id=bug.name) for bug in BUGS])
def test_a_planted_bug_is_caught(bug):
    assert caught(bug), f"no test noticed: {bug.name}"


@pytest.mark.parametrize("workload, fault", HUNTS)
def test_the_library_without_bugs_passes_the_same_hunts(workload, fault):
    assert hunt(workload, fault, 0, share=10) == ""


def test_the_library_passes_where_files_cannot_be_written_past_the_cache(monkeypatch):
    monkeypatch.setattr(SimulatedDisk, "direct", False)
    assert hunt("publish_never", "sync", 0, share=10) == ""


def test_there_are_enough_of_them():
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 40


def test_a_bug_whose_text_is_gone_is_an_error():
    bug = Bug("gone", "mq.storage.log:Log.share", "no such text", "", "acks")
    with pytest.raises(Outdated), planted(bug):
        pass
