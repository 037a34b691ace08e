"""`scripts/check --pythons`: which interpreters it finds, and what it says and returns."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    text = f"set -euo pipefail; source scripts/setup.sh; source scripts/pythons.sh; venvs=venvs; {script}"
    environment = {"PATH": f"{path / 'bin'}:/usr/bin:/bin", "PYENV_ROOT": str(path / "pyenv")}
    return subprocess.run(["bash", "-c", text], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """Fake interpreters hide those of the machine; what has no version here is refused by the probe."""

    def place(name: str, version: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n[ -n '{version}' ] && printf '%s\\t%s\\n' '{version}' '{name}'\n")
        file.chmod(0o755)

    for minor in range(11, 30):
        place(f"bin/python3.{minor}", "")
        place(f"bin/python3.{minor}t", "")
    place("bin/python3", "")
    place("bin/python", "")
    place("bin/python3.12", "3.12")
    place("bin/python3.13t", "3.13t")
    place("pyenv/versions/3.12.9/bin/python", "3.12")
    place("pyenv/versions/3.9.1/bin/python", "")
    place("pyenv/versions/3.13.2/bin/python", "3.13")
    place("pyenv/versions/3.11.4/bin/python", "3.11")
    return tmp_path


def test_each_version_is_found_once_and_the_oldest_first(found: Path) -> None:
    assert run("find_pythons", found).stdout.splitlines() == [
        "3.11\tpyenv/versions/3.11.4/bin/python",
        "3.12\tbin/python3.12",  # the PATH comes first
        "3.13\tpyenv/versions/3.13.2/bin/python",
        "3.13t\tbin/python3.13t",
    ]


def test_the_ends_are_the_oldest_and_the_newest_that_is_not_free_threaded(found: Path) -> None:
    ends = run("find_pythons | oldest_and_newest", found).stdout.splitlines()
    assert [line.split()[0] for line in ends] == ["3.11", "3.13"]


def test_one_python_is_both_ends(tmp_path: Path) -> None:
    assert run(r"printf '3.12\tpath\n' | oldest_and_newest", tmp_path).stdout == "3.12\tpath\n"


def test_a_line_for_each_python_and_the_worst_exit_code(tmp_path: Path) -> None:
    done = run(
        """
        check_with 3.11 /old sh -c 'echo "$PYTHON $MQ_VENV"; exit 1'
        check_with 3.12 /middle sh -c 'exit 3'
        check_with 3.13 /new true
        report
        """,
        tmp_path,
    )
    assert [line.split("  ")[:2] for line in done.stdout.splitlines()] == [
        ["Python 3.11", "failed (1)"],
        ["Python 3.12", "failed (3)"],
        ["Python 3.13", "passed"],
    ]
    assert "/old venvs/3.11" in done.stderr
    assert done.returncode == 3


def test_the_only_python_is_said_to_be_the_only_one(tmp_path: Path) -> None:
    done = run("check_with 3.12 /only true; report", tmp_path)
    assert "no other Python" in done.stdout and done.returncode == 0


def test_the_interpreter_of_these_tests_describes_itself(tmp_path: Path) -> None:
    done = run(f'"{sys.executable}" -c "$describe"', tmp_path)
    major, minor, _, level, _ = sys.version_info
    free = "t" * ("t" in sys.abiflags)
    fit = level == "final" and importlib.util.find_spec("ensurepip")  # Debian packs that by itself
    assert done.stdout == (f"{major}.{minor}{free}\t{sys.executable}\n" if fit else "")
