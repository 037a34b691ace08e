"""mq receive: take messages, print them, ack them."""

from __future__ import annotations

import io
import itertools
import math
import os
import select
import time
from contextlib import suppress
from typing import Any, Final

import click

import mq
from mq.api.options import check_seconds
from mq.cli import output
from mq.cli.app import EMPTY, as_named, command, json_option, note, require_store, store_option
from mq.cli.signals import Interrupts
from mq.errors import StaleReceipt
from mq.instants import ms_at

LOOK_SECONDS: Final = 0.1  # while it waits: how long a Ctrl-C may go unnoticed


@command(short_help="Take messages, print them, ack them.")
@click.argument("queue")
@click.option("-n", "limit", type=click.IntRange(min=1), metavar="N", help="Stop after N messages.")
@click.option(
    "-w",
    "--wait",
    type=float,
    metavar="SECONDS",
    help="When nothing is ready, wait this long for the next one.",
)
@click.option("-f", "--follow", is_flag=True, help="Wait for ever: go on until Ctrl-C.")
@click.option(
    "--no-ack", is_flag=True,
    help="Leave them in flight: they come back after the queue's visibility timeout.",
)  # fmt: skip
@json_option
@store_option
@click.pass_context
def receive(
    ctx: click.Context, queue: str, limit: int | None, wait: float | None, follow: bool, no_ack: bool,
    as_json: bool, store: str,
) -> None:  # fmt: skip
    """Take the messages that are ready, print them, ack them.

    A message is acked after its line was written and flushed.  If the output is closed
    before, or Ctrl-C comes, the message is released: it is back in its place at once.

    \b
    mq receive mail                    all that is ready
    mq receive mail -n 1 --wait 60     one; exit code 3 if none comes in a minute
    mq receive mail --follow --json | ./work
    """
    if follow and wait is not None:
        raise click.UsageError("--follow waits for ever: leave out --wait")
    seconds = math.inf if follow else check_seconds("--wait", wait or 0.0)
    require_store(store)
    taken = 0
    with mq.open(store) as broker, Interrupts() as interrupts:
        source = broker.queue(queue)
        deliveries = iter(lambda: _next(source, seconds, interrupts), None)
        for delivery in itertools.islice(deliveries, limit):
            taken += 1
            _hand_over(delivery, as_json, not no_ack, interrupts)
        if not taken:
            note(why_empty(broker, source))
    if not taken:
        ctx.exit(EMPTY)


def _next(source: mq.Queue[Any], seconds: float, interrupts: Interrupts) -> mq.Delivery[Any] | None:
    """The next message; None if none comes within *seconds*."""
    until = time.monotonic() + seconds
    while True:
        interrupts.check()
        left = until - time.monotonic()
        delivery = source.receive(timeout=max(0.0, min(LOOK_SECONDS, left)))
        if delivery or left <= LOOK_SECONDS:
            return delivery


def _hand_over(delivery: mq.Delivery[Any], as_json: bool, ack: bool, interrupts: Interrupts) -> None:
    """Print, and then ack.  A message that was not printed whole is released."""
    try:
        if as_json:
            receipt = {} if ack else {"receipt": delivery.receipt}
            shown = output.to_json(message_fields(delivery) | receipt)
        else:
            shown = output.body_shown(delivery._flags, delivery.raw)
        _print(shown + b"\n", interrupts)
    except BaseException:
        with suppress(StaleReceipt):
            delivery.release()
        raise
    if ack:
        delivery.ack()


def _print(data: bytes, interrupts: Interrupts) -> None:
    """Write all of *data*, or raise: a signal that comes when the last byte is out is too late.

    Only the wait for room is interrupted, never a write: it would be unknown whether
    that write was done.
    """
    out, rest = output.stream(), memoryview(data)
    output.flush()
    try:
        room = select.poll()
        room.register(out, select.POLLOUT)
        while rest:
            with interrupts.allowed():
                room.poll()
            with suppress(BlockingIOError):
                rest = rest[os.write(out.fileno(), rest[: select.PIPE_BUF]) :]
    except io.UnsupportedOperation:  # no file: click's test runner
        out.write(data)
    except OSError as error:
        raise output.failed(error) from None


def message_fields(message: mq.Message[Any]) -> dict[str, Any]:
    """A message as one JSON object."""
    due = message.due_at
    return {
        "id": message.id,
        "queue": message.queue,
        "state": message.state,
        "attempts": message.attempts,
        "created_at": output.instant(message._created_ms),
        "due_at": None if due is None else output.instant(ms_at("due_at", due)),
        "priority": message.priority,
        "group": message.group,
        "headers": dict(message.headers),
        "origin": message.origin,
        "failures": [
            {"at": output.instant(ms_at("at", each.at)), "attempt": each.attempt, "reason": each.reason}
            for each in message.failures
        ],
        **output.body_fields(message._flags, message.raw),
    }


def why_empty(broker: mq.Broker, queue: mq.Queue[Any], state: str = "ready") -> str:
    """Why there is no message to take or to show."""
    names = broker.queues()
    if queue.name not in names:
        there = f"there are: {', '.join(names[:10])}" if names else "there are none yet"
        return f"no queue {queue.name!r} in {as_named(broker.path)}; {there}{', …' if names[10:] else ''}"
    stats = queue.stats()
    counts = {"ready": stats.ready, "in flight": stats.in_flight, "delayed": stats.delayed}
    others = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    held = f" ({others})" if others else ""
    if stats.paused and stats.ready and state == "ready":
        return f"{queue.name}: paused{held}; nothing is delivered until a program calls resume()"
    return f"{queue.name}: nothing is {state.replace('_', ' ')}{held}"
