"""The public face, as a type checker sees it: what is right is accepted, what is wrong is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TYPED = ROOT / "tests" / "typed"


def refused(name: str, tmp_path: Path) -> tuple[set[int], str]:
    """The lines of a file that mypy refuses, and what it says."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), name]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=TYPED, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {int(line) for line in re.findall(rf"^{name}:(\d+): error:", done.stdout, re.M)}, done.stdout


def test_what_is_right_is_accepted(tmp_path: Path) -> None:
    lines, said = refused("right.py", tmp_path)
    assert not lines, said


def test_what_is_wrong_is_refused(tmp_path: Path) -> None:
    marked = {
        number
        for number, line in enumerate((TYPED / "wrong.py").read_text().splitlines(), 1)
        if line.endswith("# wrong")
    }
    lines, said = refused("wrong.py", tmp_path)
    assert lines == marked, said
