"""What the tests of the command line share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Run = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[bytes]"]

COMMAND = [sys.executable, "-m", "mq"]
AT_ONCE = [  # progress is shown from the first moment on
    sys.executable, "-c", "from mq.cli import main, progress; progress.FIRST_SECONDS = 0; main()"
]  # fmt: skip


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below *directory*."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
