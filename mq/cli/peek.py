"""mq peek: look at messages without taking them."""

from __future__ import annotations

import time
from typing import Any, Final

import click

import mq
from mq.cli import output
from mq.cli.app import EMPTY, command, json_option, note, store_option
from mq.cli.receive import message_fields, why_empty
from mq.delivery.queue import State

BODY_COLUMNS_MIN: Final = 20
BODY_COLUMNS_MAX: Final = 1000  # where there is no terminal to fit into
REASON_COLUMNS: Final = 40


@command(short_help="Look at messages without taking them.")
@click.argument("queue")
@click.option(
    "-n", "limit", type=click.IntRange(min=1), default=10, metavar="N", help="Show at most N.  [default: 10]"
)
@click.option(
    "--state", type=click.Choice(["ready", "delayed", "in_flight"]), default="ready",
    help="Messages in this state.  [default: ready]",
)  # fmt: skip
@json_option
@store_option
@click.pass_context
def peek(ctx: click.Context, queue: str, limit: int, state: State, as_json: bool, store: str) -> None:
    """Show the next messages, in the order in which they will be delivered.

    For a message that failed, the last reason is shown; --json has all failures that are
    kept.  Takes nothing and writes nothing.  Works while other processes have the store
    open.  Exit code 3 if there are no messages.

    \b
    mq peek mail
    mq peek mail -n 100 --json
    mq peek mail --state in_flight
    mq peek mail.dead
    """
    with mq.open(store, read_only=True) as broker:
        source = broker.queue(queue)
        messages = source.peek(limit, state=state)
        if not messages:
            note(why_empty(broker, source, state))
            ctx.exit(EMPTY)
    if as_json:
        for message in messages:
            output.json_line(message_fields(message))
        return
    _print_table(messages, state)


def _due(message: mq.Message[Any]) -> float:
    return message.due_at.timestamp() if message.due_at else 0.0


def _print_table(messages: list[mq.Message[Any]], state: State) -> None:
    now = time.time() * 1000
    columns: dict[str, list[str]] = {
        "id": [str(each.id) for each in messages],
        "age": [output.duration(max(0.0, now - each._created_ms) / 1000) for each in messages],
        "due in": [output.duration(max(0.0, _due(each) - now / 1000)) for each in messages],
        "attempts": [str(each.attempts) for each in messages],
        "size": [output.size(len(each.raw)) for each in messages],
    }
    if state == "ready":
        del columns["due in"]
    failures = [each.failures for each in messages]
    if any(failures):
        reasons = [each[-1].reason or "-" if each else "" for each in failures]
        columns["last failure"] = [output.excerpt(reason, REASON_COLUMNS) for reason in reasons]
    width = output.columns()
    used = sum(max(map(len, [name, *cells])) + 2 for name, cells in columns.items())
    room = max(BODY_COLUMNS_MIN, width - used) if width else BODY_COLUMNS_MAX
    columns["body"] = [output.excerpt(_text(each, room), room) for each in messages]
    output.table(list(columns), list(zip(*columns.values(), strict=True)), left=["last failure", "body"])


def _text(message: mq.Message[Any], room: int) -> str:
    data = output.body_bytes(message._flags, message.raw)
    return data[: 4 * room + 4].decode(errors="backslashreplace")
