"""mq stats: the counts of one queue, or of what one topic retains."""

from __future__ import annotations

import time

import click

import mq
from mq.cli import output
from mq.cli.app import ERROR, Failure, command, json_option, store_option
from mq.cli.existing import why_empty
from mq.cli.options import shown_options, shown_value
from mq.engine import retaining
from mq.engine.retaining import Retained


@command(short_help="Show the counts and options of one queue.")
@click.argument("queue")
@json_option
@store_option
def stats(queue: str, as_json: bool, store: str) -> None:
    """Show the counts of one queue, its totals since it was created, and its options.

    If no queue has the name, and a topic does that retains messages: how much of it is there.

    Shows the visibility timeout, and each option that is not the default; --json has all options.
    Writes nothing.  Works while other processes have the store open.

    \b
    mq stats mail
    mq stats mail --json | jq '.ready, .options.max_attempts'
    """
    with mq.open(store, read_only=True) as broker:
        source = broker.queue(queue)
        if queue not in broker.queues():
            if retained := retaining.retained(broker._store, queue):
                _show_topic(queue, retained, as_json)
                return
            raise Failure(why_empty(broker, source), ERROR)
        found, options = source.stats(), source.options()
    if as_json:
        output.json_line({"queue": queue, **found._asdict(), "options": options})
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
    rows += shown_options(queue, options)
    output.pairs(rows)


def _show_topic(topic: str, found: Retained, as_json: bool) -> None:
    limits = {name: getattr(found.limits, name) for name in mq.TopicOptions.__annotations__}
    if as_json:
        oldest_at = None if found.oldest_ms is None else output.instant(found.oldest_ms)
        output.json_line({
            "topic": topic, "retained": found.messages, "bytes": found.bytes, "oldest_at": oldest_at,
            "options": limits,
        })  # fmt: skip
        return
    age = "-" if found.oldest_ms is None else output.duration(max(0.0, time.time() - found.oldest_ms / 1000))
    rows = [("topic", topic), ("retained", f"{found.messages:,}"), ("size", output.size(found.bytes))]
    rows += [("oldest", age)]
    rows += [
        (name.replace("_", " "), shown_value(name, value))
        for name, value in limits.items()
        if value is not None
    ]
    output.pairs(rows)
