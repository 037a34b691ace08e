"""mq topics and topic: list topics; publish to one, have it retain messages, read those back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import click

import mq
from mq.cli import message, output
from mq.cli.app import (
    EMPTY,
    command,
    confirm,
    group,
    json_option,
    note,
    shown,
    store_option,
    yes_option,
)
from mq.cli.lines import message_line
from mq.cli.looking import look, open_or_make
from mq.cli.params import DURATION, NONE, PLACE, SIZE_TYPE, TOPIC, Optional
from mq.cli.publish import publish_all, publish_options
from mq.cli.stats import TopicStats
from mq.engine import retaining
from mq.engine.names import check_topic


@command(short_help="List the topics, who gets them, and what they retain.")
@json_option
@store_option
def topics(as_json: bool, store: str) -> None:
    """List the topics that are known by name: those that retain messages, or that a pattern spells out.

    Shows how many queues get what is published to each, and what it retains.  Patterns with * or #
    are in `mq subscriptions`.  Writes nothing.  Works while other processes have the store open.

    \b
    mq topics
    """
    with look(store) as broker:
        names = broker.topics()
        queues = [sorted({queue for _, queue in broker.subscriptions(name)}) for name in names]
        retained = [retaining.retained(broker._store, name) for name in names]
    if as_json:
        for name, which, held in zip(names, queues, retained, strict=True):
            said = TopicStats.of(name, held) if held else None
            output.json_line({"topic": name, "queues": which, "retains": said})
    elif names:
        header = ["topic", "queues", "retained", "size"]
        rows = [
            [
                name,
                f"{len(which):,}",
                *([f"{held.messages:,}", output.size(held.bytes)] if held else ["", ""]),
            ]
            for name, which, held in zip(names, queues, retained, strict=True)
        ]
        output.table(header, rows, left=["topic"], cut=["topic"])
    else:
        note(f"{shown(store)}: no topics are known by name; `mq topic set` has one retain messages")


@group(short_help="Publish to a topic, have it retain messages, read those back.")
def topic() -> None:
    """Publish to a topic, have it retain messages, read those back.

    A topic's name is words with dots between them; queues get what fits their patterns:
    see `mq subscribe`.

    \b
    mq topic publish orders.eu '{"id": 1}'
    mq topic set orders.eu --retain-for 7d
    mq topic history orders.eu --since 1h
    """


@topic.command(short_help="Publish to all queues that subscribe.")
@click.argument("name", type=TOPIC)
@click.argument("messages", nargs=-1, metavar="[MESSAGE]...")
@publish_options
@click.pass_context
def publish(
    ctx: click.Context, /, name: str, messages: tuple[str, ...], store: str, **given: Any
) -> None:  # fmt: skip
    """Store each MESSAGE for all queues that subscribe to the topic NAME, and print its id.

    Takes what `mq publish` takes.  A message that no queue gets is gone, unless the topic retains it,
    and standard error says so.

    \b
    mq topic publish orders.eu '{"id": 1}' --header source=shop
    """
    check_topic(name)

    def to_topic(broker: mq.Broker, options: dict[str, Any]) -> Callable[[Sequence[object]], list[int]]:
        if not broker.subscriptions(name) and retaining.retained(broker._store, name) is None:
            note(f"no queue subscribes to {name}, and it retains nothing: what is published is gone")
        return lambda bodies: _send(broker, name, bodies, options)

    publish_all(ctx, name, messages, store, to_topic, **given)


def _send(broker: mq.Broker, name: str, bodies: Sequence[object], options: dict[str, Any]) -> list[int]:
    """All or nothing, with one sync."""
    target = broker.topic(name)
    with broker.transaction() as tx:
        _publish_each(tx, target, bodies, options)
    return tx.ids


def _publish_each(
    tx: mq.Transaction, target: mq.Topic[Any], bodies: Sequence[object], options: dict[str, Any]
) -> None:  # fmt: skip
    for body in bodies:
        if isinstance(body, mq.Outgoing):
            tx.publish(target, body.body, **body.options)
        else:
            tx.publish(target, body, **options)


@topic.command("set", short_help="Change how much a topic retains.")
@click.argument("name", type=TOPIC)
@click.option("--retain-for", type=Optional(DURATION), metavar="SECONDS", help="Since they were published.")
@click.option("--retain-count", type=Optional(click.IntRange(min=1)), metavar="N", help="So many.")
@click.option("--retain-bytes", type=Optional(SIZE_TYPE), metavar="BYTES", help="So much of them.")
@yes_option
@json_option
@store_option
def set_(name: str, yes: bool, as_json: bool, store: str, **options: Any) -> None:
    """Have the topic NAME retain the newest messages, as far as each limit goes.  Those not given stay.

    `none` takes a limit back; without any limit nothing is retained.  Asks before it drops what is
    retained now, if it runs on a terminal; elsewhere it needs --yes then.

    \b
    mq topic set orders.eu --retain-for 7d --retain-bytes 1G
    mq topic set orders.eu --retain-for none --retain-bytes none
    """
    given: dict[str, Any] = {
        key: None if value is NONE else value for key, value in options.items() if value is not None
    }
    if not given:
        raise click.UsageError("give a limit: --retain-for, --retain-count or --retain-bytes")
    check_topic(name)
    with open_or_make(store) as broker:
        before = retaining.retained(broker._store, name)
        if before and before.messages and _retains_less(TopicStats.of(name, before), given):
            confirm(f"drop what {name} would not retain any more", yes)
        broker.topic(name, **given)
        after = retaining.retained(broker._store, name)
    said = TopicStats.of(name, after) if after else None
    text = f"{name} retains {output.count(said.retained, 'message')}" if said else f"{name} retains nothing"
    output.result(text, {"topic": name, "retains": said}, as_json)


def _retains_less(before: TopicStats, given: dict[str, Any]) -> bool:
    limits = {key: getattr(before.options, key) for key in before.options.__struct_fields__}
    if all(value is None for value in (limits | given).values()):
        return True
    return any(
        value is not None and (limits[key] is None or value < limits[key]) for key, value in given.items()
    )


@topic.command(short_help="Show what a topic retains.")
@click.argument("name", type=TOPIC)
@click.option("--since", type=PLACE, metavar="PLACE", help="Behind an id; since a time, or 10m ago.")
@click.option(
    "-n", "limit", type=click.IntRange(min=1), metavar="N", help="At most N; without --since the last."
)
@json_option
@store_option
@click.pass_context
def history(
    ctx: click.Context, name: str, since: int | datetime | None, limit: int | None, as_json: bool, store: str
) -> None:  # fmt: skip
    """Show the messages that the topic NAME retains, the oldest first.

    Writes nothing.  Works while other processes have the store open.  Exit code 3 if there are none.

    \b
    mq topic history orders.eu -n 10
    mq topic history orders.eu --since 2h --json | mq publish again --json
    """
    with look(store) as broker:
        count = _print_history(broker.topic(name), since, limit, as_json)
        if not count:
            retains = retaining.retained(broker._store, name) is not None
            note(f"{name}: nothing is retained{' there' if retains else '; `mq topic set` changes that'}")
            ctx.exit(EMPTY)


def _print_history(
    topic: mq.Topic[Any], since: int | datetime | None, limit: int | None, as_json: bool
) -> int:
    count = 0
    for each in topic.history(since=since, limit=limit):
        count += 1
        if as_json:
            output.json_line(message.fields(each))
        else:
            output.line(message_line(each._created_ms, topic.name, each.id, each._flags, each.raw))
    return count
