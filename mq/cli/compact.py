"""mq compact: reclaim the disk space of everything that is not live."""

from __future__ import annotations

import click

import mq
from mq.cli import output
from mq.cli.app import command, json_option, require_files, require_store, store_option
from mq.cli.inspect import take_census
from mq.cli.progress import Progress
from mq.delivery import records
from mq.engine.compacting import garbage_upto
from mq.storage.real_disk import RealDisk
from mq.storage.rotation import ALLOCATE_BYTES


@command(short_help="Reclaim the disk space of what is not live.")
@click.option("--dry-run", is_flag=True, help="Say how much space would be reclaimed, and change nothing.")
@json_option
@store_option
def compact(dry_run: bool, as_json: bool, store: str) -> None:
    """Copy the live records of every segment that holds garbage to the end of the log, and drop the segment.

    A store does this by itself when garbage exceeds live data; this command does not wait for
    that.  Works while other processes have the store open.  It may be interrupted at any time:
    the space that it has reclaimed stays reclaimed.

    \b
    mq compact --dry-run
    mq compact
    """
    require_files(store)
    require_store(store)
    if dry_run:
        before, after = _estimate(store)
    else:
        before, after = _compact(store)
    if as_json:
        output.json_line({
            "before_bytes": before, "after_bytes": after, "given_back_bytes": before - after,
            "dry_run": dry_run,
        })  # fmt: skip
    elif dry_run:
        output.say(f"{output.size(before)} now; about {output.size(before - after)} would be given back")
    else:
        given = output.size(before - after) if after < before else "nothing"
        output.say(f"{output.size(before)} before, {output.size(after)} after: {given} given back")


def _compact(store: str) -> tuple[int, int]:
    with mq.open(store) as broker, Progress("compacting") as progress:
        inner = broker._store
        before = inner.replica.log.reader.disk_bytes()
        inner.maintenance.compact(progress.show)
        return before, inner.replica.log.reader.disk_bytes()


def _estimate(store: str) -> tuple[int, int]:
    """Bytes of all segments now, and about how many a compaction would leave."""
    with Progress("reading") as progress:
        limit = _garbage_upto(store, progress)
    with Progress("reading") as progress:
        census = take_census(RealDisk(), store, progress)
    before = gone = moved = 0
    for file, sums in census.rows():
        before += file.size
        if file.segment.limit <= limit:
            gone += file.size
            moved += sums.live + sums.messages * records.RELOCATE_PAYLOAD.size
    grown = -(-moved // ALLOCATE_BYTES) * ALLOCATE_BYTES
    return before, before - max(0, gone - grown)


def _garbage_upto(store: str, progress: Progress) -> int:
    """Where the last segment that holds garbage ends; looked for again if one is dropped meanwhile."""
    while True:
        with mq.open(store, read_only=True) as broker:
            try:
                return garbage_upto(broker._store.replica, progress.show)
            except FileNotFoundError:
                pass
