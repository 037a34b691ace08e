"""From any fill, a full disk is drained to the end, and then has room for as much again."""

from __future__ import annotations

import pytest

from . import full


@pytest.mark.parametrize("way", full.SOME, ids=str)
def test_a_full_disk_is_drained_and_filled_again(way):
    """P11."""
    assert full.hunt([way]) == ""
