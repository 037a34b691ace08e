"""Giving space back: re-append what lives in the oldest segment, then drop it.

      head                                                        end
       ┌────────┐   ┌────────┐         ┌────────┐   ┌─────────────┐
       │░░█░░█░░│   │█░██░░█░│    …    │████░█░░│   │██████ → █ █ │
       └────────┘   └────────┘         └────────┘   └─────────────┘
          unlinked, once what lived in it stands at the end, synced

No file is ever rewritten.  Segments go from the head only, oldest first, so a
tombstone cannot go before the message it buries, and the log from its head always
folds to the full state.  A crash anywhere leaves a second copy of one id, never none.

What is live is the business of the layer above: a Keeper says what there is, how it
is written again, and takes note of its new place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeVar

from .log import Log
from .tail import Draft

Token = TypeVar("Token")

SLICE_RECORDS: Final = 128  # re-appended under one hold of the lock: one or two milliseconds
SLICE_BYTES: Final = 1 << 20
SPARE_SEGMENTS: Final = 8  # each crash leaves one, however little is in it

Turn = Callable[[], AbstractContextManager[tuple[Log, int, int]]]
"""Takes the store's lock, and gives the log, the time, and how often the state was read anew."""


class Keeper(Protocol[Token]):
    def within(self, base: int, limit: int) -> Iterator[list[Token]]:
        """All that lives in [base, limit), in parts.  Advanced under the lock, which is let go in between."""

    def draft(self, token: Token, base: int, limit: int) -> Draft | None:
        """The record that says all there is to say; None if it does not live there any more."""

    def moved(self, token: Token, position: int, draft: Draft) -> None:
        """The record stands at *position* now."""


def is_due(log: Log, live_bytes: int) -> bool:
    """Whether garbage exceeds what is live, and a segment; or there are many segments with little in them."""
    span = log.segments[-1].limit - log.segments[0].base
    return len(log.segments) > 1 and (
        log.disk_bytes() > 2 * live_bytes + log.segment_bytes
        or span > 2 * live_bytes + SPARE_SEGMENTS * log.segment_bytes
    )


def clean(turn: Turn, keeper: Keeper[Token], rest: Callable[[], None]) -> int:
    """Drop the oldest segment; the bytes that its file had, 0 if there is nothing to drop.

    Holds the lock a slice at a time and calls *rest* in between.
    """
    with turn() as (log, _, epoch):
        if len(log.segments) < 2:
            return 0
        oldest = log.segments[0]
    parts = keeper.within(oldest.base, oldest.limit)
    while True:
        with turn() as (_, _, now_epoch):
            if now_epoch != epoch:  # the state was read anew: what *parts* speaks of is gone
                return 0
            part = next(parts, None)
        if part is None:
            break
        while part:
            with turn() as (_, now_ms, now_epoch):
                if now_epoch != epoch:
                    return 0
                del part[: _move(log, keeper, part, oldest.base, oldest.limit, now_ms)]
            rest()
    with turn() as (_, now_ms, now_epoch):
        if now_epoch != epoch:
            return 0
        log.append_head(now_ms, oldest.limit)
        end = log.end
    log.sync(end)
    return log.trim(oldest.limit)


def _move(
    log: Log, keeper: Keeper[Token], tokens: Sequence[Token], base: int, limit: int, now_ms: int
) -> int:
    """Re-append the first few of *tokens* that still live; how many were looked at."""
    moves: list[tuple[Token, Draft]] = []
    size = seen = 0
    for token in tokens[:SLICE_RECORDS]:
        seen += 1
        if draft := keeper.draft(token, base, limit):
            moves.append((token, draft))
            size += len(draft[3])
            if size > SLICE_BYTES:
                break
    if moves:
        positions = log.append_group(now_ms, [draft for _, draft in moves], atomic=False)
        for (token, draft), position in zip(moves, positions, strict=True):
            keeper.moved(token, position, draft)
    return seen
