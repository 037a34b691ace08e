"""Messages as lines that are printed as they come, and so cannot wait for the widest one.

2026-11-29T12:01:18.277Z  mail          4711  text           5 B  hello
"""

from __future__ import annotations

from typing import Final

from mq.cli import output

NAME_COLUMNS: Final = 16
ID_COLUMNS: Final = 12
BODY_CHARS: Final = 1000
BODY_COLUMNS_MIN: Final = 10


def message_line(
    ms: int, where: str, id: int, flags: int, raw: bytes, said: str = "", *, colour: str = ""
) -> str:  # fmt: skip
    """*where*: its queue or topic.  *said*: what is shown before the body."""
    name = output.excerpt(where, max(NAME_COLUMNS, 0))
    name += " " * (NAME_COLUMNS - output.width(name))
    size = output.size(len(raw))
    text = f"{output.instant(ms)}  {name}  {id:>{ID_COLUMNS}}  {output.body_type(flags):9}  {size:>9}  "
    body = output.body_bytes(flags, raw)[:BODY_CHARS].decode(errors="backslashreplace")
    body = output.escape(" ".join([said, body]) if said else body)
    if (room := output.columns()) is None:
        return text + body
    rest = room - output.width(text)
    if rest < BODY_COLUMNS_MIN:  # without the date, the kind and the size
        text = f"{output.instant(ms)[11:19]} {name.strip()} {id} "
        rest = room - output.width(text)
    shown = output.shorten(body, max(0, rest))
    return text + (output.painted(shown, colour) if colour else shown)
