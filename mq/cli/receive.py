"""mq receive: take messages, print them, ack them."""

from __future__ import annotations

import io
import itertools
import math
import os
import select
import signal
import time
from contextlib import suppress
from functools import partial
from typing import Any, Final

import click

import mq
from mq.api.options import check_seconds
from mq.cli import existing, message, output
from mq.cli.app import EMPTY, command, json_option, note, store_option
from mq.cli.looking import open_there
from mq.cli.params import DURATION, QUEUE
from mq.cli.progress import Progress
from mq.cli.signals import Interrupts
from mq.errors import StaleReceipt
from mq.workers.mailbox import Mailbox

LOOK_SECONDS: Final = 0.1  # while it waits for a reader: how long a Ctrl-C may go unnoticed


@command(short_help="Take messages, print them, ack them.")
@click.argument("queue", type=QUEUE)
@click.option("-n", "limit", type=click.IntRange(min=1), metavar="N", help="Stop after N messages.")
@click.option(
    "-w", "--wait", type=DURATION, metavar="SECONDS",
    help="When nothing is ready, wait this long for the next one.",
)  # fmt: skip
@click.option("-f", "--follow", is_flag=True, help="Wait for ever: go on until Ctrl-C.")
@click.option(
    "--no-ack", is_flag=True,
    help="Leave them in flight: they come back after the queue's visibility timeout.",
)  # fmt: skip
@click.option("-0", "--null", is_flag=True, help="End each body with a NUL, not with a line feed.")
@click.option(
    "-v", "--verbose", is_flag=True,
    help="Say on standard error what each message is: id, kind, size, attempts, receipt.",
)  # fmt: skip
@json_option
@store_option
@click.pass_context
def receive(
    ctx: click.Context, queue: str, limit: int | None, wait: float | None, follow: bool, no_ack: bool,
    null: bool, verbose: bool, as_json: bool, store: str,
) -> None:  # fmt: skip
    """Take the messages that are ready, print them, ack them.

    A message is acked once its line is written to the output.  What is written to a pipe counts as
    taken: if the reader of the pipe stops, all that it has not read is lost.  Where that must not be,
    take the messages with --no-ack, and ack them when the work is done.  To bring them to another
    queue or store use `mq move`, which loses none, and not a pipe to `mq publish`.

    If the output is closed before, the message is released: it is back in its place at once.  Ctrl-C
    or SIGTERM ends the command between two messages; a second one ends it in the middle of a message,
    which is released, but the reader has got a part of it.

    --json has how each body was given, and all that it was published with: `mq publish --json`
    reads that again.  With --no-ack it has the receipts, too, for `mq ack` and the like.

    \b
    mq receive mail                    all that is ready
    mq receive mail -n 1 --wait 60     one; exit code 3 if none comes in a minute
    mq receive mail --no-ack --json > taken
    mq -s other publish mail --json < taken && mq ack < taken
    """
    if follow and wait is not None:
        raise click.UsageError("--follow waits for ever: leave out --wait")
    seconds = math.inf if follow else check_seconds("--wait", wait or 0.0)
    if null and as_json:
        raise click.UsageError("--json prints lines: leave out --null")
    taken, printer = 0, _Printer(as_json, b"\0" if null else b"\n", not no_ack, verbose)
    with open_there(store) as broker, Interrupts() as interrupts:
        source = broker.queue(queue)
        bell = _Bell(broker, source)
        deliveries = iter(lambda: _next(source, bell, seconds, interrupts), None)
        total = 0 if follow else source.stats().ready
        with Progress("receiving", min(total, limit or total), "message", hidden=output.is_terminal()) as bar:
            for delivery in itertools.islice(deliveries, limit):
                taken += 1
                printer.hand_over(delivery, interrupts)
                bar.add(1)
        if not taken:
            note(existing.why_empty(broker, source))
    if not taken:
        ctx.exit(EMPTY)
    if no_ack and not as_json and not verbose:
        note(f"{output.count(taken, 'message')} left in flight; --json or -v has the receipts")


def _next(
    source: mq.Queue[Any], bell: _Bell, seconds: float, interrupts: Interrupts
) -> mq.Delivery[Any] | None:  # fmt: skip
    """The next message; None if none comes within *seconds*."""
    until = time.monotonic() + seconds
    while True:
        interrupts.check()
        left = until - time.monotonic()
        delivery = source.receive(timeout=0)
        if delivery or left <= 0:
            return delivery
        bell.wait(left, interrupts)


class _Bell:
    """Rung when there may be a message.  A signal ends the waiting at once: no message is in hand then.

    Python tells the mailbox of a signal as it comes, also of one that comes just before the waiting.
    """

    def __init__(self, broker: mq.Broker, source: mq.Queue[Any]) -> None:
        self._queues, self._rings = [source], Mailbox[None]()
        self._watch = broker.watch(partial(self._rings.put, None))

    def wait(self, seconds: float, interrupts: Interrupts) -> None:
        """Return when there may be a message, or after so long."""
        seconds = min(seconds, self._watch.arm(self._queues))
        before = signal.set_wakeup_fd(self._rings.fd, warn_on_full_buffer=False)
        try:
            with interrupts.allowed():
                self._rings.take(seconds)
        finally:
            signal.set_wakeup_fd(before)


class _Printer:
    def __init__(self, as_json: bool, end: bytes, ack: bool, verbose: bool) -> None:
        self._as_json, self._end, self._ack, self._verbose = as_json, end, ack, verbose

    def hand_over(self, delivery: mq.Delivery[Any], interrupts: Interrupts) -> None:
        """Print, and then ack.  A message that was not printed whole is released."""
        try:
            if self._verbose:
                note(_described(delivery))
            _print(self._shown(delivery) + self._end, interrupts)
        except BaseException:
            with suppress(StaleReceipt):
                delivery.release()
            raise
        if self._ack:
            delivery.ack()

    def _shown(self, delivery: mq.Delivery[Any]) -> bytes:
        if self._as_json:
            receipt = {} if self._ack else {"receipt": delivery.receipt}
            return output.to_json(message.fields(delivery) | receipt)
        return output.body_shown(delivery._flags, delivery.raw)


def _described(delivery: mq.Delivery[Any]) -> str:
    said = [f"message {delivery.id}", message.kind(delivery), output.size(len(delivery.raw))]
    said += [f"attempt {delivery.attempts}", *message.traits(delivery), f"receipt {delivery.receipt}"]
    return ", ".join(said)


def _print(data: bytes, interrupts: Interrupts) -> None:
    """Write all of *data*, or raise.  Once a part is out, one signal is not enough: a reader cannot tell
    the part of a body from a whole one.

    Only the wait for room is interrupted, never a write: it would be unknown whether
    that write was done.
    """
    out, rest = output.stream(), memoryview(data)
    output.flush()
    try:
        room = select.poll()
        room.register(out, select.POLLOUT)
        while rest:
            with interrupts.allowed(1 if len(rest) == len(data) else 2):
                has_room = room.poll(LOOK_SECONDS * 1000)  # a signal just before is seen after it
            if not has_room:
                continue
            with suppress(BlockingIOError):
                rest = rest[os.write(out.fileno(), rest[: select.PIPE_BUF]) :]
    except io.UnsupportedOperation:  # no file: click's test runner
        out.write(data)
    except OSError as error:
        raise output.failed(error) from None
