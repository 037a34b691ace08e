"""What a publish happens inside, if mq.metrics or mq.otel have asked for it: `Store.around`.

The plain publish looks whether there is one, and takes another way then.  Nothing here is called before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from mq.delivery.intake import NewMessage
from mq.engine.store import Around, Store

T = TypeVar("T")

SEND: Final = "send"
CREATE: Final = "create"  # in a transaction, which sends at the end of its block
NO_HEADERS: Final[Mapping[str, str]] = {}

Send = Callable[[Any, Any, Mapping[str, str]], T]
"""Publishes what it is given, with these options, and with more headers."""


def send_within(store: Store, destination: str, send: Send[T], given: object, options: object) -> T:
    """Send it, inside of what there is."""
    around = store.around
    if around is None:
        return send(given, options, NO_HEADERS)
    with around(SEND, destination) as headers:
        return send(given, options, headers)


def add_around(store: Store, around: Around) -> None:
    """Have every publish to *store* happen inside of *around*, too."""
    before = store.around
    store.around = around if before is None else partial(_both, before, around)


@contextmanager
def _both(outer: Around, inner: Around, operation: str, destination: str) -> Iterator[Mapping[str, str]]:
    with outer(operation, destination) as headers, inner(operation, destination) as more:
        yield {**headers, **more}


def with_headers(message: NewMessage, headers: Mapping[str, str]) -> NewMessage:
    """*message*, with these headers too."""
    if not headers:
        return message
    return msgspec.structs.replace(message, headers={**message.headers, **headers})
