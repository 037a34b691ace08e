"""mq backup, clone, restore: a store, copied as it is at one moment."""

from __future__ import annotations

import click

import mq
from mq.cli import output
from mq.cli.app import command, json_option, require_store, store_option
from mq.cli.looking import open_to_copy
from mq.cli.params import FILE
from mq.cli.progress import Progress
from mq.engine import backup as engine

directory = click.argument("directory", metavar="DEST", type=FILE)


@command(short_help="Copy the store, or bring a copy up to date.")
@directory
@json_option
@store_option
def backup(directory: str, as_json: bool, store: str) -> None:
    """Copy the store to DEST, as it is at one moment, while programs go on using it.

    DEST is new or empty, or an earlier backup of this store: then only what is new is copied.  The
    backup is a store with the same id; to use it, put it where the store was, or `mq restore` it elsewhere.
    A store on a file system that has become read-only, as that of a failing disk, is copied as it is.

    \b
    mq backup /mnt/backup/data
    mq -s /mnt/backup/data verify
    """
    with open_to_copy(store) as broker, Progress("copying") as progress:
        engine.back_up(broker._store, directory, progress.show)
        _say(as_json, directory, broker.store_id, "a backup: it has the id of the store")


@command(short_help="Copy the store as a store of its own.")
@directory
@json_option
@store_option
def clone(directory: str, as_json: bool, store: str) -> None:
    """Copy the store to the new directory DEST, with an id of its own, while programs go on using it.

    \b
    mq clone /tmp/try-it-out
    """
    with open_to_copy(store) as broker, Progress("copying") as progress:
        made = engine.clone(broker._store, directory, progress.show)
    _say(as_json, directory, made, "a store of its own")


@command(short_help="Make the store of a backup.")
@click.argument("backup", metavar="BACKUP", type=FILE)
@json_option
@store_option
def restore(backup: str, as_json: bool, store: str) -> None:
    """Copy BACKUP to where the store is to be, with an id of its own.

    The store's directory is new or empty.  The backup is not changed.  To go on under the id of the
    store that it was made of, copy the files of the backup there instead.

    \b
    mq restore /mnt/backup/data -s data
    """
    require_store(backup)
    with mq.open(backup, read_only=True) as broker, Progress("copying") as progress:
        made = engine.clone(broker._store, store, progress.show)
    _say(as_json, store, made, "a store of its own")


def _say(as_json: bool, directory: str, store_id: str, what: str) -> None:
    if as_json:
        output.json_line({"path": directory, "store_id": store_id})
    else:
        output.say(f"{output.escape(output.plain(directory))} is {what}, {store_id}")
