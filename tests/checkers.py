"""The type checkers that users have, each as strict as it can be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from documents import ROOT

Refused = set[tuple[str, int]]
"""The lines that a checker refuses: file, number."""


def mypy(files: list[Path], scratch: Path) -> tuple[Refused, str]:
    """What it refuses in *files*, whose names differ, and what it says."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", scratch / "cache", *files]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = re.findall(r"^(.*\.py):(\d+): error:", done.stdout, re.MULTILINE)
    assert bool(errors) == bool(done.returncode), done.stdout
    return {(Path(name).name, int(line)) for name, line in errors}, done.stdout


def pyright(files: list[Path], scratch: Path) -> tuple[Refused, str]:
    """The same of pyright: its build that pip installs, in pyright's own strict mode."""
    project = scratch / "pyrightconfig.json"
    settings = {"typeCheckingMode": "strict", "include": list(map(str, files)), "extraPaths": [str(ROOT)]}
    project.write_text(json.dumps(settings))
    command = [
        sys.executable, "-m", "basedpyright", "--project", project, "--pythonpath", sys.executable,
        "--outputjson",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(files), done.stdout
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in report["generalDiagnostics"]
    }, done.stdout


CHECKERS: dict[str, Callable[[list[Path], Path], tuple[Refused, str]]] = {"mypy": mypy, "pyright": pyright}
