"""mq dump: the records of the log, one a line."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

import click
import msgspec

import mq
from mq.cli import output
from mq.cli.app import Failure, command, disk_at, json_option, note, store_option
from mq.cli.inspect import KIND_NAMES, exit_code, gap_fields, gap_line, kind_name
from mq.cli.names import Names
from mq.cli.options import shown_value
from mq.cli.params import PLACE, QUEUE
from mq.cli.progress import LogProgress
from mq.cli.publication import published_at
from mq.delivery import records
from mq.delivery.decode import NotUnderstood, decode
from mq.delivery.records import Facts
from mq.delivery.state import EXCHANGE
from mq.instants import ms_at
from mq.storage import paths, record
from mq.storage.disk import Disk
from mq.storage.look import Found, Gap, Run, found_in
from mq.storage.segment import Event, Segment, Stretch
from mq.storage.shared import NO_LIMIT
from mq.storage.walk import read

BODY_COLUMNS: Final = 60
NAME_COLUMNS_MIN: Final = 8
NAME_COLUMNS_MAX: Final = 24
INDENT: Final = 4  # of a body, and of what a terminal has no room for
ID_MASK: Final = (1 << 64) - 1
KINDS: Final = tuple(KIND_NAMES.values())
SAYINGS: Final = {  # of facts that are true or false
    ("dead", True): "as a dead letter",
    ("dead", False): "back, as if never tried",
    ("whole", True): "as it is",
    ("in_flight", True): "also what is in flight",
}


# ── what a record says ─────────────────────────────────────────────────────────────


def _fence(payload: bytes) -> Facts:
    void_from, head, capacity, _ = record.FENCE_PAYLOAD.unpack(payload)
    return {"void_from": void_from, "head": head, "capacity": capacity}


def _head(payload: bytes) -> Facts:
    return {"head": record.head_in(payload)}


def _clock(payload: bytes) -> Facts:
    return {"wall_clock": output.instant(record.CLOCK_PAYLOAD.unpack(payload)[0])}


FACTS: Final[dict[int, Callable[[bytes], Facts]]] = {
    record.FENCE: _fence, record.HEAD: _head, record.CLOCK: _clock
}  # fmt: skip


def facts(found: Found, names: Names, skew_ms: int) -> Facts:
    """What the record's payload says, by name; its body aside.  *skew_ms*: the wall clock less store time.

    Under `messages` if the kind may be about several at once, else under `message`.
    """
    known = records.KINDS.get(found.kind)
    try:
        if known is None:
            read = FACTS.get(found.kind)
            return read(found.payload) if read else {}
        event = decode(found.kind, found.flags, found.payload, 0, len(found.payload))
    except (struct.error, NotUnderstood):
        return {"unreadable": "it says what this mq does not know; upgrade mq"}
    at = records.Times(output.instant, lambda ms: output.instant(ms + skew_ms))
    is_new = found.kind in records.NEW or found.kind == records.RELOCATE  # which may be a copy
    said = {"message": found.lsn} if is_new else {}
    said |= known.describe(found.flags, event, at)
    return said | _named(found, said, names)


def _named(found: Found, said: Facts, names: Names) -> Facts:
    """Those of the facts that are numbers of queues: as names."""
    if found.kind == records.MOVE:
        return {"to": names.at(said["to"], found.lsn)}
    if found.kind == records.FANOUT:
        retained = {"retained": names.at(said["retained"], found.lsn)} if "retained" in said else {}
        return {"queues": [names.at(number, found.lsn) for number in said["queues"]]} | retained
    if found.kind == records.RELOCATE_FANOUT:
        return {"held": [each | {"queue": names.at(each["queue"], found.lsn)} for each in said["held"]]}
    return {"topic": names.at(said["topic"], found.lsn)} if found.kind == records.BACKFILL else {}


def _queues_in(said: Facts) -> list[str]:
    """The queues that a record of several names."""
    return [*said.get("queues", ()), *(each["queue"] for each in said.get("held", ()))]


def body(found: Found) -> bytes | None:
    """The body, if the record has one."""
    if found.kind in records.BODIED:
        return records.body_of(found.kind, found.flags, found.ms, found.payload)[1]
    return None


# ── which records have to be looked at one by one ──────────────────────────────────


def _that_may_name(stretch: Stretch, message: int) -> list[Event]:
    """Those that may be about *message*: they stand where it does, or have its eight bytes in them."""
    if stretch.lsns[-1] < message:  # nothing happens to a message before it is there
        return []
    buffer, needle = stretch.buffer, (message & ID_MASK).to_bytes(8, "little")
    if not isinstance(buffer, bytes):  # one record, too long to be held
        return stretch.events()
    if needle not in buffer:
        at = bisect_left(stretch.lsns, message)
        return stretch.part(at, at + 1).events() if stretch.lsns[at] == message else []
    return [
        event for event in stretch.events()
        if event[0] == message
        or (event[1] not in records.NEW and buffer.find(needle, event[6], event[7]) >= 0)
    ]  # fmt: skip


class _Wanted(msgspec.Struct):
    """What was asked for.  `pick` leaves out what is not, as far as a glance tells, before it is decoded."""

    queue: str | None
    kinds: tuple[str, ...]
    message: int | None
    numbers: set[int]  # that the queue may have had
    there: bool  # the queue was met
    known: bool  # the message was met
    start: int = 0  # positions from here on
    stop: int = NO_LIMIT
    start_ms: int = 0  # wall times from here on
    stop_ms: int = NO_LIMIT

    def shows(self, lsn: int, ms: int) -> bool:
        """Whether it stands where was asked for.  *ms*: wall time."""
        return self.start <= lsn < self.stop and self.start_ms <= ms < self.stop_ms

    def pick(self, stretch: Stretch) -> list[Event]:
        # Until both were met, records that are not shown say whether there is such a queue, or message.
        kinds = {kind for kind, name in KIND_NAMES.items() if name in self.kinds}
        by_kind = bool(kinds) and self.there and self.known
        if by_kind and kinds.isdisjoint(stretch.kinds()):
            return []
        if self.there and self.message is not None:
            picked = _that_may_name(stretch, self.message)
        else:
            picked = stretch.events()
        if self.known and self.queue is not None:
            numbers = self.numbers | {EXCHANGE}  # records of several queues
            picked = [event for event in picked if event[3] in numbers]
        return [event for event in picked if event[1] in kinds] if by_kind else picked


class _Dump:
    """A Look: shows what is wanted, as it is found."""

    def __init__(self, asked: _Wanted, names: Names, log: str, as_json: bool, bodies: bool) -> None:
        self._asked, self._names, self._log = asked, names, log
        self._columns = None if as_json else _Columns(bodies)
        self._shown: dict[int, int] = {}  # by base of the segment: up to where
        self._gaps: set[Gap] = set()
        self._first = -1  # the record that is shown already
        self.progress = LogProgress("reading", hidden=output.is_terminal())

    def begin_with(self, disk: Disk, store: str, message: int) -> None:
        """Show at once how *message* was published, if its place tells: then what happened to it follows."""
        with published_at(disk, store, message) as found:
            if found:
                if self._columns:
                    self._columns.widen(found.end)
                self._look_at(found.each, found.item, found.queue)
                self._first = message

    def begin(self, end: int) -> None:
        self._names.begin(end)
        self.progress.begin(end)
        if self._columns:
            self._columns.widen(end)

    def see(self, each: Segment | None, part: Run | Gap) -> None:
        if isinstance(part, Gap):
            if part not in self._gaps:  # when all was started over
                self._gaps.add(part)
                self._print_gap(part)
            return
        assert each
        self._names.see(each, part)
        if not part.stale:
            self.progress.read(part.start, part.end)
        upto = self._shown.get(each.base, 0)
        new = part.stretch if part.start >= upto else part.stretch.part(bisect_left(part.stretch.lsns, upto))
        if new.lsns:
            self._shown[each.base] = part.end
            for event in self._asked.pick(new):
                if event[0] != self._first:
                    item = found_in(each, event, part.dropped)
                    is_event = item.kind >= record.FIRST_EVENT
                    self._look_at(each, item, self._names.at(item.queue, item.lsn) if is_event else "")

    def _look_at(self, each: Segment, item: Found, name: str) -> None:
        asked = self._asked
        asked.there = asked.there or name == asked.queue
        wanted = not asked.kinds or kind_name(item.kind) in asked.kinds
        wanted = wanted and (asked.queue in (None, name) or item.kind in records.OF_THE_STORE)
        wanted = wanted and asked.shows(item.lsn, item.ms + each.skew_ms)
        if wanted or not asked.known:
            said = facts(item, self._names, each.skew_ms)
            wanted = wanted and (asked.queue in (None, name) or asked.queue in _queues_in(said))
            about = asked.message is None or _is_about(said, asked.message)
            asked.known = asked.known or about
            if wanted and about:
                self.show(each, item, name, said)

    def show(self, each: Segment, item: Found, name: str, said: Facts) -> None:
        if self._columns:
            self._columns.show(each, item, name, said)
        else:
            _show_json(paths.segment(self._log, each.base), each, item, name, said)
        if self._asked.message is not None:  # a few lines, in a log that takes a while to read
            output.flush()

    def _print_gap(self, gap: Gap) -> None:
        if self._columns:
            self._columns.show_gap(gap)
        else:
            output.json_line(gap_fields(gap))


# ── the command ────────────────────────────────────────────────────────────────────


@command(short_help="Print the records of the log, one a line.")
@click.option("-q", "--queue", type=QUEUE, metavar="NAME", help="Only records of this queue.")
@click.option(
    "-k", "--kind", "kinds", multiple=True, type=click.Choice(KINDS), metavar="KIND",
    help="Only records of this kind: publish, deliver, ack, …  May be repeated.",
)  # fmt: skip
@click.option("-m", "--message", type=int, metavar="ID", help="Only records of this message.")
@click.option(
    "--from", "start", type=PLACE, metavar="PLACE", help="From this position or time on; or 10m ago."
)
@click.option("--until", "stop", type=PLACE, metavar="PLACE", help="Before that position or time.")
@click.option("--bodies", is_flag=True, help="Whole bodies, in lines below; --json always has them.")
@json_option
@store_option
@click.pass_context
def dump(
    ctx: click.Context, queue: str | None, kinds: tuple[str, ...], message: int | None,
    start: int | datetime | None, stop: int | datetime | None, bodies: bool, as_json: bool, store: str,
) -> None:  # fmt: skip
    """Print the records of the log, oldest first, with the wall-clock time of each.

    Writes nothing.  Works while other processes have the store open, and on a damaged store,
    where it shows each damaged place in order.  Exit code 4 if the store is corrupt.

    \b
    mq dump | tail
    mq dump --queue mail --kind nack
    mq dump --message 4711 --json
    mq dump --from 10m --kind publish --bodies
    """
    disk = disk_at(ctx, store)
    names = Names(disk, store)
    numbers = names.numbers(queue) if queue is not None else set[int]()
    asked = _Wanted(queue, kinds, message, numbers, there=queue is None, known=message is None)
    if isinstance(start, datetime):
        asked.start_ms = ms_at("--from", start)
    elif start is not None:
        asked.start = start
    if isinstance(stop, datetime):
        asked.stop_ms = ms_at("--until", stop)
    elif stop is not None:
        asked.stop = stop
    shown = _Dump(asked, names, paths.log(store), as_json, bodies)
    if message is not None:
        shown.begin_with(disk, store, message)
    with shown.progress:
        walked = read(disk, store, records.NEW, shown)
    code = exit_code(walked)
    if code:
        output.flush()
        note(str(walked.problem))
        ctx.exit(code)
    if not asked.there:
        raise Failure(f"no queue {queue!r} in the log of {store}; `mq queues` lists those there are")
    if not asked.known:
        raise Failure(
            f"no message {message} in the log of {store}: it never was, or is settled and cleaned away"
        )


def _is_about(said: Facts, message: int) -> bool:
    return said.get("message") == message or message in said.get("messages", ())


def _show_json(path: str, each: Segment, item: Found, name: str, said: Facts) -> None:
    fields: Facts = {
        "lsn": item.lsn, "kind": kind_name(item.kind), "time": output.instant(item.ms + each.skew_ms),
        "queue": name or None, "size": item.size, "path": path, "offset": each.offset(item.lsn), **said,
    }  # fmt: skip
    raw = body(item)
    if raw is not None:
        fields |= {"body_bytes": len(raw), **output.body_fields(item.flags, raw)}
    if item.flags & record.CONTINUES:
        fields["continues"] = True
    if item.dropped:
        fields["dropped"] = True
    output.json_line(fields)


class _Columns:
    """Lines for a person, in columns as wide as the log needs."""

    def __init__(self, bodies: bool) -> None:
        self._bodies = bodies
        self._lsn = 0
        self._kind = max(map(len, KINDS))

    def widen(self, end: int) -> None:
        self._lsn = max(self._lsn, len(str(end)))

    def show_gap(self, gap: Gap) -> None:
        output.say(f"{gap.lsn:>{self._lsn}}  {'!' * 8}  {gap_line(gap)}", INDENT)

    def show(self, each: Segment, item: Found, name: str, said: Facts) -> None:
        text = _text(item, said, excerpt=not self._bodies)
        if item.dropped:
            text = f"(not finished, left out)  {text}"
        shown = output.excerpt(name, NAME_COLUMNS_MAX) if name else "-"
        shown += " " * (NAME_COLUMNS_MIN - output.width(shown))
        kind = kind_name(item.kind)
        time = output.instant(item.ms + each.skew_ms)
        line = f"{item.lsn:>{self._lsn}}  {time}  {kind:{self._kind}}  {shown}  {text}"
        output.say(output.escape(line.rstrip()), INDENT)
        if self._bodies and (raw := body(item)) is not None:
            whole = output.body_bytes(item.flags, raw).decode(errors="backslashreplace")
            output.indented(output.escape(whole, keep="\n\t"), INDENT)


def _words(name: str, value: Any) -> Iterator[str]:
    """One of the facts, for a person."""
    if name == "options":
        yield from (_option(*each) for each in value.items())
    elif name == "messages":
        yield f"message{'' if len(value) == 1 else 's'} {', '.join(map(str, value))}"
    elif name == "kept" and value:
        yield f"all but {', '.join(map(str, value))}"
    elif name == "queues":
        yield f"to {', '.join(value) or 'no queue'}"
    elif name == "held":
        yield from (f"{each['queue']} {each['place'].replace('_', ' ')}" for each in value)
    elif name in ("headers", "match", "meta"):
        yield from (f"{name.removesuffix('s')} {key}={text}" for key, text in value.items())
    elif isinstance(value, bool):
        yield SAYINGS[name, value]
    elif name == "why":
        yield value
    elif name not in ("name", "times", "cutoff", "kept") and value != "":
        yield f"{name.replace('_', ' ')} {value!r}" if name == "reason" else f"{name} {value}"


def _option(name: str, value: Any) -> str:
    value = mq.Backoff(*value) if name == "backoff" else value
    return name if value is True else f"{name}={shown_value(name, value)}"


def _text(item: Found, said: Facts, *, excerpt: bool = True) -> str:
    """What a record says, for a person: facts by name, a body as its size and beginning."""
    parts = [part for name, value in said.items() if value != item.lsn for part in _words(name, value)]
    raw = body(item)
    if raw is not None:
        start = output.body_bytes(item.flags, raw)[: 4 * BODY_COLUMNS].decode(errors="backslashreplace")
        kind = output.body_type(item.flags)
        parts += [f"{kind:9}", f"{output.size(len(raw)):>9}"]
        parts += [output.excerpt(start, BODY_COLUMNS)] if excerpt else []
    return "  ".join(parts)
