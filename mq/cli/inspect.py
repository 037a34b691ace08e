"""mq inspect: what the log is made of, by segment, kind and queue; which processes use it; is it whole?"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

import click
import msgspec

from mq.cli import output
from mq.cli.app import CORRUPT, ERROR, command, disk_at, json_option, note, store_option
from mq.cli.progress import LogProgress
from mq.delivery import fold, records
from mq.delivery.options import ASIDE_KEY, TOPIC_KEY
from mq.delivery.queue import QueueState
from mq.delivery.state import EXCHANGE, State
from mq.errors import CorruptStore
from mq.storage import locks, paths, record
from mq.storage.disk import Disk
from mq.storage.look import Gap, Run
from mq.storage.proc import command_of
from mq.storage.segment import Scan, Segment, Stretch
from mq.storage.walk import File, Walk, read

KIND_NAMES: Final = record.KIND_NAMES | records.KIND_NAMES
EVENTS: Final = frozenset(records.KINDS)
QUEUE_SHIFT: Final = 16  # in a record's label: see record.py
TOPICS: Final = "(topics)"  # records of several queues, and what topics retain
DELETED: Final = "(deleted)"
COMMAND_COLUMNS: Final = 100
SPARE: Final = ["made", "garbage"]  # of a segment, on a narrow terminal
MEANINGS: Final = {
    "clean": "closed in order",
    "open": "not closed; nothing is missing",
    "torn": "a crash cut off what was not synced yet; the next open puts a fence behind the rest",
    "corrupt": "bytes that were on the disk are gone or altered; what is intact is shown",
}


class Sums(msgspec.Struct):
    """What is in one segment; sizes in bytes."""

    kinds: Counter[str] = msgspec.field(default_factory=Counter)
    records: int = 0  # bytes of all intact ones
    live: int = 0  # of messages that are not settled, and of definitions
    messages: int = 0  # live ones
    gaps: list[Gap] = []

    @property
    def damaged(self) -> int:
        return sum(gap.size for gap in self.gaps)


class Census:
    """The log counted, and folded to know which messages live."""

    walk: Walk
    oldest: Oldest | None  # the message that lives in a queue

    def __init__(self, progress: LogProgress) -> None:
        self._progress = progress

    def begin(self, end: int) -> None:
        self.state, self.end = State(), 0
        self._progress.begin(end)
        self.sums: defaultdict[int, Sums] = defaultdict(Sums)  # by the base of the segment
        self.kinds: defaultdict[int, Counter[int]] = defaultdict(Counter)  # of events, by the queue's number

    def see(self, each: Segment | None, part: Run | Gap) -> None:
        if each is None:
            return
        sums = self.sums[each.base]
        if isinstance(part, Gap):
            sums.gaps.append(part)
            return
        kinds: Counter[int] = Counter()
        for label, count in Counter(part.stretch.labels).items():
            kind = label & record.KIND
            kinds[kind] += count
            if kind in EVENTS:
                self.kinds[label >> QUEUE_SHIFT][kind] += count
        for kind, count in kinds.items():
            sums.kinds[kind_name(kind)] += count
        sums.records += part.end - part.start
        if not part.stale:
            self._progress.read(part.start, part.end)
        if not part.dropped:
            self.end = max(self.end, part.end)
            if not part.stale:
                fold.apply(self.state, [part.stretch if kinds.keys() <= EVENTS else _events_of(part.stretch)])

    def of_queues(self) -> Iterator[tuple[str, int, Counter[str]]]:
        """For each queue its name, how many messages live in it, and how many records there are of it."""
        found: dict[str, tuple[int, Counter[str]]] = {name: (0, Counter()) for name in self.state.names()}
        for number, kinds in self.kinds.items():
            queue = self.state.queue(number)
            name = TOPICS if number == EXCHANGE else queue.name if queue else DELETED
            if name.startswith(TOPIC_KEY):
                name = f"(topic) {name.removeprefix(TOPIC_KEY)}"
            elif name.startswith(ASIDE_KEY):
                name = f"(being filled) {name.removeprefix(ASIDE_KEY)}"
            live, counted = found.get(name, (0, Counter[str]()))
            counted.update({kind_name(kind): count for kind, count in kinds.items()})
            found[name] = live + (queue.total() if queue else 0), counted
        for name, (live, counted) in sorted(found.items()):
            yield name, live, counted

    def _find_oldest(self) -> Oldest | None:
        firsts = [
            (id, name) for name in self.state.names()
            if (queue := self.state.named(name)) and (id := _first(queue)) is not None
        ]  # fmt: skip
        if not firsts:
            return None
        id, name = min(firsts)
        queue = self.state.named(name)
        position = queue.position(id) if queue else None
        return Oldest(id, name, None if position is None else self._created_ms(position))

    def _created_ms(self, position: int) -> int | None:
        """When the message was published whose record is there; None if it is damaged."""
        holding = [file for file in self.walk.files if position in range(file.segment.base, file.stop)]
        if not holding:
            return None
        file, disk = holding[0], self.walk.disk
        fd = disk.open(file.path)
        try:
            scan = Scan(disk, fd, file.segment, position, file.stop, file.path, whole=file.stop)
            stretch = next(iter(scan), None)
        finally:
            disk.close(fd)
        if stretch is None or stretch.lsns[0] != position:
            return None
        _, kind, _, _, ms, buffer, start, _ = stretch.part(0, 1).events()[0]
        return records.created_ms(
            kind, file.segment.wall_ms + ms, lambda size: buffer[start : start + size][:]
        )  # fmt: skip

    def rows(self) -> Iterator[tuple[File, Sums]]:
        return ((file, self.sums[file.segment.base]) for file in self.walk.files)

    def count_live(self, walked: Walk) -> None:
        """What lives in each segment; a message may have moved to a later one than its id says."""
        self.walk, self.end = walked, max(self.end, walked.head)
        for file, sums in self.rows():
            messages, others = self.state.positions_within(file.segment.base, file.segment.limit)
            sums.messages = len(messages)
            sums.live = self.walk.size(file, messages + others)
        self.oldest = self._find_oldest()


class Oldest(NamedTuple):
    id: int
    queue: str
    created_ms: int | None  # wall time


def _first(queue: QueueState) -> int | None:
    """The oldest id in a queue."""
    lanes = (queue.waiting, *queue.lanes.values())
    firsts = [id for lane in lanes for id in lane.first(1)]
    return min([*firsts, *queue.delayed, *queue.flights], default=None)


def take_census(disk: Disk, store: str, progress: LogProgress) -> Census:
    """Started over if compaction drops a segment meanwhile."""
    while True:
        census = Census(progress)
        walked = read(disk, store, records.NEW, census)
        try:
            census.count_live(walked)
            return census
        except FileNotFoundError:
            if not walked.view.held:
                raise


def _events_of(stretch: Stretch) -> Stretch:
    """Without the records of storage, and those that this mq does not know."""
    return stretch.where([label & record.KIND in EVENTS for label in stretch.labels])


def kind_name(kind: int) -> str:
    return KIND_NAMES.get(kind, f"kind {kind}")


def exit_code(walked: Walk) -> int:
    if isinstance(walked.problem, CorruptStore):
        return CORRUPT
    return ERROR if walked.problem else 0


@command(short_help="Show what the log is made of, and whether it is whole.")
@json_option
@store_option
@click.pass_context
def inspect(ctx: click.Context, as_json: bool, store: str) -> None:
    """Show the verdict on the store, its segments, its records by kind and by queue, and who has it open.

    Messages that are not settled and the definitions of queues are live; all other records
    are garbage.  Writes nothing.  Works while other processes have the store open, and on a
    damaged store.  Exit code 4 if the store is corrupt.

    \b
    mq inspect
    mq inspect --json | jq 'select(.type == "damage")'
    """
    disk = disk_at(ctx, store)
    with LogProgress("reading") as progress:
        census = take_census(disk, store, progress)
    walked = census.walk
    rows = _store_fields(census, store, locks.present(disk, store))
    if as_json:
        _print_json(census, rows)
    else:
        _print_text(census, rows)
    code = exit_code(walked)
    if code:
        output.flush()
        note(str(walked.problem))
        ctx.exit(code)


def _store_fields(census: Census, store: str, processes: list[int]) -> dict[str, Any]:
    walked = census.walk
    return {
        "path": paths.absolute(store),
        "store_id": walked.identity.store_id,
        "verdict": walked.verdict,
        "problem": str(walked.problem) if walked.problem else None,
        "processes": [{"pid": pid, "command": command_of(pid)} for pid in processes],
        "head": walked.head,
        "end": census.end,
        "synced": walked.synced,
        "queues": len(census.state.names()),
        "retained": _retained(census.state),
        "oldest": _oldest_fields(census.oldest),
        "messages": sum(each.messages for _, each in census.rows()),
        "live_bytes": sum(each.live for _, each in census.rows()),
        "disk_bytes": sum(file.size for file in walked.files),
    }


def _oldest_fields(oldest: Oldest | None) -> dict[str, Any] | None:
    if oldest is None:
        return None
    created = None if oldest.created_ms is None else output.instant(oldest.created_ms)
    return {"id": oldest.id, "queue": oldest.queue, "created_at": created}


def _retained(state: State) -> dict[str, int]:
    """How many messages are there of each topic that retains some."""
    return {name: held.total() for name in sorted(state.topics()) if (held := state.topic(name))}


def _gaps(census: Census) -> list[Gap]:
    return sorted(
        chain(census.walk.missing, *(sums.gaps for _, sums in census.rows())),
        key=lambda gap: (gap.lsn, gap.offset),
    )


def gap_fields(gap: Gap) -> dict[str, Any]:
    """A bad place as one JSON object."""
    kind = "torn" if gap.torn else "damage"
    return {
        "path": gap.path, "offset": gap.offset, "lsn": gap.lsn, "size": gap.size, "kind": kind,
        "reason": gap.reason,
    }  # fmt: skip


def _print_json(census: Census, store: dict[str, Any]) -> None:
    output.json_line({"type": "store", **store})
    for file, sums in census.rows():
        each = file.segment
        output.json_line({
            "type": "segment", "path": file.path, "number": each.number, "base": each.base,
            "capacity": each.capacity, "created_at": output.instant(each.wall_ms), "size": file.size,
            "records": dict(sums.kinds), "messages": sums.messages, "live_bytes": sums.live,
            "garbage_bytes": sums.records - sums.live, "damaged_bytes": sums.damaged,
        })  # fmt: skip
    for name, live, counted in census.of_queues():
        output.json_line({"type": "queue", "queue": name, "messages": live, "records": dict(counted)})
    for gap in _gaps(census):
        output.json_line({"type": "damage", **gap_fields(gap)})


def _print_text(census: Census, store: dict[str, Any]) -> None:
    verdict = store["verdict"]
    count = len(store["processes"])
    holder = f"in use by {output.count(count, 'process', 'processes')}" if census.walk.view.held else ""
    meaning = f"{verdict}: {holder or MEANINGS.get(verdict, store['problem'])}"
    output.pairs([
        ("store", store["path"]),
        ("id", store["store_id"]),
        ("verdict", output.coloured(meaning, output.RED) if store["problem"] else meaning),
        ("log", f"from {store['head']:,} to {store['end']:,}, synced up to {store['synced']:,}"),
        ("messages", f"{store['messages']:,} live, in {output.count(store['queues'], 'queue')}"),
        *_oldest_row(census.oldest),
        *_retained_row(store["retained"]),
        ("bytes", f"{output.size(store['live_bytes'])} live of {output.size(store['disk_bytes'])}"),
    ])  # fmt: skip
    for title, header, rows, left in (_segments(census), _kinds(census), _queues(census), _holders(store)):
        if rows:
            output.line("")
            output.line(output.painted(title, output.BOLD))
            output.table(header, rows, left, left, spare=SPARE)
    gaps = _gaps(census)
    if gaps:
        output.line("")
        output.line(output.painted("Damage", output.BOLD))
    for gap in gaps:
        output.say(gap_line(gap), 2, colour=output.YELLOW if gap.torn else output.RED)


Table = tuple[str, list[str], list[list[str]], list[str]]
"""A title, the names of the columns, the rows, and the columns that stand to the left."""


def _segments(census: Census) -> Table:
    rows = [
        [
            f"{file.segment.base:,}", output.size(file.size), output.size(sums.live),
            output.size(sums.records - sums.live), output.size(sums.damaged) if sums.damaged else "",
            f"{sums.kinds.total():,}", output.instant(file.segment.wall_ms),
        ]
        for file, sums in census.rows()
    ]  # fmt: skip
    return "Segments", ["begin", "size", "live", "garbage", "damaged", "records", "made"], rows, []


def _kinds(census: Census) -> Table:
    total: Counter[str] = sum((sums.kinds for _, sums in census.rows()), Counter())
    names = [name for name in KIND_NAMES.values() if name in total]
    names += sorted(set(total) - set(names))
    return "Records by kind", ["kind", "records"], [[name, f"{total[name]:,}"] for name in names], ["kind"]


def _queues(census: Census) -> Table:
    rows = []
    for name, live, counted in census.of_queues():
        which = ", ".join(f"{count:,} {kind}" for kind, count in counted.most_common())
        rows.append([output.escape(name), f"{live:,}", f"{counted.total():,}", which])
    return "Records by queue", ["queue", "live", "records", "kinds"], rows, ["queue", "kinds"]


def _holders(store: dict[str, Any]) -> Table:
    rows = [
        [str(each["pid"]), output.excerpt(each["command"] or "-", COMMAND_COLUMNS)]
        for each in store["processes"]
    ]
    return "Processes that have it open", ["pid", "command"], rows, ["command"]


def _oldest_row(oldest: Oldest | None) -> list[tuple[str, str]]:
    if oldest is None:
        return []
    text = f"message {oldest.id} in {oldest.queue}"
    if oldest.created_ms is not None:
        age = output.duration(max(0.0, time.time() - oldest.created_ms / 1000))
        text += f", published {output.instant(oldest.created_ms)}, {age} ago"
    return [("oldest", text)]


def _retained_row(retained: dict[str, int]) -> list[tuple[str, str]]:
    if not retained:
        return []
    return [("retained", f"{sum(retained.values()):,}, of {output.count(len(retained), 'topic')}")]


def gap_line(gap: Gap) -> str:
    """A bad place on one line."""
    return f"{gap.path} at offset {gap.offset}: {output.size(gap.size)} {gap.reason}"
