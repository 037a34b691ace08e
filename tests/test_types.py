"""The public face, as type checkers see it: what is right is accepted, what is wrong is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkers import CHECKERS

TYPED = Path(__file__).parent / "typed"


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_right_is_accepted(checker: str, tmp_path: Path) -> None:
    refused, said = CHECKERS[checker]([TYPED / "right.py"], tmp_path)
    assert not refused, said


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_wrong_is_refused(checker: str, tmp_path: Path) -> None:
    marked = {
        ("wrong.py", number)
        for number, line in enumerate((TYPED / "wrong.py").read_text().splitlines(), 1)
        if line.endswith("# wrong")
    }
    refused, said = CHECKERS[checker]([TYPED / "wrong.py"], tmp_path)
    assert refused == marked, said
