"""benchmarks/asyncio: it runs, in both ways, and stands in front of no module of Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LITTLE = ["--messages", "20", "--tasks", "20", "--queues", "2", "--seconds", "0.05"]


@pytest.mark.parametrize("how", [["-m", "benchmarks.asyncio"], ["benchmarks/asyncio"]])
def test_it_prints_a_line_for_each_figure(how: list[str], tmp_path: Path) -> None:
    command = [sys.executable, *how, *LITTLE, "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    titles = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert titles == ["publish", "receive + ack", "ticker", "waiting"]
    assert list(tmp_path.iterdir()) == []


def test_a_script_beside_it_imports_the_module_of_python() -> None:
    program = f"import sys\nsys.path.insert(0, {str(ROOT / 'benchmarks')!r})\nimport asyncio\nasyncio.run"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
