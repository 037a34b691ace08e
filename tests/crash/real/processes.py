"""Processes to kill.  One that has imported mq forks the others, so a kill costs milliseconds.

    test ── Nursery ──► python processes.py ──fork──► child: one job, then its result in a file
              │  a line of JSON each way                │
              └──────────── SIGKILL ────────────────────┘

A job is "module:function", its arguments are JSON.  When the test's process dies,
however, the kernel kills the nursery, and when that dies, its children.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TESTS = Path(__file__).parents[2]
PATIENCE_SECONDS = 300.0  # then something is stuck
PR_SET_PDEATHSIG = 1


class Ended(AssertionError):
    """A job ended in another way than it should have."""


class Child:
    def __init__(self, nursery: Nursery, pid: int, out: str, job: str) -> None:
        self._nursery, self.pid, self._out, self.job = nursery, pid, out, job
        self.status: int | None = None

    def running(self) -> bool:
        if self.status is not None:
            return False
        # It is not reaped before `wait`, so the pid is still its own.
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"

    def kill(self) -> int:
        """SIGKILL, wherever it is; how it ended: -9, unless it was quicker."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        if self.status is None:
            self.status = self._nursery.ask({"wait": self.pid})["status"]
        return self.status

    def until(self, ready: Callable[[], bool]) -> None:
        """Return when *ready*, or when it has ended."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not ready() and self.running():
            if time.monotonic() > give_up:
                self.kill()
                raise Ended(f"{self.job}: too slow, or stuck")
            time.sleep(0.0002)  # not for time to pass, but for the other process

    def result(self) -> Any:
        """What the job returned; Ended, with its traceback, if it did not."""
        status = self.wait()
        text = Path(self._out).read_text() if os.path.exists(self._out) else ""
        with suppress(FileNotFoundError):
            os.unlink(self._out)
        if status != 0:
            raise Ended(f"{self.job} ended with status {status}\n{text}")
        return json.loads(text)

    def killed_or_done(self) -> None:
        """Ended unless it returned or was killed: then its traceback is what went wrong."""
        if self.wait() not in (0, -signal.SIGKILL):
            self.result()


class Nursery:
    def __init__(self, preload: str = "", wrapper: tuple[str, ...] = ()) -> None:
        paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        if preload:
            environment["LD_PRELOAD"] = preload
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, bufsize=1,
        )  # fmt: skip
        self._outs = tempfile.mkdtemp(prefix="mq-real-")
        self._count = 0

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise Ended("the nursery has died")
        return json.loads(answer)

    def start(self, job: str, *args: object) -> Child:
        self._count += 1
        out = os.path.join(self._outs, str(self._count))
        return Child(self, self.ask({"job": job, "args": args, "out": out})["pid"], out, job)

    def run(self, job: str, *args: object) -> Any:
        return self.start(job, *args).result()

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        for name in os.listdir(self._outs):
            os.unlink(os.path.join(self._outs, name))
        os.rmdir(self._outs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# ── the other side ─────────────────────────────────────────────────────────────────


def _serve() -> None:
    _die_with_parent()
    import crash.real.traffic  # noqa: F401  so that no child has to

    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            _, status = os.waitpid(question["wait"], 0)
            answer = {"status": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                _work(question["job"], question["args"], question["out"])
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _work(job: str, args: list[Any], out: str) -> None:
    """In the child: do the job, leave the result, and go without ceremony."""
    _die_with_parent()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):  # the answers go to one of them, and warnings are what we are here for
        os.dup2(nowhere, standard)
    threading.excepthook = partial(_fail, out)
    status = 1
    try:
        module, _, function = job.partition(":")
        text = json.dumps(getattr(importlib.import_module(module), function)(*args))
        status = 0
    except BaseException:  # noqa: BLE001  whatever it was, the test is told
        text = traceback.format_exc()
    Path(out).write_text(text)
    os._exit(status)


def _fail(out: str, args: threading.ExceptHookArgs) -> None:
    """A thread of the library died: the process goes with it, as one that failed."""
    Path(out).write_text("".join(traceback.format_exception(args.exc_value)))
    os._exit(1)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
