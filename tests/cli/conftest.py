"""Running the command line: in this process through click, or as a real one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from commands import COMMAND, Run, Start

import mq
from mq.cli import cli


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the store is, and nothing else to be found there."""
    monkeypatch.chdir(tmp_path)
    for name in ("MQ_STORE", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "data"


@pytest.fixture
def run(store: Path) -> Run:
    """Run one command in this process.  Nothing but an exit code may come out of it."""

    def run_one(*args: str, input: bytes | None = None, env: dict[str, str] | None = None) -> Result:
        result = CliRunner().invoke(cli, args, input=input, env=env, prog_name="mq")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run_one


@pytest.fixture
def start(store: Path) -> Iterator[Start]:
    """Start one command as a process of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(*args: str, command: list[str] = COMMAND, **options: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([*command, *args], **(pipes | options))
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


@pytest.fixture
def filled(store: Path) -> list[int]:
    """A store with three messages in `mail`, closed in order; their ids."""
    with mq.open(store) as broker:
        return broker.queue("mail").publish_many(["one", b"\xff\x00", {"three": 3}])
