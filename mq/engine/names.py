"""What queues and topics may be called, and what a pattern of topics looks like."""

from __future__ import annotations

from typing import Final

from mq import exact
from mq.delivery.dead import NAME_BYTES_MAX
from mq.delivery.topics import ANY, ONE
from mq.errors import UsageError

ELSEWHERE: Final = ("nats://", "tls://")  # how the address of a store begins that is not in files here


def is_elsewhere(store: str) -> bool:
    """Whether *store* is an address, and no directory."""
    return store.startswith(ELSEWHERE)


def check_name(name: object) -> str:
    """The name, if it can be that of a queue: 1 to 255 bytes of UTF-8, no control characters."""
    return _printable("a queue's name", "queue name", name)


def check_schedule(name: object) -> str:
    """The name, if it can be that of a schedule: as of a queue."""
    return _printable("a schedule's name", "schedule name", name)


def check_topic(name: object) -> str:
    """The name, if it can be that of a topic: as of a queue, and dotted words without `*` and `#`."""
    text = _dotted("a topic's name", "topic name", name)
    if ONE in text or ANY in text:
        raise UsageError(
            f"the topic name {exact.shown(text)} has a * or a #, which stand for words in patterns: publish"
            " to a topic without them"
        )
    return text


def check_pattern(pattern: object) -> str:
    """The pattern, if it is one: as the name of a topic, but a word may be `*` or `#`."""
    text = _dotted("a pattern", "pattern", pattern)
    for word in text.split("."):
        if len(word) > 1 and (ONE in word or ANY in word):
            raise UsageError(
                f"the pattern {exact.shown(text)} has a * or a # inside a word: each is a word of its own,"
                " as in orders.* and orders.#"
            )
    return text


def _dotted(kind: str, what: str, name: object) -> str:
    text = _printable(kind, what, name)
    if "" in text.split("."):
        raise UsageError(
            f"the {what} {exact.shown(text)} has an empty word: write words with one dot between them, as"
            " in orders.eu.paid"
        )
    return text


def _printable(kind: str, what: str, name: object) -> str:
    text = exact.text(kind, name)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError(f"the {what} {exact.shown(text)} is not valid Unicode") from None
    if not 1 <= size <= NAME_BYTES_MAX:
        raise UsageError(f"{kind} has 1 to {NAME_BYTES_MAX} bytes, this one {size}")
    if not text.isprintable():
        raise UsageError(
            f"the {what} {exact.shown(text)} has control or unprintable characters; leave them out"
        )
    return text
