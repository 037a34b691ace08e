"""mq stats: the counts of one queue."""

from __future__ import annotations

import click

import mq
from mq.cli import output
from mq.cli.app import ERROR, Failure, json_option, store_option
from mq.cli.receive import why_empty


@click.command(short_help="The counts and options of one queue.")
@click.argument("queue")
@json_option
@store_option
def stats(queue: str, as_json: bool, store: str) -> None:
    """The counts of one queue now, its totals since it was created, and its options.

    Writes nothing; also while another process has the store.

    \b
    mq stats mail
    mq stats mail --json | jq .ready
    """
    with mq.open(store, read_only=True) as broker:
        source = broker.queue(queue)
        if queue not in broker.queues():
            raise Failure(why_empty(broker, source), ERROR)
        found, options = source.stats(), source.options()
    if as_json:
        output.json_line({"queue": queue, **found._asdict(), **options})
        return
    counts = {"ready": found.ready, "in flight": found.in_flight, "delayed": found.delayed}
    totals = {
        "published": found.published, "acked": found.acked, "failed": found.failed, "expired": found.expired,
        "dead-lettered": found.dead_lettered, "dropped": found.dropped,
    }  # fmt: skip
    width = max(len(f"{count:,}") for count in (counts | totals).values())
    rows = [("queue", queue)]
    rows += [(name, f"{count:,}".rjust(width)) for name, count in counts.items()]
    rows += [("size", output.size(found.bytes))]
    rows += [("oldest", output.duration(found.oldest_age) if found.ready else "-")]
    rows += [(name, f"{count:,}".rjust(width)) for name, count in totals.items()]
    rows += [("paused", "yes")] if found.paused else []
    rows += [("visibility timeout", output.duration(options["visibility_timeout"]))]
    output.pairs(rows)
