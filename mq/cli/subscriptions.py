"""mq subscriptions, subscribe, unsubscribe: which queues get what is published to which topics."""

from __future__ import annotations

from datetime import datetime

import click

import mq
from mq.cli import existing, output
from mq.cli.app import Failure, command, json_option, note, shown, store_option
from mq.cli.looking import look, open_or_make, open_there
from mq.cli.params import PAIR, PLACE, QUEUE, TOPIC
from mq.engine.names import check_name, check_pattern


@command(short_help="List which queues get which topics.")
@click.argument("topic", required=False, type=TOPIC)
@json_option
@store_option
def subscriptions(topic: str | None, as_json: bool, store: str) -> None:
    """List the patterns of all queues; with TOPIC, those that it fits.

    Writes nothing.  Works while other processes have the store open.

    \b
    mq subscriptions
    mq subscriptions orders.eu
    """
    with look(store) as broker:
        found = [
            (pattern, queue, _match(broker, queue, pattern)) for pattern, queue in broker.subscriptions(topic)
        ]
    if as_json:
        for pattern, queue, match in found:
            output.json_line({"pattern": pattern, "queue": queue, "match": match})
    elif found:
        header = ["pattern", "queue", "match"]
        rows = [
            [pattern, queue, output.escape(", ".join(f"{key}={value}" for key, value in match.items()))]
            for pattern, queue, match in found
        ]
        output.table(header, rows, left=header, cut=header)
    elif topic is None:
        note(f"{shown(store)}: no subscriptions; `mq subscribe` makes one")
    else:
        note(f"{shown(store)}: no queue gets what is published to {topic}")


def _match(broker: mq.Broker, queue: str, pattern: str) -> dict[str, str]:
    """The headers that the pattern asks for."""
    state = broker._store.channel(queue).state
    known = state.subscriptions.get(pattern) if state else None
    return dict(known.match) if known else {}


@command(short_help="Have a queue get what is published to topics.")
@click.argument("queue", type=QUEUE)
@click.argument("pattern", type=TOPIC)
@click.option(
    "-m", "--match", type=PAIR, multiple=True, metavar="KEY=VALUE",
    help="Only messages with this header; may be repeated.",
)  # fmt: skip
@click.option(
    "--since", type=PLACE, metavar="PLACE",
    help="What the topics retain, too: behind an id; since a time, or 10m ago.",
)  # fmt: skip
@json_option
@store_option
def subscribe(
    queue: str, pattern: str, match: tuple[tuple[str, str], ...], since: int | datetime | None, as_json: bool,
    store: str,
) -> None:  # fmt: skip
    """Have QUEUE get what is published to topics that fit PATTERN; the queue is made if it is missing.

    A pattern is words with dots between them; * stands for one word, # for any number of words.

    \b
    mq subscribe billing 'orders.*.paid'
    mq subscribe audit '#' --match source=shop
    """
    check_name(queue)  # before a store is made for it
    check_pattern(pattern)
    with open_or_make(store) as broker:
        broker.queue(queue).subscribe(pattern, match=dict(match), since=since)
    output.result(
        f"{queue} gets {pattern}", {"queue": queue, "pattern": pattern, "match": dict(match)}, as_json
    )  # fmt: skip


@command(short_help="Take a pattern from a queue.")
@click.argument("queue", type=QUEUE)
@click.argument("pattern")
@json_option
@store_option
def unsubscribe(queue: str, pattern: str, as_json: bool, store: str) -> None:
    """Take PATTERN from QUEUE.  The messages that are there stay.

    \b
    mq unsubscribe billing 'orders.*.paid'
    """
    check_pattern(pattern)
    with open_there(store) as broker:
        found = existing.queue(broker, queue)
        if not found.unsubscribe(pattern):
            raise Failure(f"{queue} has no pattern {pattern!r}; {existing.among(found.subscriptions())}")
    output.result(
        f"{queue} does not get {pattern} any more", {"queue": queue, "pattern": pattern}, as_json
    )  # fmt: skip
