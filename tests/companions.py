"""Other processes, which do what they are told, one job at a time.

    with Companion("spawn") as other:
        other.do("open", path)
        other.do("publish", "mail", b"one")          what it returned, or raised
        other.begin("receive", "mail", None)         it waits there for a message
        …
        other.result()

They come to be in the three ways that people use: multiprocessing's spawn and fork, and
a program of its own.  A companion keeps what it received, so that it can settle it later.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import mq

PATIENCE = 240.0  # seconds: then something is stuck
NEVER = 3600.0  # for what must not be waited for: longer than anybody's patience

How = Literal["spawn", "fork", "program"]
KINDS: tuple[How, ...] = ("spawn", "fork", "program") if hasattr(os, "fork") else ("spawn", "program")


class Hands:
    """In the other process: what it can be told to do."""

    def __init__(self) -> None:
        self.broker: mq.Broker
        self.held: dict[int, mq.Delivery[Any]] = {}

    def open(self, path: str, **options: Any) -> None:
        self.broker = mq.open(path, **options)

    def close(self) -> None:
        self.broker.close()

    def declare(self, queue: str, **options: Any) -> None:
        self.broker.queue(queue, **options)

    def options(self, queue: str) -> mq.QueueOptions:
        return self.broker.queue(queue).options()

    def publish(self, queue: str, *bodies: object) -> list[int]:
        to = self.broker.queue(queue)
        return [to.publish(body) for body in bodies]

    def publish_many(self, queue: str, *bodies: object) -> list[int]:
        return self.broker.queue(queue).publish_many(bodies)

    def receive(self, queue: str, timeout: float | None = 0, **options: Any) -> tuple[Any, ...] | None:
        """(id, body, attempts, when it times out, receipt)"""
        message = self.broker.queue(queue).receive(timeout, **options)
        if message is None:
            return None
        self.held[message.id] = message
        return message.id, message.body, message.attempts, message.due_at, message.receipt

    def settle(self, verb: str, id: int, *args: Any, **options: Any) -> None:
        """ack, nack, release or extend what it received."""
        getattr(self.held[id], verb)(*args, **options)

    def get(self, queue: str, id: int) -> tuple[Any, ...] | None:
        message = self.broker.queue(queue).get(id)
        return message and (message.body, message.attempts, message.state, message.due_at)

    def ack_receipt(self, queue: str, receipt: mq.Receipt) -> None:
        self.broker.queue(queue).ack_many([receipt])

    def counts(self, queue: str) -> tuple[int, ...]:
        """What is where in a queue, and what happened so far."""
        stats = self.broker.queue(queue).stats()
        return *stats[:4], *stats[6:9]

    def change(self, module: str, name: str, value: object) -> None:
        """Another value for a constant of the library."""
        target = importlib.import_module(module)
        assert hasattr(target, name)
        setattr(target, name, value)

    def on_write(self, write: Callable[[int, bytes, int], int]) -> None:
        """From here on, this is called with descriptor, bytes and offset in place of pwrite."""
        store = self.broker._store
        store.disk.pwrite = store.replica.log._pwrite = write  # type: ignore[method-assign]

    def library(self) -> str:
        """The file of the mq that is used there."""
        return mq.__file__

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the test brings along; it gets these hands first."""
        return function(self, *args)


def serve(connection: Connection) -> None:
    hands = Hands()
    while True:
        try:
            job, args, options = connection.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(hands, job)(*args, **options)
        except Exception as error:  # noqa: BLE001 it is raised again by `result`
            answer = False, error
        connection.send(answer)


def serve_at(address: str) -> None:
    serve(Client(address))


class Companion:
    def __init__(
        self, how: How, path: str | os.PathLike[str] | None = None, *, library: str = "", **options: Any
    ) -> None:  # fmt: skip
        """With *path*, it has opened that store when this returns.  *library*: where a program finds mq."""
        if how == "program":
            with tempfile.TemporaryDirectory() as directory:
                address = os.path.join(directory, "s")
                with Listener(address) as listener:
                    code = f"import companions; companions.serve_at({address!r})"
                    places = library, str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")
                    here = os.pathsep.join(filter(None, places))
                    environment = {**os.environ, "PYTHONPATH": here}
                    command = [sys.executable, *(["-P"] if library else []), "-c", code]  # -P: not from "."
                    self._process: Any = subprocess.Popen(command, env=environment)
                    self._connection = listener.accept()
        else:
            context = multiprocessing.get_context(how)
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_begin, args=(theirs, self._connection), daemon=True)
            self._process.start()
            theirs.close()
        self.pid: int = self._process.pid
        if path is not None:
            self.do("open", os.fspath(path), **options)

    # ── jobs ───────────────────────────────────────────────────────────────────────

    def begin(self, job: str, *args: Any, **options: Any) -> None:
        self._connection.send((job, args, options))

    def result(self) -> Any:
        """What the job returned or, raised, what it raised; EOFError if the process died in it."""
        assert self._connection.poll(PATIENCE), "it hangs"
        try:
            done, answer = self._connection.recv()
        except ConnectionResetError:
            raise EOFError from None
        if not done:
            raise answer
        return answer

    def do(self, job: str, *args: Any, **options: Any) -> Any:
        self.begin(job, *args, **options)
        return self.result()

    # ── life and death ─────────────────────────────────────────────────────────────

    def kill(self) -> None:
        """SIGKILL; when this returns, it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Until it is gone; how it ended."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.wait(PATIENCE)
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None, "it hangs"
        return int(self._process.exitcode)

    def is_alive(self) -> bool:
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll() is None
        return bool(self._process.is_alive())

    def until_stopped(self) -> None:
        """Return when a process, itself perhaps, has stopped it."""
        until(lambda: os.waitpid(self.pid, os.WUNTRACED | os.WNOHANG)[0])

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_alive():
            self.kill()
        self._connection.close()


def _begin(connection: Connection, others: Connection) -> None:
    others.close()  # a fork has it too, and would never see the end
    serve(connection)


def state_of(id: int) -> str:
    """What a process, or a thread, does: a letter, of which S is sleeping, and Z dead but not waited for."""
    return Path(f"/proc/{id}/stat").read_text().rpartition(")")[2].split()[0]


def is_gone(pid: int) -> bool:
    """Whether the process does nothing any more, be it waited for or not.

    The first thread may be dead before the others, one of which is in the midst of a write, perhaps.
    """
    try:
        return state_of(pid) == "Z" and os.listdir(f"/proc/{pid}/task") == [str(pid)]
    except (FileNotFoundError, ProcessLookupError):  # as it is read
        return True


def until(ready: Callable[[], object]) -> None:
    """Return when *ready*: what another process does, which wakes no process."""
    give_up = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < give_up, "it never happened"
        time.sleep(0.001)


def wait_until_asleep(thread: int) -> None:
    """Return when *thread*, by its native id, waits; seen several times: it may wait for the interpreter."""
    seen = deque[bool](maxlen=10)

    def has_fallen_asleep() -> bool:
        seen.append(state_of(thread) == "S")
        return len(seen) == seen.maxlen and all(seen)

    until(has_fallen_asleep)
