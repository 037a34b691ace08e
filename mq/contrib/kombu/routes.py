"""Exchanges and routing keys as topics of mq: a message to (exchange, key) is published to one topic.

    exchange  type    key        as                               a queue that is bound gets it by the pattern
    ────────  ──────  ─────────  ───────────────────────────────  ────────────────────────────────────────────
    celery    direct  images     celery.images                    celery.images
    news      topic   eu.sport   news.eu.sport                    news.eu.*, news.#
    a.pidbox  fanout  (any)      a%2Epidbox, a%2Epidbox.…         a%2Epidbox.#

So the engine routes, in one record, and a producer need not know which queues there are, nor of which type
the exchange is.  An exchange is one word.  What a word of mq cannot be is written with `%` and two digits, as
in URLs; an empty word is a `%` alone.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote

DIRECT, TOPIC, FANOUT = "direct", "topic", "fanout"
TYPES: Final = frozenset({DIRECT, TOPIC, FANOUT})
WILD: Final = ("*", "#")
EMPTY: Final = "%"


class Binding(NamedTuple):
    """A queue that is bound, and how, as far as the pattern says."""

    exchange: str
    key: str
    queue: str


def topic(exchange: str, key: str) -> str:
    """Where a message to this exchange is published."""
    return _joined(exchange, [_word(word) for word in _words(key)])


def pattern(kind: str, exchange: str, key: str) -> str:
    """What a queue that is bound to an exchange of this type subscribes to."""
    if kind == FANOUT:
        return _joined(exchange, ["#"])
    if kind == TOPIC:
        return _joined(exchange, [word if word in WILD else _word(word) for word in _words(key)])
    return topic(exchange, key)


def binding(pattern: str, queue: str) -> Binding:
    """What was bound, if *pattern* is one of these."""
    exchange, *words = pattern.split(".")
    return Binding(
        unquote(exchange), ".".join("" if word == EMPTY else unquote(word) for word in words), queue
    )


def _joined(exchange: str, words: list[str]) -> str:
    return ".".join([_word(exchange).replace(".", "%2E"), *words])


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def _word(word: str) -> str:
    return "".join(map(_spelt, word)) or EMPTY


def _spelt(sign: str) -> str:
    if sign.isprintable() and sign not in "%*#":
        return sign
    return "".join(f"%{byte:02X}" for byte in sign.encode(errors="surrogatepass"))
