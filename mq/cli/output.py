"""What a command prints: text, JSON and tables, as UTF-8, whatever the locale.

In a pipe a body is what it is, byte for byte.  On a terminal its control characters
are shown as escapes, so that no message can reprogram the operator's terminal.  There tables are
cut to its width, and what needs an eye has a colour, unless NO_COLOR is set.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
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
    line(to_json(fields) if as_json else text)


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
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = (), cut: Sequence[str] = ()
) -> None:  # fmt: skip
    """Aligned columns; those named in *left* to the left, the others to the right.

    On a terminal that is too narrow those named in *cut* are cut, the widest first; then the lines.
    """
    for text in laid_out(header, rows, columns(), left, cut):
        line(text)


def laid_out(
    header: Sequence[str], rows: Sequence[Sequence[str]], room: int | None, left: Sequence[str] = (),
    cut: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """The lines of a table in *room* columns; None: as wide as it is."""
    widths = [max(width(row[at]) for row in (header, *rows)) for at in range(len(header))]
    if room is not None:
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
    """A name and a value a line."""
    indent = max(len(name) for name, _ in rows)
    for name, value in rows:
        shown = painted(value, value.colour) if isinstance(value, Coloured) else value
        line(f"{name.ljust(indent)}  {shown}")


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
