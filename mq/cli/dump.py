"""mq dump: the records of the log, one a line."""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import click
import msgspec

from mq.cli import output
from mq.cli.app import Failure, command, disk_at, json_option, note, store_option
from mq.cli.inspect import exit_code, gap_fields, gap_line, kind_name
from mq.cli.progress import Progress
from mq.delivery import events
from mq.storage import record
from mq.storage.disk import Disk
from mq.storage.segment import Event
from mq.storage.walk import File, Found, Gap, Pick, Walk, walk

BODY_COLUMNS: Final = 60
NAME_COLUMNS_MAX: Final = 24
ID_MASK: Final = (1 << 64) - 1
NAMING: Final = (events.DECLARE, events.DELETE)  # kinds that say what a queue is called
MADE_UP: Final = re.compile("(?:unnamed-|#)([0-9]+)")  # what a queue is called that never got a name
KINDS: Final = tuple(events.KIND_NAMES.values())

Facts = dict[str, Any]


# ── what a record says ─────────────────────────────────────────────────────────────


def _fence(payload: bytes, skew_ms: int) -> Facts:
    void_from, head, capacity, _ = record.FENCE_PAYLOAD.unpack(payload)
    return {"void_from": void_from, "head": head, "capacity": capacity}


def _head(payload: bytes, skew_ms: int) -> Facts:
    return {"head": record.HEAD_PAYLOAD.unpack(payload)[0]}


def _clock(payload: bytes, skew_ms: int) -> Facts:
    return {"wall_clock": output.instant(record.CLOCK_PAYLOAD.unpack(payload)[0])}


def _declare(payload: bytes, skew_ms: int) -> Facts:
    found = dict(msgspec.to_builtins(events.decode_declaration(payload)))
    return {"name": found.pop("name"), "options": found}


def _deliver(payload: bytes, skew_ms: int) -> Facts:
    ids, deadline = events.deliveries_of(payload, 0, len(payload))
    return {"messages": ids, "deadline": output.instant(deadline + skew_ms)}


def _ack(payload: bytes, skew_ms: int) -> Facts:
    return {"messages": [id for id, _ in events.ACK_PAYLOAD.iter_unpack(payload)]}


def _nack(flags: int, payload: bytes, skew_ms: int) -> Facts:
    id, due, _, reason, rests = events.nack_of(flags, payload, 0, len(payload))
    due += skew_ms if due and rests else 0
    return {"message": id, "due": output.instant(due) if due else "now", "reason": reason}


def _release(payload: bytes, skew_ms: int) -> Facts:
    return {"message": events.RELEASE_PAYLOAD.unpack(payload)[0]}


def _extend(payload: bytes, skew_ms: int) -> Facts:
    id, deadline = events.EXTEND_PAYLOAD.unpack(payload)
    return {"message": id, "deadline": output.instant(deadline + skew_ms)}


def _purge(payload: bytes, skew_ms: int) -> Facts:
    (cutoff,) = events.PURGE_PAYLOAD.unpack_from(payload)
    kept = events.KEPT_PAYLOAD.iter_unpack(payload[events.PURGE_PAYLOAD.size :])
    return {"cutoff": output.instant(cutoff + skew_ms), "kept": [id for id, _ in kept]}


def _relocate(payload: bytes, skew_ms: int) -> Facts:
    id, created, attempts, place, receipt, when = events.RELOCATE_PAYLOAD.unpack_from(payload)
    said: Facts = {"message": id, "created_at": output.instant(created), "attempts": attempts}
    if place == events.IN_FLIGHT:
        return said | {"place": "in_flight", "receipt": receipt, "deadline": output.instant(when + skew_ms)}
    if place in (events.DELAYED, events.RESTING):
        name = "delayed" if place == events.DELAYED else "resting"
        by_wall = when if place == events.DELAYED else when + skew_ms
        return said | {"place": name, "due": output.instant(by_wall)}
    return said | {"place": "waiting"}


def _move(flags: int, payload: bytes, skew_ms: int) -> Facts:
    said = events.decode_move(payload, 0, len(payload))
    facts: Facts = {"message": said.id, "to": said.to, "dead": bool(flags & events.DIED)}
    return facts | ({"reason": said.reason} if said.reason else {})


def _drop(flags: int, payload: bytes, skew_ms: int) -> Facts:
    why = {events.EXPIRED: "expired", events.OVERFLOWED: "too many"}.get(flags & 0xF0, "cancelled")
    return {"messages": [id for id, _ in events.DROP_PAYLOAD.iter_unpack(payload)], "why": why}


def _reschedule(payload: bytes, skew_ms: int) -> Facts:
    id, due = events.RESCHEDULE_PAYLOAD.unpack(payload)
    return {"message": id, "due": output.instant(due) if due else "now"}


def _dedup(payload: bytes, skew_ms: int) -> Facts:
    id, until = events.DEDUP_PAYLOAD.unpack_from(payload)
    key = payload[events.DEDUP_PAYLOAD.size :].decode()
    return {"message": id, "dedup_id": key, "until": output.instant(until + skew_ms)}


def _renew(payload: bytes, skew_ms: int) -> Facts:
    return {"until": output.instant(events.RENEW_PAYLOAD.unpack(payload)[0] + skew_ms)}


def _attributes(found: Found) -> Facts:
    """What a publish said beside the body."""
    _, published = events.published_of(found.kind, found.flags, 0, found.payload)
    said = events.attributes_of(found.flags, published)[0]
    facts: Facts = {"priority": said.priority} if said.priority else {}
    facts |= {"due": output.instant(said.due)} if said.due else {}
    facts |= {"expires": output.instant(said.expires)} if said.expires else {}
    facts |= {"group": said.group} if said.group is not None else {}
    facts |= {"headers": said.headers} if said.headers else {}
    return facts | ({"dedup_id": said.dedup_id} if said.dedup_id is not None else {})


FACTS: Final[dict[int, Callable[[bytes, int], Facts]]] = {
    record.FENCE: _fence, events.DECLARE: _declare, events.DELIVER: _deliver, events.ACK: _ack,
    events.RELEASE: _release, events.EXTEND: _extend, events.PURGE: _purge,
    record.HEAD: _head, record.CLOCK: _clock, events.RELOCATE: _relocate, events.RENEW: _renew,
    events.RESCHEDULE: _reschedule, events.DEDUP: _dedup,
}  # fmt: skip
FLAGGED: Final[dict[int, Callable[[int, bytes, int], Facts]]] = {
    events.NACK: _nack, events.MOVE: _move, events.DROP: _drop,
}  # fmt: skip


def facts(found: Found, names: _Names, skew_ms: int) -> Facts:
    """What the record's payload says, by name; its body aside.  *skew_ms*: the wall clock less store time.

    Under `messages` if the kind may be about several at once, else under `message`.
    """
    try:
        said = _facts(found, skew_ms)
    except (msgspec.MsgspecError, struct.error, UnicodeDecodeError):
        return {"unreadable": "it says what this mq does not know; upgrade mq"}
    return said | {"to": names.at(said["to"], found.lsn)} if found.kind == events.MOVE else said


def _facts(found: Found, skew_ms: int) -> Facts:
    if found.kind == events.PUBLISH:
        return {"message": found.lsn} | _attributes(found)
    if found.kind in FLAGGED:
        return FLAGGED[found.kind](found.flags, found.payload, skew_ms)
    read = FACTS.get(found.kind)
    said = read(found.payload, skew_ms) if read else {}
    return said | _attributes(found) if found.kind == events.RELOCATE else said


def body(found: Found) -> bytes | None:
    """The body, if the record has one."""
    if found.kind in (events.PUBLISH, events.RELOCATE):
        return events.body_of(found.kind, found.flags, found.ms, found.payload)[1]
    return None


class _Names:
    """What the queues were called at each place in the log: records say only their numbers.

    A declaration may stand behind records of its queue, since the cleaner moves it to the
    end; and what was the number of a queue that is deleted may be given to another.
    """

    def __init__(self, walked: Walk) -> None:
        self._said: dict[int, list[tuple[int, str]]] = {}  # by number: from where on, and the name; "": none
        if walked.whole:
            for item in walked.kept:
                self._read(item)
        else:
            self._read_all(walked)

    def _read_all(self, walked: Walk) -> None:
        with Progress("reading names", sum(file.size for file in walked.files)) as progress:
            for file in walked.files:
                self._read_from(walked.items(file, partial(_of_kinds, kinds=NAMING)))
                progress.add(file.size)

    def _read_from(self, items: Iterable[Found | Gap]) -> None:
        for item in items:
            if isinstance(item, Found):
                self._read(item)

    def _read(self, item: Found) -> None:
        if item.kind == events.DELETE:
            self._note(item.queue, item.lsn + 1, "")
        else:
            with suppress(msgspec.MsgspecError):  # of a newer mq
                self._note(item.queue, item.lsn, events.decode_declaration(item.payload).name)

    def _note(self, number: int, start: int, name: str) -> None:
        said = self._said.setdefault(number, [])
        if not said or said[-1][1] != name:
            said.append((start, name))

    def numbers(self, name: str) -> set[int]:
        """The numbers that a queue called *name* may have had."""
        found = {number for number, said in self._said.items() if any(each == name for _, each in said)}
        if match := MADE_UP.fullmatch(name):
            found.add(int(match[1]))
        return found

    def at(self, number: int, lsn: int) -> str:
        """The name in force at *lsn*, else the next one that queue gets, else what the library calls it."""
        said = self._said.get(number, [])
        after = bisect_right(said, lsn, key=lambda each: each[0])
        if after and said[after - 1][1]:
            return said[after - 1][1]
        if after == len(said):
            return f"unnamed-{number}"
        return said[after][1] or f"#{number}"  # deleted before anybody said


# ── which records have to be looked at one by one ──────────────────────────────────


def _of_kinds(run: list[Event], kinds: Collection[int]) -> list[Event]:
    return [event for event in run if event[1] in kinds]


def _that_may_name(run: list[Event], message: int) -> list[Event]:
    """Those that may be about *message*: they stand where it does, or have its eight bytes in them."""
    buffer, needle = run[0][5], (message & ID_MASK).to_bytes(8, "little")
    if not isinstance(buffer, bytes):  # one record, too long to be held
        return run
    if needle not in buffer:
        return [event for event in run if event[0] == message]
    return [
        event for event in run
        if event[0] == message
        or (event[1] != events.PUBLISH and buffer.find(needle, event[6], event[7]) >= 0)
    ]  # fmt: skip


@dataclass
class _Wanted:
    """What was asked for.  `pick` leaves out what is not, as far as a glance tells, before it is decoded."""

    queue: str | None
    kinds: tuple[str, ...]
    message: int | None
    there: bool  # the queue was met
    known: bool  # the message was met

    def pick(self, names: _Names) -> Pick:
        numbers = names.numbers(self.queue) if self.queue else None
        kinds = {kind for kind, name in events.KIND_NAMES.items() if name in self.kinds}

        def pick(run: list[Event]) -> list[Event]:
            # Until both were met, records that are not shown say whether there is such a queue, or message.
            if self.known and numbers is not None:
                run = [event for event in run if event[3] in numbers]
            if run and self.there and self.message is not None:
                run = _that_may_name(run, self.message)
            if self.there and self.known and kinds:
                run = _of_kinds(run, kinds)
            return run

        return pick

    def may_be_in(self, walked: Walk, file: File) -> bool:
        """Whether there may be something to show in *file*: nothing happens to a message before its id."""
        if self.queue is not None or self.message is None or not walked.whole:
            return True
        return file.segment.limit > self.message


# ── the command ────────────────────────────────────────────────────────────────────


@command(short_help="The records of the log, one a line.")
@click.option("-q", "--queue", metavar="NAME", help="Only those of this queue.")
@click.option(
    "-k", "--kind", "kinds", multiple=True, type=click.Choice(KINDS), metavar="KIND",
    help="Only these: publish, deliver, ack, …  May be repeated.",
)  # fmt: skip
@click.option("-m", "--message", type=int, metavar="ID", help="Only what happened to this message.")
@json_option
@store_option
@click.pass_context
def dump(
    ctx: click.Context, queue: str | None, kinds: tuple[str, ...], message: int | None, as_json: bool,
    store: str,
) -> None:  # fmt: skip
    """Print the records of the log, oldest first.  Times are by the wall clock of then.

    Writes nothing; works beside a live process and on a damaged store, where every bad
    place is shown in its turn.  Exit code 4 if the store is corrupt: all of it is read first.

    \b
    mq dump | tail
    mq dump --queue mail --kind nack
    mq dump --message 4711 --json
    """
    walked, names = _walk(disk_at(ctx, store), store)
    show = _show_json if as_json else _Columns(walked).show
    asked = _Wanted(queue, kinds, message, there=queue is None, known=message is None)
    for file, item, name in _items(walked, names, asked):
        if isinstance(item, Gap):
            show(file, item, name, {})
            continue
        asked.there = asked.there or name == queue
        wanted = queue in (None, name) and (not kinds or kind_name(item.kind) in kinds)
        if wanted or not asked.known:
            assert file
            said = facts(item, names, file.segment.skew_ms)
            about = message is None or _is_about(said, message)
            asked.known = asked.known or about
            if wanted and about:
                show(file, item, name, said)
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


def _walk(disk: Disk, store: str) -> tuple[Walk, _Names]:
    """Started over if compaction drops a segment meanwhile: it may have held declarations."""
    while True:
        walked = walk(disk, store, events.PUBLISH, keep=NAMING)
        try:
            return walked, _Names(walked)
        except FileNotFoundError:
            if not walked.view.held:
                raise


def _items(walked: Walk, names: _Names, asked: _Wanted) -> Iterator[tuple[File | None, Found | Gap, str]]:
    """Every record and every bad place in the order of the log, with the name of the record's queue."""
    missing, pick = list(walked.missing), asked.pick(names)
    for file in walked.files:
        while missing and missing[0].lsn <= file.segment.base:
            yield None, missing.pop(0), ""
        if not asked.may_be_in(walked, file):
            continue
        try:
            for item in walked.items(file, pick):
                if isinstance(item, Gap) or item.kind < record.FIRST_EVENT:
                    yield file, item, ""
                else:
                    yield file, item, names.at(item.queue, item.lsn)
        except FileNotFoundError:  # compaction has dropped it meanwhile
            if not walked.view.held:
                raise
    for gap in missing:
        yield None, gap, ""


def _show_json(file: File | None, item: Found | Gap, name: str, said: Facts) -> None:
    if isinstance(item, Gap):
        output.json_line(gap_fields(item))
        return
    assert file
    fields: Facts = {
        "lsn": item.lsn, "kind": kind_name(item.kind),
        "time": output.instant(item.ms + file.segment.skew_ms), "queue": name or None,
        "size": item.size, "path": file.path, "offset": file.segment.offset(item.lsn), **said,
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

    def __init__(self, walked: Walk) -> None:
        last = walked.files[-1].segment.limit if walked.files else 0
        self._lsn = len(str(min(last, walked.view.upto)))
        self._kind = max(map(len, KINDS))

    def show(self, file: File | None, item: Found | Gap, name: str, said: Facts) -> None:
        if isinstance(item, Gap):
            output.line(f"{item.lsn:>{self._lsn}}  {'!' * 8}  {gap_line(item)}")
            return
        text = _text(item, said)
        if item.dropped:
            text = f"(not finished, left out)  {text}"
        shown = output.excerpt(name, NAME_COLUMNS_MAX) if name else "-"
        kind = kind_name(item.kind)
        assert file
        time = output.instant(item.ms + file.segment.skew_ms)
        line = f"{item.lsn:>{self._lsn}}  {time}  {kind:{self._kind}}  {shown:8}  {text}"
        output.line(line.rstrip())


def _text(item: Found, said: Facts) -> str:
    """What a record says, for a person: facts by name, a body as its size and beginning."""
    parts = [f"{key}={value}" for key, value in said.get("options", {}).items()]
    for name, value in said.items():
        if name == "messages":
            parts.append(f"message{'' if len(value) == 1 else 's'} {', '.join(map(str, value))}")
        elif name not in ("name", "options") and value not in ("", item.lsn):
            parts.append(f"{name.replace('_', ' ')} {value!r}" if name == "reason" else f"{name} {value}")
    raw = body(item)
    if raw is not None:
        start = output.body_bytes(item.flags, raw)[: 4 * BODY_COLUMNS].decode(errors="backslashreplace")
        kind = output.body_type(item.flags)
        parts += [f"{kind:9}", f"{output.size(len(raw)):>9}", output.excerpt(start, BODY_COLUMNS)]
    return "  ".join(parts)
