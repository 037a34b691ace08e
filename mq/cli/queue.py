"""mq queue: make queues, change, pause, empty and delete them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import click

import mq
from mq.cli import existing, output
from mq.cli.app import (
    Failure,
    confirm,
    group,
    json_option,
    note,
    store_option,
    yes_option,
)
from mq.cli.looking import look, open_or_make, open_there
from mq.cli.options import shown_options
from mq.cli.params import DURATION, NONE, PAIR, QUEUE, SIZE_TYPE, Optional
from mq.cli.stats import Options
from mq.engine import commands
from mq.engine.commands import Agreed, NotAgreed
from mq.engine.names import check_name

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
COUNT: Final = click.IntRange(min=1)
BACKOFF: Final = {"initial": DURATION, "factor": click.FLOAT, "maximum": DURATION, "jitter": click.FLOAT}


def _backoff(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> Any:
    """The fields of the backoff that are given, by name."""
    for name, _ in pairs:
        if name not in BACKOFF:
            raise click.BadParameter(f"{name!r}: the fields are {', '.join(BACKOFF)}", ctx, param)
    return {name: BACKOFF[name].convert(value, param, ctx) for name, value in pairs} or None


OPTIONS: Final = (
    click.option(
        "--visibility-timeout", type=DURATION, metavar="SECONDS",
        help="After which what is not settled is delivered again.  [30]",
    ),
    click.option(
        "--max-attempts", type=Optional(COUNT), metavar="N",
        help="Then to the dead letters; `none`: try for ever.  [none]",
    ),
    click.option(
        "--backoff", type=PAIR, multiple=True, metavar="FIELD=VALUE", callback=_backoff,
        help="How long a failed message waits: initial, factor, maximum, jitter.  May be repeated.",
    ),
    click.option("--dead-letter", metavar="QUEUE", type=QUEUE, help="Where dead letters go.  [NAME.dead]"),
    click.option(
        "--ttl", type=Optional(DURATION), metavar="SECONDS", help="After which what waits expires.  [none]"
    ),
    click.option(
        "--expired", type=click.Choice(["drop", "dead_letter"]), help="What becomes of that.  [drop]"
    ),
    click.option(
        "--max-length", type=Optional(COUNT), metavar="N", help="How many messages there may be.  [none]"
    ),
    click.option(
        "--max-bytes", type=Optional(SIZE_TYPE), metavar="BYTES", help="How long they may be.  [none]"
    ),
    click.option(
        "--overflow", type=click.Choice(["reject", "drop_oldest"]), help="What a full queue does.  [reject]"
    ),
    click.option(
        "--dedup-window", type=DURATION, metavar="SECONDS", help="How long a dedup id counts.  [300]"
    ),
    click.option(
        "--delivery", type=click.Choice(["at_least_once", "at_most_once"]),
        help="at_most_once: a message arrives settled.  [at_least_once]",
    ),
    click.option(
        "--delete-when-idle", type=Optional(DURATION), metavar="SECONDS",
        help="Without a receive, after which an empty queue goes.  [none]",
    ),
    click.option(
        "--delete-when-abandoned", type=Optional(DURATION), metavar="SECONDS",
        help="The same, with all that it holds.  [none]",
    ),
    click.option("--delay", type=DURATION, metavar="SECONDS", help="Before a message is ready.  [0]"),
)  # fmt: skip


def _queue_options(function: F) -> F:
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def _given(options: Mapping[str, Any], before: mq.QueueOptions) -> dict[str, Any]:
    """Those of the options that were given, as the library takes them."""
    given: dict[str, Any] = {
        name: None if value is NONE else value for name, value in options.items() if value is not None
    }
    if "backoff" in given:
        given["backoff"] = before.get("backoff", mq.Backoff())._replace(**given["backoff"])
    return given


@group(short_help="Make queues, change, pause, rename, empty and delete them.")
def queue() -> None:
    """Make queues, change their options, pause, resume, rename, empty and delete them.

    A queue also comes to be when something is published to it.  `mq stats NAME` shows its options.

    \b
    mq queue create mail --max-attempts 5
    mq queue pause mail
    mq queue delete mail
    """


@queue.command(short_help="Make a queue.")
@click.argument("name")
@_queue_options
@json_option
@store_option
def create(name: str, as_json: bool, store: str, **options: Any) -> None:
    """Make the queue NAME; the store is made if it is missing.

    Durations are seconds, or have ms, s, m, h or d behind them; sizes K, M or G.

    \b
    mq queue create mail --max-attempts 5 --backoff initial=2 --ttl 2d
    """
    check_name(name)  # before a store is made for it
    with open_or_make(store) as broker:
        if existing.is_there(broker, name):
            raise Failure(f"there is a queue {name!r} already; `mq queue set` changes its options")
        _declare(broker, name, _given(options, {}) or {"visibility_timeout": 30.0}, "made", as_json)


@queue.command("set", short_help="Change options of a queue.")
@click.argument("name", type=QUEUE)
@_queue_options
@json_option
@store_option
def set_(name: str, as_json: bool, store: str, **options: Any) -> None:
    """Change options of the queue NAME, for every process at once.  Those not given stay.

    `none` takes a limit back.

    \b
    mq queue set mail --max-attempts none --ttl 2d
    """
    with open_there(store) as broker:
        found = existing.queue(broker, name)
        given = _given(options, found.options())
        if not given:
            raise click.UsageError("give an option that is to change")
        _declare(broker, name, given, "changed", as_json)


def _declare(broker: mq.Broker, name: str, given: Mapping[str, Any], done: str, as_json: bool) -> None:
    found = broker.queue(name, **given)
    options = found.options()
    shown = "; ".join(f"{key} {value}" for key, value in shown_options(name, options))
    output.result(f"{name} {done}: {shown}", {"queue": name, "options": Options.of(options)}, as_json)


@queue.command(short_help="Deliver nothing more until resume.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", type=QUEUE)
@json_option
@store_option
def pause(names: tuple[str, ...], as_json: bool, store: str) -> None:
    """Deliver nothing more from these queues, in any process, until `mq queue resume`.

    Publishing goes on, and what is in flight can be settled.

    \b
    mq queue pause mail orders
    """
    _pause(names, store, True, as_json)


@queue.command(short_help="Deliver again.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", type=QUEUE)
@json_option
@store_option
def resume(names: tuple[str, ...], as_json: bool, store: str) -> None:
    """Deliver again from these queues, after `mq queue pause`.

    \b
    mq queue resume mail orders
    """
    _pause(names, store, False, as_json)


def _pause(names: tuple[str, ...], store: str, paused: bool, as_json: bool) -> None:
    with open_there(store) as broker:
        for found in [existing.queue(broker, name) for name in dict.fromkeys(names)]:
            (found.pause if paused else found.resume)()
            done = "paused" if paused else "resumed"
            output.result(f"{found.name} {done}", {"queue": found.name, "paused": paused}, as_json)


@queue.command(short_help="Give a queue another name.")
@click.argument("name", type=QUEUE)
@click.argument("new")
@json_option
@store_option
def rename(name: str, new: str, as_json: bool, store: str) -> None:
    """Give the queue NAME the name NEW, for every process, with all it holds.

    What names the queue follows: subscriptions, schedules, the dead letters of other queues.  Its own
    dead letters go with it, from NAME.dead to NEW.dead.

    \b
    mq queue rename mail letters
    """
    check_name(new)
    with open_there(store) as broker:
        existing.queue(broker, name).rename(new)
    output.result(f"{name} is called {new}", {"queue": new, "before": name}, as_json)


@queue.command(short_help="Drop all messages of a queue.")
@click.argument("name", type=QUEUE)
@click.option("--in-flight", is_flag=True, help="Those in flight, too: their receivers cannot settle them.")
@yes_option
@json_option
@store_option
def purge(name: str, in_flight: bool, yes: bool, as_json: bool, store: str) -> None:
    """Drop all messages of the queue NAME that are ready or delayed: they are gone.

    Asks first, if it runs on a terminal; elsewhere it needs --yes.  Asks again if there are more
    messages by then.

    \b
    mq queue purge mail
    mq queue purge mail --in-flight --yes
    """

    def do(found: mq.Queue[Any], agreed: Agreed | None) -> int:
        return commands.purge(found._store, found._channel, in_flight=in_flight, agreed=agreed)

    seen, gone = _destroy(
        store, name, "drop {} of {}", yes, do, in_flight=in_flight, even_empty=False
    )  # fmt: skip
    gone = gone or 0
    output.result(
        f"{output.count(gone, 'message')} of {name} dropped", {"queue": name, "dropped": gone}, as_json
    )  # fmt: skip
    if seen.in_flight and not in_flight:
        note(f"{output.count(seen.in_flight, 'message')} in flight stay; --in-flight drops those, too")


@queue.command(short_help="Delete a queue, with all it holds.")
@click.argument("name", type=QUEUE)
@yes_option
@json_option
@store_option
def delete(name: str, yes: bool, as_json: bool, store: str) -> None:
    """Delete the queue NAME with all it holds: messages, options, subscriptions.

    Asks first, if it runs on a terminal; elsewhere it needs --yes.  Its dead letters stay where they are.

    \b
    mq queue delete mail
    """

    def do(found: mq.Queue[Any], agreed: Agreed | None) -> None:
        commands.delete(found._store, found._channel, agreed)

    seen, _ = _destroy(store, name, "delete {1}, with {0}", yes, do)
    output.result(f"{name} deleted", {"queue": name, "deleted": True, "messages": seen.messages}, as_json)


class _Seen(NamedTuple):
    """What is to be destroyed."""

    declared_at: int  # where in the log: another queue that is made with the name is declared elsewhere
    messages: int
    in_flight: int


def _see(found: mq.Queue[Any], in_flight: bool) -> _Seen:
    stats = found.stats()
    messages = stats.ready + stats.delayed + (stats.in_flight if in_flight else 0)
    state = found._channel.state
    return _Seen(state.declared_at if state else 0, messages, stats.in_flight)


def _destroy(
    store: str, name: str, question: str, yes: bool, do: Callable[[mq.Queue[Any], Agreed | None], T], *,
    in_flight: bool = True, even_empty: bool = True,
) -> tuple[_Seen, T | None]:  # fmt: skip
    """*do*, if the user agrees: to what the question names, and to nothing that came while it waited.

    That is asked in the turn in which it is done.
    """
    while True:
        with look(store) as broker:
            seen = _see(existing.queue(broker, name), in_flight)
        if not (seen.messages or even_empty or yes):
            return seen, None
        confirm(question.format(output.count(seen.messages, "message"), name), yes)
        with mq.open(store) as broker, suppress(NotAgreed):
            return seen, do(existing.queue(broker, name), None if yes else partial(_agrees, seen, in_flight))
        note(f"nothing was done: meanwhile {name} is another queue, or holds more")


def _agrees(seen: _Seen, in_flight: bool, declared_at: int, ready: int, flying: int, delayed: int) -> bool:
    messages = ready + delayed + (flying if in_flight else 0)
    return declared_at == seen.declared_at and messages <= seen.messages
