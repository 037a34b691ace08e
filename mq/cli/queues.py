"""mq queues: list the queues."""

from __future__ import annotations

import click

from mq.cli import output
from mq.cli.app import command, json_option, note, shown, store_option
from mq.cli.looking import look
from mq.cli.params import QUEUE
from mq.cli.stats import QueueStats
from mq.delivery.options import DEAD_SUFFIX

SPARE = ["size", "oldest", "delayed", "in flight"]


@command(short_help="List the queues, and what is in them.")
@click.argument("prefix", default="", type=QUEUE)
@json_option
@store_option
def queues(prefix: str, as_json: bool, store: str) -> None:
    """List the queues and what is in them; with PREFIX, those whose names begin with it.

    --json prints for each what `mq stats QUEUE --json` does.
    Writes nothing.  Works while other processes have the store open.

    \b
    mq queues
    mq queues --json | jq -r 'select(.ready > 1000) | .queue'
    """
    with look(store) as broker:
        found = [QueueStats.of(broker.queue(name)) for name in broker.queues(prefix=prefix)]
    if as_json:
        for each in found:
            output.json_line(each)
    elif found:
        _print_table(found)
    elif prefix:
        note(f"{shown(store)}: no queue begins with {prefix!r}")
    else:
        note(f"{shown(store)}: no queues yet; a queue comes to be when something is published to it")


def _print_table(found: list[QueueStats]) -> None:
    header = ["queue", "ready", "in flight", "delayed", "size", "oldest"]
    rows = [
        [
            each.queue,
            output.coloured(f"{each.ready:,}", output.RED) if is_alarming(each) else f"{each.ready:,}",
            f"{each.in_flight:,}",
            f"{each.delayed:,}",
            output.size(each.bytes),
            output.duration(each.oldest_age) if each.ready else "",
        ]
        for each in found
    ]
    if any(each.paused for each in found):
        header.append("state")
        for row, each in zip(rows, found, strict=True):
            row.append(output.coloured("paused", output.YELLOW) if each.paused else "")
    output.table(header, rows, left=["queue", "state"], cut=["queue"], spare=SPARE)


def is_alarming(each: QueueStats) -> bool:
    """Whether there are dead letters in it."""
    return each.queue.endswith(DEAD_SUFFIX) and each.ready > 0
