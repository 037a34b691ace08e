"""Meta: texts that a program keeps with a queue, by name; changed by compare-and-set.

They are part of the queue's declaration: durable with it, and gone with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

META_BYTES_MAX: Final = 64 << 10  # of one queue: names and texts, as UTF-8
HEADS_BYTES: Final = 10  # what msgpack puts before a name and a text, at most

Changes = Mapping[str, str | None]  # None: there is no such text


def size(meta: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(text.encode()) for name, text in meta.items())


def live_bytes(meta: Mapping[str, str]) -> int:
    """What it adds to a declaration in the log, at most."""
    return size(meta) + HEADS_BYTES * len(meta) if meta else 0


def is_so(meta: Mapping[str, str], expected: Changes) -> bool:
    """Whether each text that is *expected* is so, and each None is not there."""
    return all(meta.get(name) == text for name, text in expected.items())


def changed(meta: Mapping[str, str], changes: Changes) -> dict[str, str]:
    """The meta with *changes*."""
    return {name: text for name, text in {**meta, **changes}.items() if text is not None}
