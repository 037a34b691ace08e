"""What a command prints: text, JSON and tables, as UTF-8, whatever the locale.

In a pipe a body is what it is, byte for byte.  On a terminal its control characters
are shown as escapes, so that no message can reprogram the operator's terminal.  There tables are
cut to its width, sentences go on below, and what needs an eye has a colour, unless NO_COLOR is set.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Any, BinaryIO, Final

from mq.values import body_bytes as body_bytes
from mq.values import body_fields as body_fields
from mq.values import body_type as body_type
from mq.values import count as count
from mq.values import duration as duration
from mq.values import escape as escape
from mq.values import instant as instant
from mq.values import plain as plain
from mq.values import size as size
from mq.values import span as span
from mq.values import to_json as to_json

RED: Final = "31"
YELLOW: Final = "33"
BOLD: Final = "1"
CUT_COLUMNS_MIN: Final = 8  # of a column that is cut
TEXT_COLUMNS_MIN: Final = 8  # of a text that stands to the right of something, however narrow the terminal
ROOMY_COLUMNS: Final = 12  # before such a column is cut further, columns go that can be spared
WORDS: Final = re.compile(r"(\s*)(\S+)")
PARTS: Final = re.compile(r"(\s*)(\S+(?: \S+)*)")  # with more than one space between them


class OutputFailed(Exception):
    """Standard output does not take what is printed."""


# ── writing ────────────────────────────────────────────────────────────────────────


def failed(error: OSError) -> Exception:
    """What to raise for an *error* of standard output."""
    if isinstance(error, BrokenPipeError):
        return error
    return OutputFailed(f"standard output: {error.strerror or error}; the rest was not printed")


def stream() -> BinaryIO:
    if sys.stdout is None:
        raise OutputFailed("standard output is closed; redirect it to a file, or to /dev/null")
    return sys.stdout.buffer


def line(data: bytes | str) -> None:
    raw = plain(data).encode() if isinstance(data, str) else data
    rest = memoryview(raw + b"\n")
    out = stream()
    try:
        # Under PYTHONUNBUFFERED this is the bare file, which may take a part and say so.
        while rest:
            rest = rest[out.write(rest) or 0 :]
    except OSError as error:
        raise failed(error) from None


def json_line(fields: Any) -> None:
    line(to_json(fields))


def result(text: str, fields: dict[str, Any], as_json: bool) -> None:
    """What a command has done, as a line for a person or as an object."""
    if as_json:
        json_line(fields)
    else:
        say(text)


def say(text: str, indent: int = 0, *, colour: str = "") -> None:
    """A line for a person.  On a narrow terminal it goes on below, *indent* columns to the right."""
    for part in wrapped(text, columns(), indent):
        line(painted(part, colour) if colour else part)


def indented(text: str, indent: int) -> None:
    """The lines of *text*, each *indent* columns to the right, and all that is in them."""
    room = columns()
    for each in text.split("\n"):
        for part in [each] if room is None else folded(each.expandtabs(), room - indent):
            line(" " * indent + part)


def flush() -> None:
    """Return when everything printed is with the system."""
    if sys.stdout is not None:
        try:
            stream().flush()
        except OSError as error:
            raise failed(error) from None


def drop() -> None:
    """The reader of the output has gone: the rest of the buffer must not fail again at exit."""
    if sys.stdout is not None:
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)


def is_terminal(file: IO[Any] | None = None) -> bool:
    """Whether *file* is one; by default standard output."""
    file = sys.stdout if file is None else file
    return file is not None and file.isatty()


def columns(file: IO[Any] | None = None) -> int | None:
    """The width of the terminal; None if the output goes elsewhere."""
    file = sys.stdout if file is None else file
    if not is_terminal(file):
        return None
    try:
        return int(os.environ.get("COLUMNS", "")) or None
    except ValueError:
        return os.get_terminal_size(file.fileno()).columns or None


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = (), cut: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:  # fmt: skip
    """Aligned columns; those named in *left* to the left, the others to the right.

    On a terminal that is too narrow those named in *cut* are cut, the widest first; then those in *spare*
    are left out, in that order; then the lines are cut.
    """
    for text in laid_out(header, rows, columns(), left, cut, spare):
        line(text)


def laid_out(
    header: Sequence[str], rows: Sequence[Sequence[str]], room: int | None, left: Sequence[str] = (),
    cut: Sequence[str] = (), spare: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """The lines of a table in *room* columns; None: as wide as it is."""
    widths = [max(width(row[at]) for row in (header, *rows)) for at in range(len(header))]
    if room is not None:
        kept = _kept(header, widths, room, cut, spare)
        header, widths = [header[at] for at in kept], [widths[at] for at in kept]
        rows = [[row[at] for at in kept] for row in rows]
        _narrow(widths, [at for at, name in enumerate(header) if name in cut], room)
    fits = room is None or sum(widths) + 2 * (len(widths) - 1) <= room
    lines = []
    for row in (header, *rows):
        cells = [
            _cell(text, size, name in left, fits)
            for text, size, name in zip(row, widths, header, strict=True)
        ]
        text = "  ".join(cells).rstrip()
        lines.append(text if room is None or fits else shorten(text, room))
    return lines


def _kept(
    header: Sequence[str], widths: Sequence[int], room: int, cut: Sequence[str], spare: Sequence[str]
) -> list[int]:  # fmt: skip
    """The columns that are shown in so much room."""
    least = [
        min(size, ROOMY_COLUMNS) if name in cut else size for name, size in zip(header, widths, strict=True)
    ]
    kept = list(range(len(header)))
    for name in spare:
        if sum(least[at] for at in kept) + 2 * (len(kept) - 1) <= room:
            break
        kept = [at for at in kept if header[at] != name]
    return kept


def _narrow(widths: list[int], which: Sequence[int], room: int) -> None:
    over = sum(widths) + 2 * (len(widths) - 1) - room
    while over > 0 and which:
        at = max(which, key=widths.__getitem__)
        if widths[at] <= CUT_COLUMNS_MIN:
            return
        widths[at] -= 1
        over -= 1


def _cell(text: str, size: int, left: bool, paint: bool) -> str:
    shown = shorten(text, size)
    gap = " " * (size - width(shown))
    shown = painted(shown, text.colour) if paint and isinstance(text, Coloured) else shown
    return shown + gap if left else gap + shown


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """A name and a value a line; of a long value, the rest stands below its beginning."""
    indent, room = max(len(name) for name, _ in rows) + 2, columns()
    for name, value in rows:
        left = name.ljust(indent)
        for part in wrapped(value, None if room is None else room - indent):
            line(left + (painted(part, value.colour) if isinstance(value, Coloured) else part))
            left = " " * indent


# ── columns of a terminal ──────────────────────────────────────────────────────────


def width(text: str) -> int:
    """How many columns *text* takes: characters of East Asia take two, and marks on others none."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of, text))


def _columns_of(each: str) -> int:
    if unicodedata.category(each) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(each) in "WF" else 1


def shorten(text: str, room: int) -> str:
    """The beginning of *text*, in *room* columns; an ellipsis says that there is more."""
    if width(text) <= room:
        return str(text)
    used, kept = 1, []
    for each in text:
        used += _columns_of(each)
        if used > room:
            break
        kept.append(each)
    return "".join(kept) + "…" if room > 0 else ""


def wrapped(text: str, room: int | None, indent: int = 0) -> list[str]:
    """*text* in lines of *room* columns, broken where two spaces are, then between words, then in a word.

    All but the first line begin *indent* columns to the right.  *room* None: it is one line.
    """
    if room is None or width(text) <= room:
        return [text]
    lines, current = [], ""
    for gap, part in _pieces(text, room - indent):
        if width(current + gap + part) <= room:
            current += gap + part
            continue
        lines += [current] if current.strip() else []
        pad = " " * indent if lines else ""
        *whole, current = [pad + piece for piece in folded(part, room - len(pad))]
        lines += whole
    return [*lines, current]


def _pieces(text: str, room: int) -> Iterator[tuple[str, str]]:
    """What stands before each piece, and a piece: what has two spaces around it, if it fits, else a word."""
    for gap, part in PARTS.findall(text):
        if width(part) <= room:
            yield gap, part
        else:
            (_, first), *others = WORDS.findall(part)
            yield gap, first
            yield from others


def folded(text: str, room: int) -> list[str]:
    """*text* in pieces of *room* columns, but for the last; together they are all of it."""
    room = max(room, TEXT_COLUMNS_MIN)
    pieces, used = [""], 0
    for each in text:
        if used + (columns := _columns_of(each)) > room:
            pieces.append("")
            used = 0
        pieces[-1] += each
        used += columns
    return pieces


class Coloured(str):
    """A cell that needs an eye."""

    colour: str


def coloured(text: str, colour: str) -> str:
    """*text*, in that colour where a table or pairs are printed on a terminal."""
    cell = Coloured(text)
    cell.colour = colour
    return cell


def painted(text: str, colour: str) -> str:
    """*text* as a terminal shows it in that colour; as it is, if colours are not wanted."""
    return f"\033[{colour}m{text}\033[0m" if text.strip() and has_colours() else text


def has_colours() -> bool:
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def excerpt(text: str, limit: int) -> str:
    """The beginning of *text*, on one line."""
    return shorten(escape(text[: limit + 1]), limit)


def body_shown(flags: int, raw: bytes) -> bytes:
    """The body as text mode prints it, fit for a terminal if it goes to one."""
    if not is_terminal():
        return body_bytes(flags, raw)
    return escape(body_bytes(flags, raw).decode(errors="backslashreplace"), keep="\n\t").encode()
