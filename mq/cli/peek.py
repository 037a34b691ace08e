"""mq peek: look at messages without taking them."""

from __future__ import annotations

import time
from typing import Any, Final

import click

import mq
from mq.cli import existing, message, output
from mq.cli.app import EMPTY, Failure, command, json_option, note, store_option
from mq.cli.looking import look
from mq.cli.params import QUEUE
from mq.delivery.queue import State

BODY_COLUMNS_MAX: Final = 1000  # where there is no terminal to fit into
REASON_COLUMNS: Final = 40
TRAITS_COLUMNS: Final = 40
SPARE: Final = ["size", "kind", "origin", "attempts", "with", "age"]


@command(short_help="Look at messages without taking them.")
@click.argument("queue", type=QUEUE)
@click.argument("ids", nargs=-1, type=int, metavar="[ID]...")
@click.option(
    "-n", "limit", type=click.IntRange(min=1), default=10, metavar="N", help="Show at most N.  [default: 10]"
)
@click.option(
    "--state", type=click.Choice(["ready", "delayed", "in_flight"]), default="ready",
    help="Messages in this state.  [default: ready]",
)  # fmt: skip
@click.option("-l", "--long", is_flag=True, help="All that is known of each, and its body, in lines.")
@json_option
@store_option
@click.pass_context
def peek(
    ctx: click.Context, queue: str, ids: tuple[int, ...], limit: int, state: State, long: bool,
    as_json: bool, store: str,
) -> None:  # fmt: skip
    """Show the next messages, in the order in which they will be delivered; or those with these IDs.

    For a message that failed, the last reason is shown; --long and --json have all failures that
    are kept.  Takes nothing and writes nothing.  Works while other processes have the store
    open.  Exit code 3 if there are no messages.

    \b
    mq peek mail
    mq peek mail 4711 --long
    mq peek mail -n 100 --json
    mq peek mail --state in_flight
    """
    with look(store) as broker:
        source, more = broker.queue(queue), 0
        if ids:
            messages = [_by_id(existing.queue(broker, queue), id) for id in dict.fromkeys(ids)]
        else:
            messages = source.peek(limit, state=state)
            if len(messages) == limit and not as_json:
                more = getattr(source.stats(), state) - limit
        if not messages:
            note(existing.why_empty(broker, source, state))
            ctx.exit(EMPTY)
    if as_json:
        for each in messages:
            output.json_line(message.fields(each))
    elif long:
        message.blocks(messages)
    else:
        _print_table(messages)
    if more > 0:
        note(f"{more:,} more; -n shows more of them")


def _by_id(queue: mq.Queue[Any], id: int) -> mq.Message[Any]:
    found = queue.get(id)
    if found is None:
        raise Failure(f"no message {id} in {queue.name}; `mq dump --message {id}` has its story", EMPTY)
    return found


def _due(message: mq.Message[Any]) -> float:
    return message.due_at.timestamp() if message.due_at else 0.0


def _print_table(messages: list[mq.Message[Any]]) -> None:
    now = time.time()
    columns: dict[str, list[str]] = {
        "id": [str(each.id) for each in messages],
        "age": [output.duration(max(0.0, now - each._created_ms / 1000)) for each in messages],
        "due in": [output.duration(max(0.0, _due(each) - now)) if each.due_at else "" for each in messages],
        "attempts": [str(each.attempts) for each in messages],
        "origin": [output.escape(each.origin or "") for each in messages],
        "kind": list(map(message.kind, messages)),
        "size": [output.size(len(each.raw)) for each in messages],
        "last failure": [
            output.excerpt(each.failures[-1].reason or "-", REASON_COLUMNS) if each.failures else ""
            for each in messages
        ],
        "with": [output.excerpt(", ".join(message.traits(each)), TRAITS_COLUMNS) for each in messages],
    }
    for name in ("due in", "origin", "last failure", "with"):
        if not any(columns[name]):
            del columns[name]
    room = output.columns() or BODY_COLUMNS_MAX
    columns["body"] = [output.excerpt(_text(each, room), room) for each in messages]
    left = ["origin", "kind", "last failure", "with", "body"]
    output.table(
        list(columns), list(zip(*columns.values(), strict=True)), left=left,
        cut=["origin", "last failure", "with", "body"], spare=SPARE,
    )  # fmt: skip


def _text(message: mq.Message[Any], room: int) -> str:
    data = output.body_bytes(message._flags, message.raw)
    return data[: 4 * room + 4].decode(errors="backslashreplace")
