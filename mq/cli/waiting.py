"""mq cancel and reschedule: messages that wait, by their ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import click

import mq
from mq.cli import existing, output
from mq.cli.app import ERROR, command, confirm, json_option, note, store_option, yes_option
from mq.cli.looking import look, open_there
from mq.cli.params import DURATION, INSTANT, QUEUE

ids_argument = click.argument("ids", nargs=-1, type=int, required=True, metavar="ID...")


@command(short_help="Drop messages that wait.")
@click.argument("queue", type=QUEUE)
@ids_argument
@yes_option
@json_option
@store_option
@click.pass_context
def cancel(
    ctx: click.Context, queue: str, ids: tuple[int, ...], yes: bool, as_json: bool, store: str
) -> None:  # fmt: skip
    """Drop messages of QUEUE that are ready or delayed: they are gone.

    Asks first, if it runs on a terminal; elsewhere it needs --yes.  What is in flight, or not in
    QUEUE, stays as it is, and the exit code is 1.

    \b
    mq cancel mail 4711 4805
    """
    with look(store) as broker:
        existing.queue(broker, queue)
    confirm(f"drop {output.count(len(set(ids)), 'message')} of {queue}", yes)
    with mq.open(store) as broker:
        source = broker.queue(queue)
        _each(ctx, source, ids, source.cancel, "cancelled", as_json)


@command(short_help="Have messages that wait be ready at another time.")
@click.argument("queue", type=QUEUE)
@ids_argument
@click.option("--delay", type=DURATION, metavar="SECONDS", help="So long from now; as 90s, 5m, 2h.")
@click.option("--at", type=INSTANT, metavar="TIME", help="Then; as 2030-01-31T06:30+01:00.")
@json_option
@store_option
@click.pass_context
def reschedule(
    ctx: click.Context, queue: str, ids: tuple[int, ...], delay: float | None, at: datetime | None,
    as_json: bool, store: str,
) -> None:  # fmt: skip
    """Have messages of QUEUE that are ready or delayed be ready at another time; without options, now.

    What is in flight, or not in QUEUE, stays as it is, and the exit code is 1.

    \b
    mq reschedule mail 4711
    mq reschedule mail 4711 4805 --delay 2h
    """
    if delay is not None and at is not None:
        raise click.UsageError("--delay and --at say the same: give one of them")
    with open_there(store) as broker:
        source = existing.queue(broker, queue)
        _each(
            ctx,
            source,
            ids,
            lambda id: source.reschedule(id, delay=delay or 0, at=at),
            "rescheduled",
            as_json,
        )


def _each(
    ctx: click.Context, queue: mq.Queue[Any], ids: Sequence[int], do: Callable[[int], bool], done: str,
    as_json: bool,
) -> None:  # fmt: skip
    left = 0
    for id in dict.fromkeys(ids):
        if do(id):
            output.result(f"{id} {done}", {"queue": queue.name, "id": id, done: True}, as_json)
            continue
        left += 1
        if as_json:
            output.json_line({"queue": queue.name, "id": id, done: False})
        note(f"message {id} stays as it is: it is in flight, or not in {queue.name}")
    if left:
        ctx.exit(ERROR)
