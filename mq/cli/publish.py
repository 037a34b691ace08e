"""mq publish: store messages, from arguments or one a line from standard input."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final

import click
import msgspec

import mq
from mq.cli import output
from mq.cli.app import USAGE, Failure, command, json_option, note, store_option
from mq.cli.progress import Progress
from mq.cli.signals import Interrupts
from mq.engine.bodies import BODY_BYTES_MAX, encode_body
from mq.engine.names import check_name
from mq.errors import MqError, StoreFailed, UsageError
from mq.storage import paths

BOM: Final = b"\xef\xbb\xbf"  # with which some systems begin a file of text
CHUNK_BYTES: Final = 256 << 10  # what is read at once is published at once, with one fsync


class BadLine(Exception):
    """A message that cannot be published as it is."""


@command(short_help="Store messages.")
@click.argument("queue")
@click.argument("messages", nargs=-1, metavar="[MESSAGE]...")
@click.option(
    "-a", "--as", "kind", type=click.Choice(["auto", "text", "json", "bytes"]), default="auto",
    help="auto: a JSON object or array becomes a structure, all else is text.  json: all is JSON."
    "  text, bytes: each is stored as it is.  [default: auto]",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Do not print ids.")
@json_option
@store_option
def publish(queue: str, messages: tuple[str, ...], kind: str, quiet: bool, as_json: bool, store: str) -> None:
    """Store each MESSAGE and print its id.  Without MESSAGE, store each line of standard input.

    When an id is printed, its message is on the disk.  The command stops at a line that
    cannot be stored; the lines before it are published, and the error says how many.  With
    --as json, blank lines are skipped.  The store and the queue are made if they are missing.

    A JSON object or array is stored as a structure, as a program would publish a dict or a
    list, and standard error says how many were.

    \b
    mq publish mail '{"to": "ada@example.org"}'
    mq publish notes 'hello' 'world'
    mq publish hooks --as json < hooks.ndjson
    tail -f access.log | mq publish lines -q
    """
    check_name(queue)  # before a store is made for it
    made = not os.path.exists(paths.format_file(store))
    with mq.open(store) as broker, Interrupts() as interrupts:
        if made:
            note(f"created the store {broker.path}")
        target = broker.queue(queue)
        if messages:
            bodies = [_argument(each, kind) for each in messages]
            ids = target.publish_many(bodies)
            try:
                _print_ids(queue, ids, quiet, as_json, interrupts)
            except KeyboardInterrupt:
                note(f"{output.count(len(ids), 'message')} published to {queue}: all of them")
                raise
            structures = sum(map(_is_structure, bodies))
            total = len(ids)
        else:
            total, structures = _publish_lines(target, kind, quiet, as_json, interrupts)
        if structures and kind == "auto" and not quiet:
            note(_told_structures(structures, total))


def _argument(message: str, kind: str) -> object:
    try:
        return parse(os.fsencode(message), kind)
    except BadLine as error:
        raise Failure(f"{output.excerpt(message, 40)!r}: {error}", USAGE) from None


def _is_structure(body: object) -> bool:
    return not isinstance(body, (str, bytes))


def _told_structures(structures: int, total: int) -> str:
    which = (
        "" if total == 1 else f"all {total:,} " if structures == total else f"{structures:,} of {total:,} "
    )
    what = "a JSON structure" if structures == 1 else "JSON structures"
    return f"{which}stored as {what}; --as text stores what is there as it is"


def parse(raw: bytes, kind: str) -> object:
    """The body that *raw* stands for; BadLine if there is none."""
    if len(raw) > BODY_BYTES_MAX:
        raise BadLine(
            f"longer than {BODY_BYTES_MAX:,} bytes; store the data elsewhere and publish where it is"
        )
    try:
        if kind == "json":
            body = msgspec.json.decode(raw.removeprefix(BOM))
            encode_body(body)  # JSON has numbers that no structure can hold
            return body
        if kind == "auto" and (structure := _structure(raw)) is not None:
            return structure
        return raw if kind == "bytes" else raw.decode()
    except UnicodeDecodeError as error:
        raise BadLine(f"not UTF-8 at byte {error.start}; --as bytes stores it as it is") from None
    except UsageError as error:
        raise BadLine(str(error)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadLine(f"not JSON ({error}); --as text stores it as it is") from None


def _structure(raw: bytes) -> object:
    """The object or array that *raw* is in JSON; None if it is anything else."""
    if raw.lstrip()[:1] not in (b"{", b"["):
        return None
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError, UsageError):
        body = msgspec.json.decode(raw)
        encode_body(body)  # JSON has numbers that no structure can hold
        return body
    return None


def _publish_lines(
    target: mq.Queue[Any], kind: str, quiet: bool, as_json: bool, interrupts: Interrupts
) -> tuple[int, int]:
    """How many were published, and how many of them as structures.

    The lines of one read are one batch: no line waits for a batch to fill up.
    """
    if sys.stdin is None:
        raise Failure("standard input is closed; give messages as arguments, or redirect a file", USAGE)
    source = sys.stdin.buffer
    if source.isatty():
        note("reading messages from the terminal, one a line; Ctrl-D ends")
    count = published = structures = 0
    late = array("Q")
    size_of_all = _size(source) or 0
    progress = Progress(
        "publishing", size_of_all, "" if size_of_all else "message", hidden=output.is_terminal(source)
    )
    with progress:
        try:
            for lines, size in _batches(source, interrupts):
                bodies, problem = _parse_lines(lines, kind)
                try:
                    ids = target.publish_many(bodies)
                except StoreFailed:
                    last = count + (problem[0] if problem else len(lines))
                    note(_look_first(target.name, count + 1, last, published))
                    raise
                except MqError:
                    note(_go_on(count + 1, published))
                    raise
                published += len(ids)
                structures += sum(map(_is_structure, bodies))
                if progress.is_possible and output.is_terminal():
                    late.extend(ids)  # bar and ids would go to the same terminal: ids afterwards
                else:
                    _print_ids(target.name, ids, quiet, as_json, interrupts)
                if problem:
                    line = count + problem[0] + 1
                    raise Failure(f"line {line:,}: {problem[1]}; {_go_on(line, published)}")
                count += len(lines)
                progress.add(size if size_of_all else len(ids))
        except KeyboardInterrupt:
            note(f"{output.count(published, 'message')} published to {target.name} before the interruption")
            raise
        finally:
            _print_ids(target.name, late, quiet, as_json, interrupts)
    if progress.is_possible:
        note(f"{output.count(published, 'message')} published to {target.name}")
    return published, structures


def _go_on(line: int, published: int) -> str:
    return f"all before line {line:,} is published ({output.count(published, 'message')}); go on from there"


def _look_first(queue: str, first: int, last: int, published: int) -> str:
    """The error if it is unknown whether the lines from *first* to *last* are stored."""
    which = f"line {first:,} is" if first == last else f"lines {first:,} to {last:,} are"
    name = shlex.quote(queue)
    return (
        f"all before line {first:,} is published ({output.count(published, 'message')}); whether {which}"
        f" is open, and going on from there might store them twice: look first (mq peek {name}, or"
        f" mq dump --queue {name} --kind publish)"
    )


def _parse_lines(lines: list[bytes], kind: str) -> tuple[list[object], tuple[int, str] | None]:
    """The bodies up to the first bad line; its index, and what is wrong with it."""
    bodies: list[object] = []
    for index, line in enumerate(lines):
        if kind == "json" and not line.strip():
            continue
        try:
            bodies.append(parse(line, kind))
        except BadLine as error:
            return bodies, (index, str(error))
    return bodies, None


def _batches(source: BinaryIO, interrupts: Interrupts) -> Iterator[tuple[list[bytes], int]]:
    """The lines that came in one read, without their ends, and how many bytes were read."""
    parts: list[bytes] = []
    held = size = 0
    while True:
        with interrupts.allowed():
            chunk = source.read1(CHUNK_BYTES)  # type: ignore[attr-defined]
        if not chunk:
            break
        size += len(chunk)
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines:
            lines[0] = b"".join([*parts, lines[0]])
            yield lines, size
            parts, held, size = [], 0, 0
        parts.append(rest)
        held += len(rest)
        if held > BODY_BYTES_MAX:
            break  # too long already: not to be kept in memory until its end
    if last := b"".join(parts):
        yield [last], size


def _print_ids(queue: str, ids: Iterable[int], quiet: bool, as_json: bool, interrupts: Interrupts) -> None:
    if quiet:
        return
    with interrupts.allowed():
        for id in ids:
            if as_json:
                output.json_line({"queue": queue, "id": id})
            else:
                output.line(str(id))
        output.flush()


def _size(source: BinaryIO) -> int | None:
    """The bytes still to be read from *source*, if it is a file."""
    try:
        facts = os.fstat(source.fileno())
        return max(1, facts.st_size - source.tell()) if stat.S_ISREG(facts.st_mode) else None
    except (OSError, ValueError):
        return None
