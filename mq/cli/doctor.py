"""mq doctor: what is wrong with the store, or will be, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import click

from mq.cli import output
from mq.cli.app import CORRUPT, ERROR, NO_STORE, as_named, command, json_option, require_files, store_option
from mq.cli.checks import clock, files, limits, mount, opening, processes, queues, rights, space
from mq.cli.checks.finding import Finding, Severity
from mq.cli.checks.subject import Subject, examined
from mq.errors import MqError, StorageError
from mq.storage import paths
from mq.storage.explain import explain, pass_on, storage_error
from mq.storage.real_disk import RealDisk

CHECKS: Final[dict[str, Callable[[Subject], Iterator[Finding]]]] = {
    "whether it opens": opening.check,
    "its processes": processes.check,
    "room on the disk": space.check,
    "the clock": clock.check,
    "the file system": mount.check,
    "the limits": limits.check,
    "its files": files.check,
    "owners and modes": rights.check,
    "its queues": queues.check,
}  # fmt: skip
COLOURS: Final[dict[Severity, str]] = {"error": output.RED, "warning": output.YELLOW, "note": ""}
INDENT: Final = 9
OWN: Final = paths.NAMES - {"lost+found"} | {paths.FORMAT}


@command(short_help="Say what is wrong with the store, or will be, and what to do.")
@json_option
@store_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, store: str) -> None:
    """Look at all that may go wrong around a store, and say what to do about what is found.

    Processes that are stopped or stuck, the disk and its file system, the clock, limits, files, copies,
    owners, checkpoints, dead letters, and queues that stand still.  Of the log it reads what an opening
    does: `mq verify` reads all of it.

    Writes nothing.  Works while other processes have the store open, without the right to write, and on a
    store that does not open.  Exit code 0 if there is nothing to look at (notes do not count), 1 if there
    is, 4 if the store is corrupt.

    \b
    mq doctor
    mq doctor --json | jq -r 'select(.severity == "error") | .what'
    """
    require_files(store)
    with explain(store):
        if not RealDisk().exists(store):
            raise StorageError(store, NO_STORE)
    with explain(store):
        disk = RealDisk()
        ctx.call_on_close(partial(disk.close, disk.anchor(store)))
        _require_some(disk, store)
        with examined(disk, store) as subject:
            found = sorted(_findings(subject), key=lambda each: list(COLOURS).index(each.severity))
    counts = Counter(each.severity for each in found)
    if as_json:
        for each in found:
            output.json_line({"type": "finding", **each._asdict()})
        output.json_line({
            "type": "store", "path": paths.absolute(store), "opens": subject.problem is None,
            "processes": subject.pids, **{f"{name}s": counts[name] for name in COLOURS},
        })  # fmt: skip
    else:
        _print(found, counts)
    if code := _exit_code(found):
        output.flush()
        ctx.exit(code)


def _require_some(disk: RealDisk, store: str) -> None:
    """StorageError if there is nothing of a store, not even of one that was begun."""
    if not OWN & set(disk.names(store)):
        raise StorageError(store, NO_STORE)


def _findings(subject: Subject) -> Iterator[Finding]:
    for what, check in CHECKS.items():
        try:
            yield from check(subject)
        except (MqError, OSError) as error:
            if isinstance(error, OSError):
                pass_on(error)
                error = storage_error(subject.path, error)
            yield Finding("unchecked", "warning", f"{what} cannot be looked at: {error}", "see what it says")


def _exit_code(found: list[Finding]) -> int:
    if any(each.name in ("corrupt", "format-missing") for each in found):
        return CORRUPT
    return ERROR if any(each.severity != "note" for each in found) else 0


def _print(found: list[Finding], counts: Counter[Severity]) -> None:
    columns = output.columns()
    room = None if columns is None else columns - INDENT
    for each in found:
        where = f" [{as_named(output.plain(each.path))}]" if each.path else ""
        label = output.painted(each.severity, COLOURS[each.severity]) if COLOURS[each.severity] else "note"
        texts = map(output.escape, (each.what + where, f"→ {each.advice}"))
        first, *others = [part for text in texts for part in output.wrapped(text, room)]
        output.line(f"{label}{' ' * (INDENT - len(each.severity))}{first}")
        for part in others:
            output.line(" " * INDENT + part)
    parts = [output.count(counts[name], name) for name in COLOURS if counts[name]]
    output.say(", ".join(parts) if parts else f"nothing to look at: {', '.join(CHECKS)}")
