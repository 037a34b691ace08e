"""Every planted bug is caught; the library without them passes the same hunts."""

from __future__ import annotations

import pytest

from .planted import BUGS, Bug, Outdated, caught, planted


@pytest.mark.parametrize("bug", [pytest.param(bug, id=bug.name) for bug in BUGS])
def test_a_planted_bug_is_caught(bug):
    assert caught(bug), f"nobody noticed: {bug.name}"


def test_there_are_enough_of_them():
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 40


def test_a_bug_whose_text_is_gone_is_an_error():
    bug = Bug("gone", "mq.storage.log:Log.sync", "no such text", "", "acks")
    with pytest.raises(Outdated), planted(bug):
        pass
