"""mq publish: store messages, from arguments or one a line from standard input."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

import click
import msgspec
from click.core import ParameterSource

import mq
from mq.api.options import new_message
from mq.cli import envelope, output, stdin
from mq.cli.app import USAGE, Failure, command, note, store_option
from mq.cli.envelope import BadLine
from mq.cli.looking import open_or_make
from mq.cli.params import DURATION, INSTANT, PAIR, QUEUE
from mq.cli.progress import Progress
from mq.cli.signals import Interrupts
from mq.engine.bodies import BODY_BYTES_MAX, encode_body
from mq.engine.names import check_name
from mq.errors import MqError, StoreFailed, UsageError

BOM: Final = b"\xef\xbb\xbf"  # with which some systems begin a file of text
F = TypeVar("F", bound=Callable[..., Any])
ENVELOPE_BYTES_MAX: Final = 8 * BODY_BYTES_MAX  # a line of JSON: its body may be in escapes, or in base64
CHUNK_BYTES: Final = 256 << 10  # what is read at once is published at once, with one fsync


class Way(NamedTuple):
    """How what is given becomes messages, and where they go."""

    name: str  # of the queue or topic, for what is said
    send: Callable[[Sequence[object]], list[int]]
    read: Callable[[bytes], object]  # BadLine if it is no message
    end: bytes  # of each, on standard input
    line_bytes_max: int
    is_told: bool  # say how many structures there were
    skips_blank: bool


def as_option(function: F) -> F:
    return click.option(
        "-a", "--as", "kind", type=click.Choice(["auto", "text", "json", "bytes"]), default="auto",
        help="auto: a JSON object or array becomes a structure, all else is text.  json: all is JSON."
        "  text, bytes: stored as it is.  [default: auto]",
    )(function)  # fmt: skip


OPTIONS: Final = (
    click.option("-p", "--priority", type=click.IntRange(0, 255), metavar="N", help="0 to 255.  [0]"),
    click.option("--delay", type=DURATION, metavar="SECONDS", help="Until it is ready; as 90s, 5m, 2h."),
    click.option("--at", type=INSTANT, metavar="TIME", help="When it is ready; as 2030-01-31T06:30+01:00."),
    click.option("--ttl", type=DURATION, metavar="SECONDS", help="After which it expires, if it waits."),
    click.option("--group", metavar="GROUP", help="One of a group is in flight at a time, in order."),
    click.option("--dedup-id", metavar="ID", help="Seen already: nothing is stored.  For one MESSAGE."),
    click.option("-H", "--header", type=PAIR, multiple=True, metavar="KEY=VALUE", help="May be repeated."),
    click.option("--timeout", type=DURATION, metavar="SECONDS", help="To wait for room in a full queue."),
)
FROM: Final = (
    as_option,
    click.option("-0", "--null", is_flag=True, help="Read messages that end with a NUL, not lines."),
    click.option("-q", "--quiet", is_flag=True, help="Do not print ids."),
    click.option(
        "--json", "as_json", is_flag=True,
        help="Print ids as JSON.  Without MESSAGE and --as: read what `mq receive --json` prints.",
    ),
    store_option,
)  # fmt: skip


def publish_options(function: F) -> F:
    for option in reversed((*OPTIONS, *FROM)):
        function = option(function)
    return function


@command(short_help="Store messages.")
@click.argument("queue", type=QUEUE)
@click.argument("messages", nargs=-1, metavar="[MESSAGE]...")
@publish_options
@click.pass_context
def publish(
    ctx: click.Context, /, queue: str, messages: tuple[str, ...], store: str, **given: Any
) -> None:  # fmt: skip
    """Store each MESSAGE and print its id.  Without MESSAGE, store each line of standard input.

    When an id is printed, its message is on the disk.  The command stops at a line that
    cannot be stored; the lines before it are published, and the error says how many.

    --json reads what `mq receive --json` prints, and stores the same body, headers, priority, group
    and time to live; options given here come before those.

    \b
    mq publish mail '{"to": "ada@example.org"}'
    mq publish mail hello --priority 9 --delay 5m --header source=shop
    mq publish hooks --as json < hooks.ndjson
    tail -f access.log | mq publish lines -q
    """
    check_name(queue)  # before a store is made for it

    def to_queue(broker: mq.Broker, options: dict[str, Any]) -> Callable[[Sequence[object]], list[int]]:
        target = broker.queue(queue)
        if "dedup_id" in options:
            return lambda bodies: [target.publish(body, **options) for body in bodies]
        return lambda bodies: target.publish_many(bodies, **options)

    publish_all(ctx, queue, messages, store, to_queue, **given)


Target = Callable[[mq.Broker, dict[str, Any]], Callable[[Sequence[object]], list[int]]]


def publish_all(
    ctx: click.Context, name: str, messages: tuple[str, ...], store: str, target: Target, *, kind: str,
    null: bool, quiet: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Publish arguments or lines to what *target* makes of the broker and the options."""
    given = {key: value for key, value in options.items() if value not in (None, ())}
    if "header" in given:
        given["headers"] = dict(given.pop("header"))
    if "delay" in given and "at" in given:
        raise click.UsageError("--delay and --at say the same: give one of them")
    if "dedup_id" in given and len(messages) != 1:
        raise click.UsageError("--dedup-id is of one message: give one MESSAGE")
    new_message(name, 0, b"", **given)  # before a store is made for it
    is_set = ctx.get_parameter_source("kind") is not ParameterSource.DEFAULT
    read: Callable[[bytes], object] = partial(parse, kind=kind)
    most = BODY_BYTES_MAX
    if as_json and not messages and not is_set:
        read = partial(envelope.read, given=given)
        kind, most = "json", ENVELOPE_BYTES_MAX
    bodies = [argument(each, kind) for each in messages]
    with open_or_make(store) as broker, Interrupts() as interrupts:
        way = Way(
            name, target(broker, given), read, b"\0" if null else b"\n", most,
            kind == "auto" and not quiet, kind == "json",
        )  # fmt: skip
        if messages:
            ids = way.send(bodies)
            try:
                _print_ids(name, ids, quiet, as_json, interrupts)
            except KeyboardInterrupt:
                note(f"{output.count(len(ids), 'message')} published to {name}: all of them")
                raise
            except (BrokenPipeError, output.OutputFailed):
                note(_without_ids(name, len(ids)))
                raise
            structures = sum(map(_is_structure, bodies))
            total = len(ids)
        else:
            total, structures = _publish_lines(way, quiet, as_json, interrupts)
        if structures and way.is_told:
            note(_told_structures(structures, total))


def argument(message: str, kind: str) -> object:
    """The body that an argument stands for."""
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


def _publish_lines(way: Way, quiet: bool, as_json: bool, interrupts: Interrupts) -> tuple[int, int]:
    """How many were published, and how many of them as structures.

    The lines of one read are one batch: no line waits for a batch to fill up.
    """
    if sys.stdin is None:
        raise Failure("standard input is closed; give messages as arguments, or redirect a file", USAGE)
    source = stdin.stream()
    if source.isatty():
        note("reading messages from the terminal, one a line; Ctrl-D ends")
    count = published = structures = 0
    late = array("Q")
    size_of_all = size_of(source) or 0
    progress = Progress(
        "publishing", size_of_all, "" if size_of_all else "message", hidden=output.is_terminal(source)
    )
    with progress:
        try:
            for lines, size in _batches(source, way, interrupts):
                bodies, problem = _parse_lines(lines, way)
                try:
                    ids = way.send(bodies)
                except StoreFailed:
                    last = count + (problem[0] if problem else len(lines))
                    note(_look_first(way.name, count + 1, last, published))
                    raise
                except MqError:
                    note(_go_on(count + 1, published))
                    raise
                published += len(ids)
                structures += sum(map(_is_structure, bodies))
                if progress.is_possible and output.is_terminal():
                    late.extend(ids)  # bar and ids would go to the same terminal: ids afterwards
                else:
                    _print_ids(way.name, ids, quiet, as_json, interrupts)
                if problem:
                    line = count + problem[0] + 1
                    raise Failure(f"line {line:,}: {problem[1]}; {_go_on(line, published)}")
                count += len(lines)
                progress.add(size if size_of_all else len(ids))
        except KeyboardInterrupt:
            note(f"{output.count(published, 'message')} published to {way.name} before the interruption")
            raise
        except (BrokenPipeError, output.OutputFailed):
            note(_without_ids(way.name, published))
            raise
        finally:
            _print_ids(way.name, late, quiet, as_json, interrupts)
    if progress.is_possible:
        note(f"{output.count(published, 'message')} published to {way.name}")
    return published, structures


def _without_ids(queue: str, published: int) -> str:
    """What is stored, if not all ids could be printed."""
    return f"{output.count(published, 'message')} published to {queue}; not all of their ids were printed"


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


def _parse_lines(lines: list[bytes], way: Way) -> tuple[list[object], tuple[int, str] | None]:
    """The bodies up to the first bad line; its index, and what is wrong with it."""
    bodies: list[object] = []
    for index, line in enumerate(lines):
        if way.skips_blank and not line.strip():
            continue
        try:
            bodies.append(way.read(line))
        except BadLine as error:
            return bodies, (index, str(error))
    return bodies, None


def _batches(source: BinaryIO, way: Way, interrupts: Interrupts) -> Iterator[tuple[list[bytes], int]]:
    """The lines that came in one read, without their ends, and how many bytes were read."""
    parts: list[bytes] = []
    held = size = 0
    while True:
        with interrupts.allowed():
            chunk = source.read1(CHUNK_BYTES)  # type: ignore[attr-defined]
        if not chunk:
            break
        size += len(chunk)
        lines = chunk.split(way.end)
        rest = lines.pop()
        if lines:
            lines[0] = b"".join([*parts, lines[0]])
            yield lines, size
            parts, held, size = [], 0, 0
        parts.append(rest)
        held += len(rest)
        if held > way.line_bytes_max:
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


def size_of(source: BinaryIO) -> int | None:
    """The bytes still to be read from *source*, if it is a file."""
    try:
        facts = os.fstat(source.fileno())
        return max(1, facts.st_size - source.tell()) if stat.S_ISREG(facts.st_mode) else None
    except (OSError, ValueError):
        return None
