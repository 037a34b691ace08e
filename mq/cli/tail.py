"""mq tail: what is published, as it is published, without taking it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

import click
import msgspec

import mq
from mq.cli import message, output
from mq.cli.app import CORRUPT, Failure, command, disk_at, json_option, note, require_store, store_option
from mq.cli.follow import Follower
from mq.cli.lines import message_line
from mq.cli.params import PLACE, QUEUE
from mq.delivery import records
from mq.delivery.decode import NotUnderstood, decode
from mq.delivery.options import HIDDEN_KEYS, key_of
from mq.delivery.topics import Routes
from mq.engine.names import check_name, check_pattern
from mq.instants import ms_at
from mq.storage.look import Found
from mq.storage.segment import Segment
from mq.storage.shared import NO_LIMIT

LOOK_SECONDS: Final = 0.1
LOOKS_STUCK: Final = 20  # then what is there is damaged, and not being written just now
SHOWN: Final = frozenset({*records.NEW, records.MOVE})


@command(short_help="Follow what is published, and take nothing.")
@click.argument("queues", nargs=-1, metavar="[QUEUE]...", type=QUEUE)
@click.option(
    "-t", "--topic", "patterns", multiple=True, metavar="PATTERN",
    help="What is published to these topics, as orders.#; may be repeated.",
)  # fmt: skip
@click.option(
    "--since", type=PLACE, metavar="PLACE",
    help="Begin there: an id, a time, or how long ago, as 10m.  [default: now]",
)  # fmt: skip
@click.option("-n", "limit", type=click.IntRange(min=1), metavar="N", help="Stop after N messages.")
@click.option("--until-end", is_flag=True, help="Stop where the log ends now.")
@json_option
@store_option
@click.pass_context
def tail(
    ctx: click.Context, queues: tuple[str, ...], patterns: tuple[str, ...], since: int | datetime | None,
    limit: int | None, until_end: bool, as_json: bool, store: str,
) -> None:  # fmt: skip
    """Show each message that is published to these queues and topics, as it is published; without any, all.

    Dead letters are shown where they arrive, with the reason.  Takes nothing and writes nothing:
    receivers get each message as if it had not been looked at.  Ends with Ctrl-C.

    \b
    mq tail
    mq tail mail mail.dead
    mq tail --topic 'orders.#' --since 10m --json
    """
    for name in queues:
        check_name(name)
    routes = Routes()
    for number, pattern in enumerate(patterns):
        routes.bind(number, check_pattern(pattern))
    require_store(store)
    disk = disk_at(ctx, store)
    with mq.open(store, read_only=True) as broker:
        follower = Follower(disk, store, None)
        shown = _Shown(broker, frozenset(queues), routes, as_json)
        _note_missing(queues, shown)
        if since is not None:
            _go_back(follower, shown, since)
        _follow(follower, shown, limit, until_end)


def _note_missing(queues: Sequence[str], shown: _Shown) -> None:
    for name in queues:
        if name not in shown.names.values():
            note(f"there is no queue {name!r} yet")


def _follow(follower: Follower, shown: _Shown, limit: int | None, once: bool) -> None:
    """*once*: only up to where the log ends now."""
    stuck, end = 0, follower.known_end() if once else NO_LIMIT
    while True:
        before = follower.position
        for each, found in follower.read():
            if shown.show(each, found) and shown.count == limit:
                output.flush()
                return
        output.flush()
        if follower.skipped:
            note(f"{output.size(follower.skipped)} of the log went before they were read")
            follower.skipped = 0
        stuck = stuck + 1 if before == follower.position < follower.known_end() else 0
        if stuck == LOOKS_STUCK:
            raise Failure(f"the log cannot be read on from {before}: `mq verify` says why", CORRUPT)
        if follower.position >= end:
            return
        time.sleep(LOOK_SECONDS)


def _go_back(follower: Follower, shown: _Shown, since: int | datetime) -> None:
    """Begin with the segment in which *since* is, and pass over what is before it."""
    bases = follower.bases()
    if isinstance(since, datetime):
        shown.since_ms = ms_at("--since", since)
        follower.position = bases[0] if bases else 0
    else:
        shown.since = since
        follower.position = max([base for base in bases if base <= since], default=min(bases, default=0))


class _Shown:
    """Prints what is wanted of the records that it is shown."""

    def __init__(self, broker: mq.Broker, queues: frozenset[str], routes: Routes, as_json: bool) -> None:
        self._broker, self._queues, self._routes, self._as_json = broker, queues, routes, as_json
        self.names = _names(broker)
        self.since = self.since_ms = 0
        self.count = 0

    def show(self, each: Segment, found: Found) -> bool:
        """Whether it was printed."""
        if found.kind in (records.DECLARE, records.DELETE):
            self._learn(found)
        ms = found.ms + each.skew_ms
        if found.kind not in SHOWN or found.lsn < self.since or ms < self.since_ms:
            return False
        payload = found.payload
        with suppress(NotUnderstood):
            event = decode(found.kind, found.flags, payload, 0, len(payload))
            shown = self._move(ms, event) if found.kind == records.MOVE else self._new(ms, found, event)
            self.count += shown
            return shown
        return False

    def _learn(self, found: Found) -> None:
        if found.kind == records.DELETE:
            self.names.pop(found.queue, None)
            return
        with suppress(msgspec.MsgspecError):  # of a newer mq
            name = key_of(records.decode_declaration(found.payload))
            if name and name[0] not in HIDDEN_KEYS:
                self.names[found.queue] = name

    def _wants(self, queues: list[str], topic: str | None) -> bool:
        if not self._queues and not len(self._routes):
            return True
        return not self._queues.isdisjoint(queues) or (topic is not None and bool(self._routes.route(topic)))

    def _new(self, ms: int, found: Found, event: records.Event) -> bool:
        if isinstance(event, records.Fanout):
            numbers, attributes = event.queues, event.attributes
        else:
            numbers, attributes = (found.queue,), event[1]
        queues = [self.names.get(number, f"unnamed-{number}") for number in numbers]
        if not self._wants(queues, attributes.topic):
            return False
        raw = records.body_of(found.kind, found.flags, ms, found.payload)[1]
        if self._as_json:
            output.json_line({
                "id": found.lsn, "queue": queues[0] if attributes.topic is None else None, "queues": queues,
                "topic": attributes.topic, "created_at": output.instant(ms),
                "due_at": output.instant(attributes.due) if attributes.due else None,
                "expires_at": output.instant(attributes.expires) if attributes.expires else None,
                "priority": attributes.priority, "group": attributes.group,
                "headers": dict(attributes.headers), **output.body_fields(found.flags, raw),
            })  # fmt: skip
        else:
            output.line(message_line(ms, attributes.topic or queues[0], found.lsn, found.flags, raw))
        return True

    def _move(self, ms: int, event: records.Event) -> bool:
        """A dead letter that arrives, or one that is replayed."""
        move: records.Move = event[0]
        name = self.names.get(move.to, f"unnamed-{move.to}")
        letter = self._broker.queue(name).get(move.id) if self._wants([name], None) else None
        if letter is None:
            return False
        if self._as_json:
            output.json_line(message.fields(letter) | {"queues": [name]})
        else:
            why, colour = "replayed:", ""
            if letter.origin is not None:
                why, colour = f"died in {letter.origin} ({move.reason}):", output.RED
            output.line(message_line(ms, name, letter.id, letter._flags, letter.raw, why, colour=colour))
        return True


def _names(broker: mq.Broker) -> dict[int, str]:
    """The names of all queues, by number."""
    found = {}
    for name in broker.queues():
        state = broker._store.channel(name).state
        if state is not None:
            found[state.number] = name
    return found
