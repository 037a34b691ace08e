"""mq repair: make a damaged store whole again."""

from __future__ import annotations

import click

from mq.cli import output
from mq.cli.app import command, json_option, note, require_directory, store_option
from mq.cli.names import Lost, were_for
from mq.cli.progress import Progress
from mq.delivery import records
from mq.delivery.decode import refusals
from mq.storage import repair as mending
from mq.storage.real_disk import RealDisk


@command(short_help="Make a damaged store whole; lose only what is damaged.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@json_option
@store_option
def repair(dry_run: bool, as_json: bool, store: str) -> None:
    """Write a LOST record over each damaged place, so that the store opens again.

    Everything that is intact stays where it is.  The damaged bytes are copied to quarantine/
    in the store first.  Prints each place: file, offset, size, the messages that may be
    lost with it, the queues that had them from a topic, and the copy.  No process may have
    the store open.

    \b
    mq verify
    mq repair --dry-run
    mq repair
    """
    require_directory(store)
    disk = RealDisk()
    lost = Lost(disk, store)
    with Progress("reading") as progress:
        losses = mending.repair(
            disk, store, records.NEW, lost, refusals, dry_run=dry_run, show=progress.show
        )  # fmt: skip
    for loss in losses:
        queues = lost.queues(loss.ids)
        if as_json:
            fields = loss._asdict() | {"ids": list(loss.ids), "queues": queues, "copy": loss.copy or None}
            output.json_line({"type": "lost", **fields, "dry_run": dry_run})
        else:
            said = loss._replace(copy="") if dry_run else loss
            output.say(str(said) + were_for(queues), 2)
    output.flush()
    if not losses:
        note("nothing is damaged; nothing was changed")
    elif dry_run:
        note(f"{output.count(len(losses), 'place')} to be repaired; nothing was changed")
    else:
        note(f"{output.count(len(losses), 'place')} repaired; the store opens again")
