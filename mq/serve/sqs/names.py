"""Names: what SQS calls a queue, and its URL and ARN.

A queue has the same name in mq, as far as SQS permits it: letters, digits, - and _, and .fifo at the end of
a FIFO queue.  Each byte that SQS forbids is `_xHH_` there:

    mq              SQS
    orders          orders
    orders.eu       orders_x2e_eu
    orders.fifo     orders.fifo        a FIFO queue, because it is called so
    a_x2e_b         a_x5f_x2e_b        what looks like that already: the _ is another one

Both ways it is one to one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, urlsplit

from mq.delivery.dead import NAME_BYTES_MAX
from mq.serve.sqs.fault import bad, no_queue

FIFO: Final = ".fifo"
NAME_CHARS_MAX: Final = 80
URLS_KEPT: Final = 1024
KEPT_CHARS_MAX: Final = 2048  # of such a URL
ESCAPES: Final = "_x"
LEGAL: Final = re.compile(r"[A-Za-z0-9_-]+(\.fifo)?")
ESCAPE: Final = re.compile(rb"_x([0-9a-f]{2})_")
LOOKS_ESCAPED: Final = re.compile(rb"_(?=x[0-9a-f]{2})")
FORBIDDEN: Final = re.compile(rb"[^A-Za-z0-9_-]")
ARN_PARTS: Final = 6


def is_fifo(name: str) -> bool:
    return name.endswith(FIFO) and name != FIFO


def to_sqs(name: str) -> str:
    """What the queue *name* of mq is called in SQS."""
    if LEGAL.fullmatch(name) and to_mq(name) == name:
        return name
    return _escaped(name)


def to_mq(name: str) -> str:
    """The other way; each *name* that SQS permits is one queue's."""
    found = _unescaped(name)
    return found if found == name or (_escaped(found) == name and to_sqs(found) == name) else name


def _parts(name: str) -> tuple[bytes, str]:
    stem = name.removesuffix(FIFO) if is_fifo(name) else name
    return stem.encode(), name[len(stem) :]


def _escaped(name: str) -> str:
    stem, suffix = _parts(name)
    raw = LOOKS_ESCAPED.sub(b"_x5f_", stem)
    return FORBIDDEN.sub(lambda each: b"_x%02x_" % each[0][0], raw).decode() + suffix


def _unescaped(name: str) -> str:
    stem, suffix = _parts(name)
    try:
        found = ESCAPE.sub(lambda each: bytes([int(each[1], 16)]), stem).decode() + suffix
    except UnicodeDecodeError:
        return name
    return found if found.isprintable() and len(found.encode()) <= NAME_BYTES_MAX else name


def check_new(name: str, *, fifo: bool) -> None:
    """Raise a fault unless a client may call a new queue so."""
    if not LEGAL.fullmatch(name) or len(name) > NAME_CHARS_MAX or is_fifo(name) != fifo:
        if fifo or is_fifo(name):
            raise bad(
                "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores,"
                " must end with .fifo suffix and be 1 to 80 in length."
            )
        raise bad("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")


def of_url(url: str) -> str:
    """SQS's name of the queue at the end of its URL, whichever host, account and region that has."""
    name = _kept_of_url(url) if len(url) <= KEPT_CHARS_MAX else _of_url(url)
    if not name:
        raise no_queue()
    return name


def _of_url(url: str) -> str:
    """ "" if there is none."""
    try:
        name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    except ValueError:
        return ""
    return name if LEGAL.fullmatch(name) else ""


_kept_of_url: Final = lru_cache(URLS_KEPT)(_of_url)


def arn(region: str, account: str, name: str) -> str:
    """*name*: SQS's."""
    return f"arn:aws:sqs:{region}:{account}:{name}"


def of_arn(text: str) -> str | None:
    """SQS's name of the queue in an ARN; None if that is none."""
    parts = text.split(":")
    is_arn = len(parts) == ARN_PARTS and parts[0] == "arn" and parts[2] == "sqs"
    return parts[-1] if is_arn and LEGAL.fullmatch(parts[-1]) else None
