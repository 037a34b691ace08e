"""Giving space back: re-append what lives in the oldest segment, then drop it.

      head                                                        end
       ┌────────┐   ┌────────┐         ┌────────┐   ┌─────────────┐
       │░░█░░█░░│   │█░██░░█░│    …    │████░█░░│   │██████ → █ █ │
       └────────┘   └────────┘         └────────┘   └─────────────┘
          unlinked, once what lived in it stands at the end, synced

No file is ever rewritten.  Segments go from the head only, oldest first, so a
tombstone cannot go before the message it buries, and the log from its head always
folds to the full state.  A crash anywhere leaves a second copy of one id, never none.

What is live is the business of the layer above: a Mover says what there is, how it
is written again, and takes note of its new place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from .log import Log
from .segment import Segment
from .tail import Draft

T = TypeVar("T")
Token = TypeVar("Token")

SLICE_RECORDS: Final = 128  # re-appended under one hold of the lock: one or two milliseconds
SLICE_BYTES: Final = 1 << 20
SPARE_SEGMENTS: Final = 8  # each crash leaves one, however little is in it


class Turn(Protocol):
    def __call__(self, do: Callable[[Log, int, int], T], /) -> T:
        """Run *do* with the store's lock: given the log, the time, and how often the state was read anew."""


class Mover(Protocol[Token]):
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


def clean(turn: Turn, mover: Mover[Token], rest: Callable[[], None]) -> int:
    """Drop the oldest segment; the bytes that its file had, 0 if there is nothing to drop.

    Holds the lock a slice at a time and calls *rest* in between.
    """
    if not (begun := turn(_oldest)):
        return 0
    log, oldest, epoch = begun
    base, limit = oldest.base, oldest.limit
    parts = mover.within(base, limit)

    def take(do: Callable[[int], T]) -> T:
        def run(_: Log, now_ms: int, now_epoch: int) -> T:
            if now_epoch != epoch:
                raise _ReadAnew
            return do(now_ms)

        return turn(run)

    try:
        while (part := take(lambda _: next(parts, None))) is not None:
            while part:
                del part[: take(partial(_move, log, mover, part, base, limit))]
                rest()
        take(lambda now_ms: log.append_head(now_ms, limit))
    except _ReadAnew:
        return 0
    log.sync(log.end)
    return log.trim(limit)


class _ReadAnew(Exception):
    """The state was read anew: what `within` spoke of is gone."""


def _oldest(log: Log, now_ms: int, epoch: int) -> tuple[Log, Segment, int] | None:
    """What is cleaned: None if there is only the segment that is written to."""
    return (log, log.segments[0], epoch) if len(log.segments) > 1 else None


def _move(log: Log, mover: Mover[Token], tokens: Sequence[Token], base: int, limit: int, now_ms: int) -> int:
    """Re-append the first few of *tokens* that still live; how many were looked at."""
    moves: list[tuple[Token, Draft]] = []
    size = seen = 0
    for token in tokens[:SLICE_RECORDS]:
        seen += 1
        if draft := mover.draft(token, base, limit):
            moves.append((token, draft))
            size += len(draft[3])
            if size > SLICE_BYTES:
                break
    if moves:
        positions = log.append_group(now_ms, [draft for _, draft in moves], atomic=False)
        for (token, draft), position in zip(moves, positions, strict=True):
            mover.moved(token, position, draft)
    return seen
