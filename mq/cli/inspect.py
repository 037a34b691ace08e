"""mq inspect: what the log is made of, segment by segment, and whether it is whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import click

from mq.cli import output
from mq.cli.app import CORRUPT, ERROR, command, disk_at, json_option, note, store_option
from mq.delivery import fold, records
from mq.delivery.state import State
from mq.errors import CorruptStore
from mq.storage import locks, paths, record
from mq.storage.disk import Disk
from mq.storage.look import Gap, Run
from mq.storage.segment import Segment, Stretch
from mq.storage.walk import File, Walk, read

KIND_NAMES: Final = record.KIND_NAMES | records.KIND_NAMES
EVENTS: Final = frozenset(records.KINDS)
MEANINGS: Final = {
    "clean": "closed in order",
    "open": "not closed; nothing is missing",
    "torn": "a crash cut off what was not synced yet; the next open puts a fence behind the rest",
    "corrupt": "bytes that were on the disk are gone or altered; what is intact is shown",
}


@dataclass
class Sums:
    """What is in one segment; sizes in bytes."""

    kinds: Counter[str] = field(default_factory=Counter)
    records: int = 0  # bytes of all intact ones
    live: int = 0  # of messages that are not settled, and of definitions
    messages: int = 0  # live ones
    gaps: list[Gap] = field(default_factory=list)

    @property
    def damaged(self) -> int:
        return sum(gap.size for gap in self.gaps)


class Census:
    """The log counted, and folded to know which messages live."""

    walk: Walk

    def begin(self, end: int) -> None:
        self.state, self.end = State(), 0
        self.sums: defaultdict[int, Sums] = defaultdict(Sums)  # by the base of the segment

    def see(self, each: Segment | None, part: Run | Gap) -> None:
        if each is None:
            return
        sums = self.sums[each.base]
        if isinstance(part, Gap):
            sums.gaps.append(part)
            return
        kinds: Counter[int] = Counter()
        for label, count in Counter(part.stretch.labels).items():
            kinds[label & record.KIND] += count
        for kind, count in kinds.items():
            sums.kinds[kind_name(kind)] += count
        sums.records += part.end - part.start
        if not part.dropped:
            self.end = max(self.end, part.end)
            if not part.stale:
                fold.apply(self.state, [part.stretch if kinds.keys() <= EVENTS else _events_of(part.stretch)])

    def rows(self) -> Iterator[tuple[File, Sums]]:
        return ((file, self.sums[file.segment.base]) for file in self.walk.files)

    def count_live(self, walked: Walk) -> None:
        """What lives in each segment; a message may have moved to a later one than its id says."""
        self.walk, self.end = walked, max(self.end, walked.head)
        for file, sums in self.rows():
            messages, others = self.state.positions_within(file.segment.base, file.segment.limit)
            sums.messages = len(messages)
            sums.live = self.walk.size(file, messages + others)


def take_census(disk: Disk, store: str) -> Census:
    """Started over if compaction drops a segment meanwhile."""
    while True:
        census = Census()
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


@command(short_help="Show the segments of the log, and whether it is whole.")
@json_option
@store_option
@click.pass_context
def inspect(ctx: click.Context, as_json: bool, store: str) -> None:
    """Show the segments of the log, what is in each, and the verdict on the store.

    Messages that are not settled and the definitions of queues are live; all other records
    are garbage.  Writes nothing.  Works while other processes have the store open, and on a
    damaged store.  Exit code 4 if the store is corrupt.

    \b
    mq inspect
    mq inspect --json | jq 'select(.type == "damage")'
    """
    disk = disk_at(ctx, store)
    census = take_census(disk, store)
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
        "processes": processes,
        "head": walked.head,
        "end": census.end,
        "synced": walked.synced,
        "queues": census.state.size(),
        "retained": _retained(census.state),
        "messages": sum(each.messages for _, each in census.rows()),
        "live_bytes": sum(each.live for _, each in census.rows()),
        "disk_bytes": sum(file.size for file in walked.files),
    }


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
    for gap in _gaps(census):
        output.json_line({"type": "damage", **gap_fields(gap)})


def _print_text(census: Census, store: dict[str, Any]) -> None:
    verdict = store["verdict"]
    processes = ", ".join(map(str, store["processes"])) or "unknown"
    several = "es" if len(store["processes"]) > 1 else ""
    holder = f"in use by process{several} {processes}" if census.walk.view.held else ""
    output.pairs([
        ("store", store["path"]),
        ("id", store["store_id"]),
        ("verdict", f"{verdict}: {holder or MEANINGS.get(verdict, store['problem'])}"),
        ("log", f"from {store['head']:,} to {store['end']:,}, synced up to {store['synced']:,}"),
        ("messages", f"{store['messages']:,} live, in {output.count(store['queues'], 'queue')}"),
        *_retained_row(store["retained"]),
        ("bytes", f"{output.size(store['live_bytes'])} live of {output.size(store['disk_bytes'])}"),
    ])  # fmt: skip
    kinds = [name for name in KIND_NAMES.values() if any(sums.kinds[name] for _, sums in census.rows())]
    kinds += sorted({name for _, sums in census.rows() for name in sums.kinds} - set(kinds))
    header = ["base", "size", "live", "garbage", *kinds]
    rows = [
        (
            f"{file.segment.base:,}", output.size(file.size), output.size(sums.live),
            output.size(sums.records - sums.live), *(f"{sums.kinds[kind]:,}" for kind in kinds),
        )
        for file, sums in census.rows()
    ]  # fmt: skip
    if rows:
        output.line("")
        output.table(header, rows)
    gaps = _gaps(census)
    if gaps:
        output.line("")
    for gap in gaps:
        output.line(gap_line(gap))


def _retained_row(retained: dict[str, int]) -> list[tuple[str, str]]:
    if not retained:
        return []
    return [("retained", f"{sum(retained.values()):,}, of {output.count(len(retained), 'topic')}")]


def gap_line(gap: Gap) -> str:
    """A bad place on one line."""
    return f"{gap.path} at offset {gap.offset}: {output.size(gap.size)} {gap.reason}"
