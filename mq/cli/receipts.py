"""mq ack, nack, release, reject, extend: settle deliveries of any process by their receipts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import click
import msgspec

import mq
from mq.cli import output, stdin
from mq.cli.app import USAGE, Failure, command, json_option, note, store_option
from mq.cli.looking import open_there
from mq.cli.params import DURATION
from mq.errors import StaleReceipt

ANY: Final = "any"  # receipts name their queues: a handle on whichever settles them

receipts_argument = click.argument("receipts", nargs=-1, metavar="[RECEIPT]...")
Settle = Callable[[mq.Queue[Any], list[mq.Receipt]], None]


@command(short_help="Settle deliveries as done.")
@receipts_argument
@json_option
@store_option
def ack(receipts: tuple[str, ...], as_json: bool, store: str) -> None:
    """Settle deliveries as done: their messages are gone.

    Receipts are arguments, or lines of standard input: as they are, or the objects that
    `mq receive --no-ack --json` prints.  Each is settled that can be; exit code 1 if one is stale.

    \b
    mq receive mail --no-ack --json > taken
    mq ack < taken
    """
    _settle(receipts, store, "acked", lambda queue, given: queue.ack_many(given), as_json)


@command(short_help="Settle deliveries as failed: again later.")
@receipts_argument
@click.option("--delay", type=DURATION, metavar="SECONDS", help="Until then.  [default: the queue's backoff]")
@click.option("--reason", default="", metavar="TEXT", help="Why; it is kept with the message.")
@json_option
@store_option
def nack(receipts: tuple[str, ...], delay: float | None, reason: str, as_json: bool, store: str) -> None:
    """Settle deliveries as failed: delivered again later, or to the dead letters after the last attempt.

    Receipts are arguments, or lines of standard input, as for `mq ack`.

    \b
    mq nack 1-4711-5022-c0ffee --reason 'no route' --delay 5m
    """
    _settle(
        receipts, store, "nacked", lambda queue, given: queue.nack_many(given, delay=delay, reason=reason),
        as_json,
    )  # fmt: skip


@command(short_help="Give deliveries back untried.")
@receipts_argument
@json_option
@store_option
def release(receipts: tuple[str, ...], as_json: bool, store: str) -> None:
    """Give deliveries back untried: they are in their places at once, and no attempt is counted.

    Receipts are arguments, or lines of standard input, as for `mq ack`.

    \b
    mq release < taken
    """
    _settle(receipts, store, "released", lambda queue, given: queue.release_many(given), as_json)


@command(short_help="Send deliveries to the dead letters now.")
@receipts_argument
@click.option("--reason", default="", metavar="TEXT", help="Why; it is kept with the message.")
@json_option
@store_option
def reject(receipts: tuple[str, ...], reason: str, as_json: bool, store: str) -> None:
    """Settle deliveries as hopeless: they go to the dead letters now.

    Receipts are arguments, or lines of standard input, as for `mq ack`.

    \b
    mq reject 1-4711-5022-c0ffee --reason 'no such customer'
    """
    _settle(receipts, store, "rejected", lambda queue, given: queue.reject_many(given, reason), as_json)


@command(short_help="Keep deliveries in flight for longer.")
@receipts_argument
@click.option(
    "--for", "seconds", type=DURATION, metavar="SECONDS",
    help="From now on.  [default: the queue's visibility timeout]",
)  # fmt: skip
@json_option
@store_option
def extend(receipts: tuple[str, ...], seconds: float | None, as_json: bool, store: str) -> None:
    """Keep deliveries in flight for longer: delivered again so long from now, unless they are settled.

    Receipts are arguments, or lines of standard input, as for `mq ack`.

    \b
    mq extend --for 10m < taken
    """
    _settle(receipts, store, "extended", lambda queue, given: queue.extend_many(given, seconds), as_json)


def _settle(receipts: Sequence[str], store: str, done: str, settle: Settle, as_json: bool) -> None:
    given = list(dict.fromkeys(map(mq.Receipt, receipts) if receipts else _read()))
    stale: tuple[int, ...] = ()
    with open_there(store) as broker:
        try:
            settle(broker.queue(ANY), given)
        except StaleReceipt as error:
            stale = error.ids
            problem = error
    count = len(given) - len(stale)
    output.result(
        f"{output.count(count, 'message')} {done}", {done: count, "stale": list(stale)}, as_json
    )  # fmt: skip
    if stale:
        raise problem


def _read() -> Iterator[mq.Receipt]:
    """The receipts on standard input."""
    if sys.stdin is None:
        raise Failure("standard input is closed; give receipts as arguments", USAGE)
    if output.is_terminal(sys.stdin):
        note("reading receipts from the terminal, one a line; Ctrl-D ends")
    for number, line in enumerate(stdin.stream(), 1):
        text = line.strip()
        if not text:
            continue
        try:
            found = msgspec.json.decode(text).get("receipt") if text.startswith(b"{") else text.decode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = None
        if not isinstance(found, str):
            raise Failure(
                f"line {number:,}: no receipt; `mq receive --no-ack --json` prints them; nothing was done"
            )
        yield mq.Receipt(found)
