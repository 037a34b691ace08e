"""Tests of task libraries on mq.  Those of a library that is not installed are skipped, and say which."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a store that is not there yet."""
    return tmp_path / "data"
