"""mq queues: list the queues."""

from __future__ import annotations

import mq
from mq.cli import output
from mq.cli.app import command, json_option, note, store_option


@command(short_help="List the queues, and what is in them.")
@json_option
@store_option
def queues(as_json: bool, store: str) -> None:
    """List the queues and what is in them.

    Writes nothing.  Works while other processes have the store open.

    \b
    mq queues
    mq queues --json | jq -r 'select(.ready > 1000) | .queue'
    """
    with mq.open(store, read_only=True) as broker:
        found = {name: broker.queue(name).stats() for name in broker.queues()}
    if as_json:
        for name, stats in found.items():
            output.json_line({"queue": name, **stats._asdict()})
    elif found:
        header = ["queue", "ready", "in flight", "delayed", "size", "oldest"]
        rows = [
            [
                name, f"{stats.ready:,}", f"{stats.in_flight:,}", f"{stats.delayed:,}",
                output.size(stats.bytes), output.duration(stats.oldest_age) if stats.ready else "",
            ]
            for name, stats in found.items()
        ]  # fmt: skip
        if any(stats.paused for stats in found.values()):
            header.append("state")
            for row, stats in zip(rows, found.values(), strict=True):
                row.append("paused" if stats.paused else "")
        output.table(header, rows, left=["queue", "state"])
    else:
        note(f"{store}: no queues yet; a queue comes to be when something is published to it")
