"""mq schedule, schedules, unschedule: publish again and again, list, take back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

import mq
from mq.api.schedule import new_schedule
from mq.cli import output
from mq.cli.app import Failure, command, json_option, note, shown, store_option
from mq.cli.looking import look, open_or_make, open_there
from mq.cli.params import DURATION, QUEUE, SCHEDULE
from mq.cli.publish import argument, as_option
from mq.engine.names import check_name, check_schedule

MILLISECONDS = timedelta(milliseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@command(short_help="Publish a message again and again.")
@click.argument("name", type=SCHEDULE)
@click.argument("queue", type=QUEUE)
@click.argument("message")
@click.option("--cron", metavar="EXPRESSION", help="Minute, hour, day of the month, month, day of the week.")
@click.option("--every", type=DURATION, metavar="SECONDS", help="Instead: between two ticks, from now on.")
@click.option("--tz", default="UTC", metavar="ZONE", help="The time zone of --cron.  [default: UTC]")
@click.option(
    "--missed", type=click.Choice(["one", "all", "skip"]), default="one",
    help="Ticks that came while no process was here: one message for all, all, or none.  [default: one]",
)  # fmt: skip
@click.option(
    "--ttl", type=DURATION, metavar="SECONDS", help="After which a message expires that was not received."
)
@as_option
@json_option
@store_option
def schedule(
    name: str, queue: str, message: str, cron: str | None, every: float | None, tz: str, missed: str,
    ttl: float | None, kind: str, as_json: bool, store: str,
) -> None:  # fmt: skip
    """Publish MESSAGE to QUEUE again and again, and print when next.

    The schedule NAME is durable; one that is there is changed.  Each tick is published exactly
    once, by a process that has the store open: this command does not stay to do it.

    \b
    mq schedule report reports '{"n": 1}' --cron '30 6 * * *' --tz Europe/Berlin
    mq schedule beat health ping --every 10 --missed skip
    """
    check_schedule(name)  # before a store is made for it
    check_name(queue)
    body = argument(message, kind)
    options: mq.PublishOptions = {} if ttl is None else {"ttl": ttl}
    new_schedule(
        name, queue, topic=False, cron=cron, every=every, tz=tz, missed=missed, options=options
    )  # fmt: skip
    with open_or_make(store) as broker:
        broker.schedule(
            name, queue, body, cron=cron, every=every, tz=tz,
            missed=missed,  # type: ignore[arg-type]
            **options,
        )  # fmt: skip
        found = next(each for each in broker.schedules() if each.name == name)
    if as_json:
        _print_json(found)
    else:
        output.line(_instant(found.next_at))


@command(short_help="List the schedules, and when each is due.")
@json_option
@store_option
def schedules(as_json: bool, store: str) -> None:
    """List the schedules, and when each is due next.

    Writes nothing.  Works while other processes have the store open.

    \b
    mq schedules
    mq schedules --json | jq -r 'select(.last_at == null) | .name'
    """
    with look(store) as broker:
        found = broker.schedules()
    if as_json:
        for each in found:
            _print_json(each)
    elif found:
        header = ["schedule", "queue", "times", "next", "last"]
        rows = [
            [
                each.name, each.queue, _times(each), _second(each.next_at),
                _second(each.last_at) if each.last_at else "never",
            ]
            for each in found
        ]  # fmt: skip
        cut = ["schedule", "queue", "times"]
        output.table(header, rows, left=header, cut=cut, spare=["last", "times", "queue"])
    else:
        note(f"{shown(store)}: no schedules; `mq schedule` makes one")


@command(short_help="Take back a schedule.")
@click.argument("name", type=SCHEDULE)
@json_option
@store_option
def unschedule(name: str, as_json: bool, store: str) -> None:
    """Take back the schedule NAME.  What it has published stays.

    \b
    mq unschedule report
    """
    with open_there(store) as broker:
        if not broker.unschedule(name):
            known = ", ".join(each.name for each in broker.schedules()[:10])
            raise Failure(f"no schedule is called {name!r}; known: {known or 'none'}")
    output.result(f"{name} taken back", {"name": name, "unscheduled": True}, as_json)


def _times(each: mq.Schedule) -> str:
    if each.every is not None:
        return f"every {each.every:g} s"
    return f"{each.cron} {each.tz}"


def _instant(at: datetime) -> str:
    return output.instant((at - EPOCH) // MILLISECONDS)


def _second(at: datetime) -> str:
    """For a table: --json has the milliseconds."""
    return _instant(at)[: len("2030-01-31T06:30:00")] + "Z"


def _print_json(each: mq.Schedule) -> None:
    said = each._asdict() | {"next_at": _instant(each.next_at)}
    said["last_at"] = _instant(each.last_at) if each.last_at else None
    output.json_line(said)
