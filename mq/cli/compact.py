"""mq compact: reclaim the disk space of everything that is not live."""

from __future__ import annotations

import os
from contextlib import suppress

import click

import mq
from mq.cli import output
from mq.cli.app import command, json_option, require_files, require_store, store_option
from mq.cli.inspect import Sums, take_census
from mq.cli.looking import look
from mq.cli.progress import LogProgress, Progress
from mq.delivery import records
from mq.engine.compacting import GAIN_BYTES, begun_bytes, garbage_upto
from mq.storage import paths
from mq.storage.real_disk import RealDisk
from mq.storage.rotation import ALLOCATE_BYTES
from mq.storage.walk import File


@command(short_help="Reclaim the disk space of what is not live.")
@click.option("--dry-run", is_flag=True, help="Say how much space would be reclaimed, and change nothing.")
@json_option
@store_option
def compact(dry_run: bool, as_json: bool, store: str) -> None:
    """Copy the live records of every segment that holds garbage to the end of the log, and drop the segment.

    The segment in use is left as it is if nothing would be given back: a new one has 1 MiB reserved.
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
            "before_bytes": before, "after_bytes": after, "given_back_bytes": max(0, before - after),
            "dry_run": dry_run,
        })  # fmt: skip
        return
    given = output.size(before - after) if after < before else "nothing"
    if dry_run:
        about = "about " if after < before else ""
        output.say(f"{output.size(before)} now; {about}{given} would be given back")
    else:
        output.say(f"{output.size(before)} before, {output.size(after)} after: {given} given back")


def _compact(store: str) -> tuple[int, int]:
    before = _disk_bytes(store)
    if before <= begun_bytes(0):  # as much is reserved as soon as the store is opened to be changed
        with look(store):  # an error if it is corrupt
            return before, before
    with mq.open(store) as broker, Progress("compacting") as progress:
        broker._store.maintenance.compact(progress.show, only_to_shrink=True)
    return before, _disk_bytes(store)


def _disk_bytes(store: str) -> int:
    """Of all segments; of one that another process removes just now it does not matter."""
    total = 0
    with os.scandir(paths.log(store)) as found:
        for each in found:
            with suppress(FileNotFoundError):
                total += each.stat().st_size if paths.base_of(each.name) is not None else 0
    return total


def _estimate(store: str) -> tuple[int, int]:
    """Bytes of all segments now, and about how many a compaction would leave."""
    with Progress("reading") as progress:
        limit = _garbage_upto(store, progress)
    with LogProgress("reading") as progress:
        census = take_census(RealDisk(), store, progress)
    rows = list(census.rows())
    if not rows:  # its creation was cut off
        return 0, 0
    before = sum(file.size for file, _ in rows)
    after = _after(rows, limit, census.end)
    if after + GAIN_BYTES >= before:  # then the segment in use stays as it is
        after = _after(rows, min(limit, rows[-1][0].segment.base), census.end)
    return before, after if after + GAIN_BYTES < before else before


def _after(rows: list[tuple[File, Sums]], limit: int, end: int) -> int:
    """What the log takes once all before *limit* is cleaned."""
    kept = moved = 0
    for file, sums in rows:
        if file.segment.limit > limit:
            kept += file.size
        else:
            moved += sums.live + sums.messages * records.RELOCATE_PAYLOAD.size
    last = rows[-1][0]
    if last.segment.limit <= limit:
        return kept + begun_bytes(moved)
    free = max(0, last.size - (end - last.segment.base))  # reserved, and not used yet
    return kept + -(-max(0, moved - free) // ALLOCATE_BYTES) * ALLOCATE_BYTES


def _garbage_upto(store: str, progress: Progress) -> int:
    """Where the last segment that holds garbage ends; looked for again if one is dropped meanwhile."""
    while True:
        with mq.open(store, read_only=True) as broker:
            try:
                return garbage_upto(broker._store.replica, progress.show)
            except FileNotFoundError:
                pass
