"""mq dead: dead letters, of all queues; show them, send them back, drop them."""

from __future__ import annotations

import fnmatch
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple

import click

import mq
from mq.cli import existing, output
from mq.cli.app import (
    EMPTY,
    ERROR,
    USAGE,
    Failure,
    confirm,
    group,
    json_option,
    note,
    shown,
    store_option,
    yes_option,
)
from mq.cli.looking import look, open_late, open_there
from mq.cli.message import blocks, fields
from mq.cli.params import QUEUE
from mq.cli.progress import Progress
from mq.delivery.options import DEAD_SUFFIX
from mq.engine import commands, looking
from mq.engine.looking import Letter
from mq.errors import CorruptStore

BATCH_LETTERS: Final = 1000  # moved, or dropped, between two looks at the progress
REASONS_MAX: Final = 20
REASON_COLUMNS: Final = 60

ids_argument = click.argument("ids", nargs=-1, type=int, metavar="[ID]...")
reason_option = click.option(
    "--reason", metavar="GLOB", help="Those whose last failure has this reason, as 'Timeout*'."
)
all_option = click.option("--all", "everything", is_flag=True, help="All of them.")


# ── which queues hold dead letters ─────────────────────────────────────────────────


def sources(broker: mq.Broker) -> dict[str, list[str]]:
    """The queues that hold dead letters, each with those whose dead letters go there."""
    names = broker.queues()
    found: dict[str, list[str]] = {name: [] for name in names if name.endswith(DEAD_SUFFIX)}
    there = set(names)
    for name in names:
        if (target := broker.queue(name).options()["dead_letter"]) in there:
            found.setdefault(target, []).append(name)
    return dict(sorted(found.items()))


def grave(broker: mq.Broker, name: str) -> mq.Queue[Any]:
    """The queue of dead letters called *name*, or that of the queue *name*; or one they were moved to."""
    queue = existing.queue(broker, name)
    if name in (known := sources(broker)):
        return queue
    target = queue.options()["dead_letter"]
    if target in known:
        return broker.queue(target)
    if any(each.origin is not None for each in letters(queue)):
        return queue
    raise Failure(f"{name}: there are no dead letters; they would go to {target}", EMPTY)


def letters(queue: mq.Queue[Any]) -> list[Letter]:
    return looking.letters(queue._store, queue._channel)


class Grave(NamedTuple):
    """A queue of dead letters, as `mq dead` shows it."""

    queue: str
    letters: int
    in_flight: int  # of the letters
    others: int  # messages that did not die in another queue
    oldest_age: float | None
    """Seconds since the oldest one that waits was published."""
    last_failed_at: str | None
    origins: dict[str, int]
    reasons: list[dict[str, Any]]


def survey(queue: mq.Queue[Any], froms: Sequence[str]) -> Grave:
    every = letters(queue)
    found = [each for each in every if each.origin is not None]
    origins = Counter(dict.fromkeys(froms, 0))
    origins.update(each.origin or "" for each in found)
    counts: Counter[str] = Counter(each.reason for each in found)
    by_time = sorted(found, key=lambda each: (each.failed_ms, each.id))
    last = {each.reason: each.failed_ms for each in reversed(by_time)}  # the latest comes first
    last |= {each.reason: each.failed_ms for each in by_time}
    reasons = [
        {"reason": reason, "letters": counts[reason], "last_at": output.instant(ms) if ms else None}
        for reason, ms in list(last.items())[:REASONS_MAX]
    ]
    latest = max(last.values(), default=0)
    return Grave(
        queue.name, len(found), sum(not each.waits for each in found), len(every) - len(found),
        _age(queue, found), output.instant(latest) if latest else None, dict(origins), reasons,
    )  # fmt: skip


def _age(queue: mq.Queue[Any], found: Sequence[Letter]) -> float | None:
    """Of the oldest that waits.  Ids are in the order in which messages were published."""
    for each in found:
        if each.waits:
            with suppress(CorruptStore):  # its age is damaged with it
                if oldest := queue.get(each.id):
                    return max(0.0, time.time() - oldest._created_ms / 1000)
    return None


@group(short_help="Dead letters: list, show, replay, purge.", alone=True)
@json_option
@store_option
@click.pass_context
def dead(ctx: click.Context, as_json: bool, store: str) -> None:
    """List the queues of dead letters: how many, since when, from where, and why they died.

    A queue's dead letters are in the queue that its option dead_letter names, usually NAME.dead.
    Commands take either name, and that of a queue which dead letters were moved to.  The list writes
    nothing, and works beside other processes.

    \b
    mq dead
    mq dead show mail -n 3
    mq dead replay mail --reason 'Timeout*'
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError(f"--json comes behind the word {ctx.invoked_subcommand}")
        return
    with look(store) as broker:
        found = [survey(broker.queue(name), froms) for name, froms in sources(broker).items()]
    if as_json:
        for each in found:
            output.json_line(each._asdict())
    elif held := [each for each in found if each.letters]:
        header = ["queue", "letters", "oldest", "from", "last reason"]
        rows = [
            [
                each.queue,
                output.coloured(f"{each.letters:,}", output.RED),
                "" if each.oldest_age is None else output.duration(each.oldest_age),
                ", ".join(name for name, count in each.origins.items() if count) or "-",
                _reasons(each),
            ]
            for each in held
        ]
        texts = ["queue", "from", "last reason"]
        output.table(header, rows, left=texts, cut=texts, spare=["from", "oldest"])
    else:
        note(f"{shown(store)}: no dead letters")


def _reasons(each: Grave) -> str:
    first, *others = each.reasons
    said = output.excerpt(str(first["reason"]) or "(none given)", REASON_COLUMNS)
    return f"{said} ({first['letters']:,})" + (f", and {len(others)} more" if others else "")


# ── one by one ─────────────────────────────────────────────────────────────────────


@dead.command(short_help="Show dead letters, with all their failures.")
@click.argument("queue", type=QUEUE)
@ids_argument
@click.option(
    "-n", "limit", type=click.IntRange(min=1), default=10, metavar="N", help="Show at most N.  [10]"
)
@reason_option
@json_option
@store_option
@click.pass_context
def show(
    ctx: click.Context, queue: str, ids: tuple[int, ...], limit: int, reason: str | None, as_json: bool,
    store: str,
) -> None:  # fmt: skip
    """Show the dead letters of QUEUE, the oldest first: where and why each died, and its body.

    Messages that did not die in another queue are shown only if they are named by id.
    Takes nothing and writes nothing.  Exit code 3 if there are none.

    \b
    mq dead show mail
    mq dead show mail 4711 --json
    mq dead show mail --reason 'ValueError*'
    """
    with look(store) as broker:
        source = grave(broker, queue)
        found = letters(source)
        wanted = [each for each in found if _Wanted(frozenset(ids), reason).is_meant(each)]
        there = filter(None, (source.get(each.id) for each in wanted))
        messages = list(islice(there, None if ids else limit))
    if not messages:
        others = "" if ids or reason or not found else "; `mq peek` shows what did not die in another queue"
        note(f"{source.name}: no {'such ' if ids or reason else ''}dead letters{others}")
        ctx.exit(EMPTY)
    if as_json:
        for message in messages:
            output.json_line(fields(message))
    else:
        blocks(messages)
    if not as_json and (more := len(wanted) - len(messages)) > 0:
        note(f"{more:,} more; -n shows more of them")


class _Wanted(NamedTuple):
    """Which ones are asked for: those of the *ids*, or else all that died; if a reason is given, of that."""

    ids: frozenset[int]
    reason: str | None

    def is_meant(self, each: Letter) -> bool:
        return (each.id in self.ids if self.ids else each.origin is not None) and self.has_reason(each)

    def has_reason(self, each: Letter) -> bool:
        return self.reason is None or fnmatch.fnmatchcase(each.reason, self.reason)


def _wanted(ids: Sequence[int], reason: str | None, everything: bool) -> _Wanted:
    """Which ones, if that is said in one way."""
    if sum([bool(ids), reason is not None, everything]) != 1:
        raise Failure("say which: ids, --reason GLOB or --all; `mq dead show` shows what is there", USAGE)
    return _Wanted(frozenset(ids), reason)


def _waiting(source: mq.Queue[Any], wanted: _Wanted) -> tuple[list[Letter], list[Letter]]:
    """Of what waits there: those that are wanted, and those that would be if they had died elsewhere."""
    found = letters(source)
    if missing := sorted(wanted.ids - {each.id for each in found}):
        raise Failure(f"{source.name}: no dead letter {missing[0]} is here; nothing was done")
    waiting = [each for each in found if each.waits]
    others = [each for each in waiting if each.origin is None and not wanted.ids and wanted.has_reason(each)]
    return [each for each in waiting if wanted.is_meant(each)], others


@dead.command(short_help="Send dead letters back to where they died.")
@click.argument("queue", type=QUEUE)
@ids_argument
@click.option("--to", metavar="QUEUE", type=QUEUE, help="To this queue instead.")
@reason_option
@all_option
@json_option
@store_option
@click.pass_context
def replay(
    ctx: click.Context, queue: str, ids: tuple[int, ...], to: str | None, reason: str | None,
    everything: bool, as_json: bool, store: str,
) -> None:  # fmt: skip
    """Move dead letters of QUEUE back to where each died, as if it had never been tried.

    Those in flight stay.  Each message moves as a whole; the command may be interrupted and run again.

    \b
    mq dead replay mail 4711 4805
    mq dead replay mail --reason 'Timeout*'
    mq dead replay mail --all --to mail.retry
    """
    wanted = _wanted(ids, reason, everything)
    with open_there(store) as broker:
        source = grave(broker, queue)
        if to is not None:
            existing.queue(broker, to)
        chosen, others = _waiting(source, wanted)
        going = sorted(each.id for each in chosen + (others if to is not None else []))
        aliens = frozenset(each.id for each in others)

        def is_meant(each: Letter) -> bool:  # still: it may have died again meanwhile, of another cause
            return wanted.is_meant(each) or (each.id in aliens and wanted.has_reason(each))

        moved = 0
        with Progress("replaying", len(going), "message") as progress:
            for start in range(0, len(going), BATCH_LETTERS):
                some = going[start : start + BATCH_LETTERS]
                moved += commands.replay(source._store, source._channel, some, to, is_meant)
                progress.show(moved, len(going))
    where = f" to {to}" if to is not None else ""
    output.result(
        f"{output.count(moved, 'message')} of {source.name} replayed{where}",
        {"queue": source.name, "replayed": moved, "to": to}, as_json,
    )  # fmt: skip
    if others and to is None:
        _note_others(others, "--to sends them")
    if ids and moved < len(set(ids)):
        note(f"{len(set(ids)) - moved:,} stay: they are in flight, or went meanwhile")
        ctx.exit(ERROR)


@dead.command(short_help="Drop dead letters for good.")
@click.argument("queue", type=QUEUE)
@ids_argument
@reason_option
@all_option
@yes_option
@json_option
@store_option
def purge(
    queue: str, ids: tuple[int, ...], reason: str | None, everything: bool, yes: bool, as_json: bool,
    store: str,
) -> None:  # fmt: skip
    """Drop dead letters of QUEUE: they are gone.  Those in flight stay.

    So do, unless they are named by id, messages that did not die in another queue.

    Asks first, if it runs on a terminal; elsewhere it needs --yes.

    \b
    mq dead purge mail 4711
    mq dead purge mail --reason 'ValueError*' --yes
    mq dead purge mail --all
    """
    wanted = _wanted(ids, reason, everything)
    with look(store) as broker:
        source = grave(broker, queue)
        chosen, others = _waiting(source, wanted)
    going = [each.id for each in chosen]
    if going:
        confirm(f"drop {output.count(len(going), 'dead letter')} of {source.name}", yes)
    with open_late(store) as broker:  # synced once, at the end
        source, gone = broker.queue(source.name), 0
        with Progress("dropping", len(going), "message") as progress:
            for start in range(0, len(going), BATCH_LETTERS):
                some = going[start : start + BATCH_LETTERS]
                # What was asked about, and is still what was asked for: it may die again, of another cause.
                gone += commands.drop(source._store, source._channel, some, wanted.is_meant)
                progress.add(len(some))
        broker.flush()
    output.result(
        f"{output.count(gone, 'message')} of {source.name} dropped", {"queue": source.name, "dropped": gone},
        as_json,
    )  # fmt: skip
    if others:
        _note_others(others, "their ids drop them")


def _note_others(others: list[Letter], advice: str) -> None:
    note(f"{output.count(len(others), 'message')} did not die in another queue, and stay: {advice}")
