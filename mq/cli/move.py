"""mq copy, move: messages, to another queue or another store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import click
from click.core import ParameterSource

import mq
from mq.cli import existing, output
from mq.cli.app import (
    CORRUPT,
    ERROR,
    Failure,
    command,
    confirm,
    json_option,
    note,
    require_store,
    shown,
    store_option,
    yes_option,
)
from mq.cli.looking import look, open_late, open_or_make
from mq.cli.params import QUEUE
from mq.cli.progress import Progress
from mq.delivery.under_way import MOVING_SUFFIX, UnderWay
from mq.engine import carrying, outgoing, passage
from mq.engine.carrying import SLICE_MESSAGES, Copied
from mq.engine.names import check_name, is_elsewhere
from mq.engine.outgoing import topic_key
from mq.storage import paths

STORE_PATHS: Final = ("/", "./", "../")

to_store_option = click.option(
    "--to-store", metavar="STORE", help="Where they go: a directory, made if it is missing, or an address."
)


def _tidy(to_store: str) -> str:
    if not to_store:
        raise click.UsageError("--to-store is empty: name a directory")
    return to_store if is_elsewhere(to_store) else paths.tidy(to_store)


def _is_same(store: str, other: str) -> bool:
    if is_elsewhere(store) or is_elsewhere(other):
        return shown(store) == shown(other)
    return os.path.exists(other) and os.path.samefile(store, other)


class Way(NamedTuple):
    """From where to where."""

    queue: str
    to: str
    store: str
    to_store: str
    is_here: bool  # in one store


def _way(queue: str, to: str | None, store: str, to_store: str | None) -> Way:
    check_name(queue)
    if to is not None:
        check_name(to)
    require_store(store)
    target = store if to_store is None else _tidy(to_store)
    is_here = to_store is None or _is_same(store, target)
    if is_here and to is None:
        raise click.UsageError("name the queue they go to, or the store with --to-store")
    if is_here and to == queue:
        raise click.UsageError(f"the messages are in {queue} already; name another queue or store")
    return Way(queue, to or queue, store, target, is_here)


@contextmanager
def _target(way: Way) -> Iterator[mq.Broker]:
    """Synced where it has to be, and at the end."""
    with open_or_make(way.to_store, late=True) as broker:
        _tell_of_new(broker, way)
        yield broker
        broker.flush()


def _tell_of_new(broker: mq.Broker, way: Way) -> None:
    """In one store, a queue that is made is told of: it may be a mistake."""
    if way.is_here and not existing.is_there(broker, way.to):
        note(f"made the queue {way.to}, with the options of {way.queue}")


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        note("cut off: nothing is lost or doubled; run the same command again to go on")
        raise


@contextmanager
def _under_way(broker: mq.Broker, queue: str) -> Iterator[None]:
    """An error says where messages wait that are on their way to another store."""
    try:
        yield
    except mq.MqError:
        with suppress(mq.MqError):
            found = outgoing.moving(broker._store, queue)
            if found and found.messages:
                held = output.count(found.messages, "message")
                note(
                    f"under way, in {queue}{MOVING_SUFFIX}: {held}; the others are where they were: run the"
                    " same command again to go on, or with --back to put them back"
                )
        raise


# ── move ───────────────────────────────────────────────────────────────────────────


@command(short_help="Move messages to another queue or store.")
@click.argument("queue", type=QUEUE)
@click.argument("to", required=False, type=QUEUE)
@to_store_option
@click.option("-n", "limit", type=click.IntRange(min=1), metavar="N", help="At most N, the oldest.  [all]")
@click.option("--back", is_flag=True, help="Put back what a move that was cut off has left under way.")
@yes_option
@json_option
@store_option
def move(
    queue: str, to: str | None, to_store: str | None, limit: int | None, back: bool, yes: bool, as_json: bool,
    store: str,
) -> None:  # fmt: skip
    """Move what waits in QUEUE, or is delayed, to the queue TO as it is, the oldest first.

    TO is made if it is missing, with the options of QUEUE.  Attempts, failures, delay, time to live,
    origin: all goes along; what is in flight stays.  In one store each part moves in one step, and
    ids stay.  To another store, under the name TO or the same, a message is on the disk there before
    it goes here.  Cut off at any point and run again, the command goes on: no message is lost,
    doubled, or to be had in both stores.  What TO has no room for stays where it is.

    What a move that was cut off has left under way is in QUEUE.moving, and nothing is received from
    there.  --back with the same --to-store puts it back.  Without --to-store, for a store that is
    gone for good, it asks first: some of it may be there as well.

    \b
    mq move mail.dead mail.archive
    mq move mail --to-store /srv/other
    mq move mail letters --to-store /srv/other -n 1000
    mq move mail --to-store /srv/other --back
    """
    if back:
        if to is not None or limit is not None:
            raise click.UsageError("--back takes no TO and no -n: all that is under way goes back")
        _back(queue, to_store, yes, as_json, store)
        return
    way = _way(queue, to, store, to_store)
    with _resumable(), open_late(store) as broker:
        total = _total(broker, queue)
        with Progress("moving", total if limit is None else min(limit, total), "message") as progress:
            if way.is_here:
                _tell_of_new(broker, way)
                moved = passage.move_here(broker._store, queue, way.to, limit, progress.add)
            else:
                with _target(way) as target, _under_way(broker, queue):
                    moved = passage.move(broker._store, target._store, queue, way.to, limit, progress.add)
        broker.flush()
        stay = broker.queue(queue).stats().in_flight
    where = way.to if way.is_here else f"{way.to} in {output.plain(shown(way.to_store))}"
    output.result(
        f"{output.count(moved, 'message')} of {queue} moved to {where}",
        {"queue": queue, "to": way.to, "store": shown(way.to_store), "moved": moved, "in_flight": stay},
        as_json,
    )  # fmt: skip
    if stay:
        note(f"still in {queue}, since in flight: {output.count(stay, 'message')}")


def _total(broker: mq.Broker, queue: str) -> int:
    """How many messages are to be moved; an error if there is no such queue."""
    found = outgoing.moving(broker._store, queue)
    if found is None or found.queue != queue:
        stats = existing.queue(broker, queue).stats()
        return stats.ready + stats.delayed
    stats = broker.queue(queue).stats()  # the queue may be gone, as a temporary one that is empty
    if pid := passage.mover(broker._store, found):
        note(f"process {pid} moves {queue}, too: both go on, and bring each message once")
    elif found.messages:
        note(f"an earlier move has left {output.count(found.messages, 'message')} under way, which go first")
    return stats.ready + stats.delayed + found.messages


def _back(queue: str, to_store: str | None, yes: bool, as_json: bool, store: str) -> None:
    require_store(store)
    with _resumable(), open_late(store) as broker:
        found = outgoing.moving(broker._store, queue)
        if found is None:
            existing.queue(broker, queue)
            moved = 0
        elif to_store is None:
            moved = _back_alone(broker, found, yes)
        else:
            require_store(target_path := _tidy(to_store))
            with open_late(target_path) as target:
                moved = passage.back(broker._store, target._store, queue)
                target.flush()
        broker.flush()
    queue = found.queue if found else queue
    output.result(
        f"{output.count(moved, 'message')} put back to {queue}", {"queue": queue, "back": moved}, as_json
    )  # fmt: skip


def _back_alone(broker: mq.Broker, found: UnderWay, yes: bool) -> int:
    """The other store is not asked which ones it has."""
    if passage.mover(broker._store, found):
        raise Failure(passage.described(broker._store, found))
    held, some = output.count(found.messages, "message"), min(found.messages, SLICE_MESSAGES)
    confirm(
        f"put {held} back to {found.queue} without asking {found.path or found.goal.store_id}, which may have"
        f" {some:,} of them as well",
        yes,
    )
    return passage.put_back(broker._store, found.queue, found.goal.run)


# ── copy ───────────────────────────────────────────────────────────────────────────


@command(short_help="Copy messages to another queue, or all to another store.")
@click.argument("queue", required=False, type=QUEUE)
@click.argument("to", required=False, type=QUEUE)
@to_store_option
@click.option("--again", is_flag=True, help="Also what an earlier copy has brought.")
@json_option
@store_option
@click.pass_context
def copy(
    ctx: click.Context, queue: str | None, to: str | None, to_store: str | None, again: bool, as_json: bool,
    store: str,
) -> None:  # fmt: skip
    """Copy the messages of QUEUE, as they are at one moment, to the queue TO or to another store.

    TO is made if it is missing, with the options of QUEUE; in another store with its subscriptions, too.
    Without QUEUE, or between two addresses or paths (/…, ./…), the whole store: all queues with their
    options and messages, topics with what they retain, dedup ids, schedules.  Copies get ids of their
    own, and all else is as it was; what is in flight is ready.  What is there keeps its options.

    Run again it goes on, or copies only what is new.  At the end the messages are counted: exit code 1
    if some were missed, or may have been, since the store was in use: a message that comes to a queue
    late, as a dead letter does, has an old id.  `mq clone` copies a store that is in use.

    \b
    mq copy mail mail.try
    mq copy mail --to-store /srv/other
    mq copy --to-store nats://nats.example.org/shop
    mq copy ./data nats://nats.example.org/shop
    """
    if _are_stores((queue, to)):
        if to_store is not None or ctx.get_parameter_source("store") is ParameterSource.COMMANDLINE:
            raise click.UsageError("the stores are named twice: give them without --store and --to-store")
        store, queue, to_store = _tidy(str(queue)), None, to
    with _resumable():
        if queue is None:
            found = _copy_store(store, to_store, again)
        else:
            found = _copy_queue(_way(queue, to, store, to_store), again)
    _say(found, as_json)
    if missing := sum(each.missing for _, each in found):
        note(
            f"not copied: {output.count(missing, 'message')}, since the store was used meanwhile; `mq clone`"
            " it, and copy the clone"
        )
        ctx.exit(ERROR)
    if unsure := sum(each.unsure for _, each in found):
        note(
            f"perhaps not copied: {output.count(unsure, 'message')} at most; messages came to a queue since"
            " the last copy, and some with old ids may have come then, as dead letters do; `mq clone` the"
            " store, or --again copies all once more"
        )
        ctx.exit(ERROR)
    if damaged := sum(each.damaged for _, each in found):
        which = output.count(damaged, "damaged message")
        note(f"{which} could not be copied; `mq verify` names what is affected")
        ctx.exit(CORRUPT)


Found = list[tuple[dict[str, Any], Copied]]


def _are_stores(names: tuple[str | None, ...]) -> bool:
    """Whether each is an address, or a path that says so: a queue may be called "data", too."""
    return all(name and (is_elsewhere(name) or name.startswith(STORE_PATHS)) for name in names)


def _copy_queue(way: Way, again: bool) -> Found:
    with look(way.store) as broker:
        existing.queue(broker, way.queue)
        with _target(way) as target:
            return _copy_all(broker, target, {way.queue: way.to}, again)


def _copy_store(store: str, to: str | None, again: bool) -> Found:
    if to is None:
        raise click.UsageError("name a queue, or the store to copy to with --to-store")
    to_store = _tidy(to)
    require_store(store)
    if _is_same(store, to_store):
        raise click.UsageError("that is the store itself; name another one")
    with look(store) as broker, open_or_make(to_store, late=True) as target:
        existing.tell_of_under_way(broker, broker.queues())
        names = [*broker.queues(), *map(topic_key, outgoing.topics(broker._store))]
        found = _copy_all(broker, target, {name: name for name in names}, again)
        carrying.copy_rest(broker._store, target._store)
        target.flush()
    return found


def _copy_all(broker: mq.Broker, target: mq.Broker, ways: dict[str, str], again: bool) -> Found:
    definitions = {key: outgoing.definition(broker._store, key) for key in ways}
    total = sum(each.messages for each in definitions.values() if each)
    found: Found = []
    with Progress("copying", total, "message") as progress:
        for key, to in ways.items():
            copied = carrying.copy(broker._store, target._store, key, to, progress.add, again=again)
            progress.add(copied.before)
            is_topic = key[:1] == topic_key("")
            name: dict[str, Any] = {"topic": key[1:]} if is_topic else {"queue": key, "to": to}
            found.append((name, copied))
    return found


def _say(found: Found, as_json: bool) -> None:
    if as_json:
        for name, copied in found:
            output.json_line(name | copied._asdict())
        return
    now = sum(each.copied for _, each in found)
    before = sum(each.before for _, each in found)
    text = f"{output.count(now, 'message')} of {output.count(len(found), 'queue')} copied"
    output.line(text + (f"; {before:,} were there from before" if before else ""))
