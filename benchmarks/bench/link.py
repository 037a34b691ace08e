"""Processes that are told what to do: how a measurement is begun, and how it begins helpers of its own.

A line of JSON each way.  The child prints what it has to say on a pipe of its own, so that a library that
prints does no harm.  A role is a function, named as "module:function"; it is called with the link, and with
the keyword arguments that the parent gave.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
LIBRARY = "BENCH_LIBRARY"  # of another checkout, which is to be found before this one's mq


class Failed(Exception):
    """A process could not do what it was told; with what it said about that."""


class Link:
    """In the child: to the process that began it."""

    def __init__(self, hear: IO[str], say: IO[str]) -> None:
        self._hear, self._say = hear, say

    def say(self, what: Any) -> None:
        print(json.dumps(what), file=self._say, flush=True)

    def ready(self) -> None:
        """Everything is open: wait until the parent says go."""
        self.say(None)
        self.wait()

    def wait(self) -> None:
        """Until the parent says go."""
        if not self._hear.readline():
            raise SystemExit(1)  # the parent has gone


class Helper:
    """In the parent: a child."""

    def __init__(
        self, role: str, *, alone: bool = False, environment: dict[str, str] | None = None, **arguments: Any
    ) -> None:
        """*alone*: with all that it begins, it is a group of processes, which ends as a whole."""
        ours, theirs = os.pipe()
        told = json.dumps({"role": role, "say": theirs, "arguments": arguments})
        places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bench.child", told],
            stdin=subprocess.PIPE,
            text=True,
            pass_fds=[theirs],
            cwd=ROOT,
            start_new_session=alone,
            env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(places)},
        )
        os.close(theirs)
        assert self._process.stdin
        self._alone = alone
        self._hear: IO[str] = open(ours)  # noqa: SIM115 closed by `end`
        self._say: IO[str] = self._process.stdin

    def hear(self, patience: float | None = None) -> Any:
        """What it says next: None once it is ready, then what it was asked for.

        *patience*: for how many seconds it may be silent; only for the first that it says.
        """
        if patience and not select.select([self._hear], [], [], patience)[0]:
            raise Failed(f"nothing was heard of it for {patience:.0f} s")
        line = self._hear.readline()
        if not line:
            raise Failed(f"a process ended with exit code {self.wait()}")
        told = json.loads(line)
        if isinstance(told, dict) and "failed" in told:
            raise Failed(told["failed"])
        return told

    def go(self) -> None:
        print(file=self._say, flush=True)

    def wait(self) -> int | None:
        """Until it has ended by itself; its exit code."""
        return self._process.wait()

    def end(self) -> None:
        self._say.close()
        self._hear.close()
        if self._alone:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()


@contextmanager
def helpers(*works: tuple[str, dict[str, Any]]) -> Iterator[list[Helper]]:
    """A process for each role with its arguments.  All of them are ready when this returns."""
    started: list[Helper] = []
    try:
        for role, arguments in works:
            started.append(Helper(role, **arguments))
        for each in started:
            each.hear()
        yield started
    finally:
        for each in started:
            each.end()


def ask(role: str, *, dies: bool = False, **arguments: Any) -> Any:
    """What a process of its own has to say.  *dies*: it kills itself afterwards, which is waited for."""
    helper = Helper(role, **arguments)
    try:
        told = helper.hear()
        if dies:
            helper.wait()
        return told
    finally:
        helper.end()
