"""mq worker: run the consumers of a program, in processes of their own.

    mq worker ──┬── child: imports the module, runs its broker's consumers
                ├── child
                └── child ── dies ──► another one, after a while that grows

Each child imports the module itself: no process with threads is forked.  A child has a group of its
own, so that Ctrl-C reaches only the parent, which passes it on; and it ends when its parent is gone.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import click

from mq.api.broker import Broker
from mq.cli.app import USAGE, Failure, command, note
from mq.cli.params import DURATION
from mq.errors import UsageError
from mq.workers.mailbox import Mailbox
from mq.workers.signals import Signals

BACKOFF_SECONDS: Final = 1.0  # before a child is begun again; twice as long after each that follows
BACKOFF_SECONDS_MAX: Final = 60.0
STEADY_SECONDS: Final = 10.0  # a child that lived for so long was no failure to begin


@command(short_help="Run the consumers of a program.")
@click.argument("target", metavar="MODULE[:BROKER]")
@click.option(
    "-p", "--processes", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="How many processes.",
)  # fmt: skip
@click.option(
    "-t", "--threads", type=click.IntRange(1), metavar="N",
    help="At most so many calls at once in each process; each consumer keeps one.  [default: as declared]",
)  # fmt: skip
@click.option(
    "-q", "--queue", "queues", multiple=True, metavar="NAME", help="Only this queue; may be repeated."
)
@click.option(
    "--grace", type=DURATION, default=30.0, show_default=True, metavar="SECONDS",
    help="How long what is in work may go on after a signal.",
)  # fmt: skip
@click.option("--until-empty", is_flag=True, help="End when all the queues are empty.")
@click.option("--child", "ready_fd", type=int, hidden=True)
@click.pass_context
def worker(
    ctx: click.Context, target: str, processes: int, threads: int | None, queues: Sequence[str], grace: float,
    until_empty: bool, ready_fd: int | None,
) -> None:  # fmt: skip
    """Run the consumers that MODULE registers with its mq.Broker, which it has under the name BROKER.

    SIGTERM and Ctrl-C stop taking, let what is in work finish, and release the rest; a second one ends
    that.  A process that dies is begun again.

    \b
    mq worker shop.jobs                    the `broker` of shop/jobs.py
    mq worker shop.jobs:store -p 4 -t 8    four processes, eight calls at once
    mq worker shop.jobs --queue mail --until-empty
    """
    if ready_fd is not None:
        _work(ready_fd, target, threads, queues, grace, until_empty)
        return
    given = [target, "--grace", str(grace), *(["--threads", str(threads)] if threads else [])]
    given += [part for name in queues for part in ("--queue", name)] + ["--until-empty"] * until_empty
    code = Parent(given, processes).run()
    if code:
        ctx.exit(code)


# ── the child ──────────────────────────────────────────────────────────────────────


def _work(
    ready_fd: int, target: str, threads: int | None, queues: Sequence[str], grace: float, until_empty: bool
) -> None:  # fmt: skip
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(name)s: %(message)s")
    broker = find_broker(target)
    consumers = broker._consumers
    registry = consumers.registry
    if unknown := [name for name in queues if name not in registry.queues()]:
        there = ", ".join(registry.queues()) or "none"
        raise UsageError(f"{target} has no consumer of queue {unknown[0]!r}; there are: {there}")
    os.write(ready_fd, b"r")
    os.close(ready_fd)
    consumers.run(broker, grace, until_empty=until_empty, only=queues or None, threads=threads)
    broker.close()


def _end_with_parent() -> None:
    """Standard input is a pipe from the parent, which never writes to it."""
    with suppress(OSError):
        os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def find_broker(target: str) -> Broker:
    """The broker that *target* names; UsageError, in one line, if there is none."""
    module_name, _, name = target.partition(":")
    name = name or "broker"
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise UsageError(f"there is no module {module_name!r} here: name it as `import` would") from None
        raise Failure(f"{module_name} cannot be imported: {error}", USAGE) from error
    except (Exception, SystemExit) as error:  # whatever the program's module raises
        logging.getLogger("mq.worker").exception("%s cannot be imported", module_name)
        raise Failure(f"{module_name} cannot be imported: {type(error).__name__}: {error}", USAGE) from None
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Broker):
        there = [each for each, value in vars(module).items() if isinstance(value, Broker)]
        hint = f"it has {', '.join(there)}" if there else "open one there: broker = mq.open(…)"
        raise UsageError(f"{module_name} has no broker {name!r}: {hint}")
    return found


# ── the parent ─────────────────────────────────────────────────────────────────────


class Told(NamedTuple):
    """What is told of a child."""

    child: Child
    code: int | None = None  # with which it has ended; None: it is ready


class Child:
    def __init__(self, given: list[str], told: Mailbox[Told | int]) -> None:
        self.begun = time.monotonic()
        self._told = told
        ready, ready_here = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mq.cli", "worker", *given, "--child", str(ready_here)],
                stdin=subprocess.PIPE, pass_fds=[ready_here], start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(ready_here)
        threading.Thread(target=self._tell, args=(ready,), daemon=True).start()

    def _tell(self, ready: int) -> None:
        with open(ready, "rb", buffering=0) as pipe:
            if pipe.read(1):
                self._told.put(Told(self))
        self._told.put(Told(self, self.process.wait()))


class Parent:
    """Keeps so many children alive."""

    def __init__(self, given: list[str], processes: int) -> None:
        self._given, self._wanted = given, processes
        self._told: Mailbox[Told | int] = Mailbox()  # of children, and the numbers of signals
        self._stopping = False
        self._children: set[Child] = set()
        self._again: list[float] = []  # when each that died is begun again, monotonic seconds
        self._failed = 0  # in a row
        self._code = 0

    def run(self) -> int:
        """Return when all children have ended: 0, or the code of one that could not begin."""
        with Signals(self._told):
            self._begin()  # one at first: what keeps it from running would keep all
            self._look_after_them()
        return self._code

    def _look_after_them(self) -> None:
        while self._children or (self._again and not self._stopping):
            left = self._again[0] - time.monotonic() if self._again and not self._stopping else math.inf
            for told in self._told.take(left):
                self._hear(told)
            if self._again and not self._stopping and self._again[0] <= time.monotonic():
                self._again.pop(0)
                self._begin()

    def _hear(self, told: Told | int) -> None:
        if isinstance(told, int):
            self._stop()
        elif told.code is not None:
            self._end(told.child, told.code)
        else:
            while not self._stopping and len(self._children) + len(self._again) < self._wanted:
                self._begin()

    def _begin(self) -> None:
        self._children.add(Child(self._given, self._told))

    def _stop(self) -> None:
        """Have all children end; again: at once."""
        self._stopping = True
        for child in self._children:
            child.process.send_signal(signal.SIGTERM)

    def _end(self, child: Child, code: int) -> None:
        """*child* has ended: begin another one, after a while, if it was not meant to."""
        self._children.remove(child)
        if code == 0 or self._stopping:
            self._wanted -= 1
            return
        if code == USAGE:  # it has said why
            self._code = code
            self._stop()
            return
        lived = time.monotonic() - child.begun
        self._failed = 0 if lived > STEADY_SECONDS else self._failed
        seconds = min(BACKOFF_SECONDS * 2**self._failed, BACKOFF_SECONDS_MAX)
        self._failed += 1
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        note(f"worker {child.process.pid} {how}; another one in {seconds:g} s")
        self._again.append(time.monotonic() + seconds)
