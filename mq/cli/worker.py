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
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import click

from mq.api.broker import Broker
from mq.cli.app import USAGE, Failure, command
from mq.cli.params import DURATION
from mq.cli.parent import Parent
from mq.errors import UsageError
from mq.workers.counts import Counts
from mq.workers.registry import Registry

TELL_SECONDS: Final = 0.5  # how often a child tells its parent what it has done


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
    reports = Reports(ready_fd, registry)
    try:
        consumers.run(broker, grace, until_empty=until_empty, only=queues or None, threads=threads)
    finally:
        reports.end()
    broker.close()


class Reports:
    """Tells the parent, at once and then now and then, what is done; it may be gone."""

    def __init__(self, fd: int, registry: Registry) -> None:
        self._fd, self._registry, self._over = fd, registry, threading.Event()
        self._told: Counts | None = None
        self._tell()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        while not self._over.wait(TELL_SECONDS):
            self._tell()

    def _tell(self) -> None:
        if (counts := self._registry.counts()) != self._told:
            self._told = counts
            with suppress(OSError):
                os.write(self._fd, b"%d %d %d\n" % counts)

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        self._tell()


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
