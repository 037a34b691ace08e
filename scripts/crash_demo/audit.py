"""Audit: what the workers noted, against what the store holds and delivered.

Two things a kill leaves open, at most one of each for every kill, and both are allowed:

- A publish that was cut off before it was noted.  The message is there whole or not at
  all; the publisher, which cannot know, publishes the line again.
- An ack that was cut off before it was noted.  The message is gone, or is delivered again.

Everything else is counted as lost, altered, invented, revived or disordered, and must be zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from notes import Notes, digest

import mq


@dataclass
class Row:
    """One round.  Published, acked, delivered and redelivered are what happened in it."""

    name: str
    killed: bool
    published: int = 0
    acked: int = 0
    recovered: int = 0  # messages in the store when it was opened again
    delivered: int = 0
    redelivered: int = 0  # of those delivered: for the second time or more
    lost: int = 0  # published and noted, not acked, not in the store
    altered: int = 0  # a body that is not the one published under its id
    invented: int = 0  # in the store, and never published
    revived: int = 0  # acked and noted, and there again
    disordered: int = 0  # delivered for the first time after a later one
    recovery_seconds: float = 0.0

    @property
    def violations(self) -> int:
        return self.lost + self.altered + self.invented + self.revived + self.disordered


class Audit:
    def __init__(self, published: Notes, consumed: Notes, lines: list[bytes]) -> None:
        self._published_notes, self._consumed_notes, self._lines = published, consumed, lines
        self.published: dict[int, str] = {}  # digest by id
        self.settled: set[int] = set()
        self.unnoted: dict[int, str] = {}  # delivered, and no note of a publish names them
        self.lost: set[int] = set()
        self.altered: set[int] = set()
        self.revived: set[int] = set()
        self._cut_off: list[str] = []  # digests of the lines whose publish a kill may have cut off
        self._seen = 0  # notes of the consumer that are accounted for
        self._latest = -1  # the last id that was delivered for the first time

    def check(self, row: Row, queue: mq.Queue[bytes]) -> None:
        """Fill in *row* from the new notes, and from the store just opened."""
        self._read_published(row)
        in_doubt = self._read_consumed(row)
        held = 0
        for id, expected in (self.published | self.unnoted).items():
            message = queue.get(id)
            if message is not None:
                held += 1
                if id in self.settled:
                    self._blame(row, "revived", id)
                elif digest(message.raw) != expected:
                    self._blame(row, "altered", id)
            elif id == in_doubt:
                self.settled.add(id)
            elif id not in self.settled:
                self._blame(row, "lost", id)
        counts = queue.stats()
        row.recovered = counts.ready + counts.in_flight + counts.delayed
        # What no note names can only be a publish that was cut off.
        row.invented = max(0, row.recovered - held - len(self._cut_off))

    def _blame(self, row: Row, what: str, id: int) -> None:
        """Count *id* as lost, altered or revived, in the first round that shows it."""
        known: set[int] = getattr(self, what)
        if id not in known:
            known.add(id)
            setattr(row, what, getattr(row, what) + 1)

    def _read_published(self, row: Row) -> None:
        notes = self._published_notes.read()
        for _, id, body in notes[len(self.published) :]:
            self.published[int(id)] = body
            row.published += 1
        if row.killed and row.published:
            self._cut_off.append(digest(self._lines[len(notes) % len(self._lines)]))

    def _read_consumed(self, row: Row) -> int | None:
        """Account for the new notes; the id of the ack that a kill may have cut off."""
        in_doubt = None
        notes = self._consumed_notes.read()
        for what, text, *rest in notes[self._seen :]:
            id = int(text)
            if what == "acked":
                self.settled.add(id)
                row.acked += 1
                in_doubt = None
            else:
                in_doubt = id
                self._delivered(row, id, int(rest[0]), rest[1])
        self._seen = len(notes)
        return in_doubt if row.killed else None

    def _delivered(self, row: Row, id: int, attempts: int, body: str) -> None:
        row.delivered += 1
        if id in self.settled:
            self._blame(row, "revived", id)
        if attempts > 1:
            row.redelivered += 1
        else:
            row.disordered += id < self._latest
            self._latest = id
        if id not in self.published and id not in self.unnoted and body in self._cut_off:
            self._cut_off.remove(body)
            self.unnoted[id] = body
        if body != self.published.get(id, self.unnoted.get(id)):
            self._blame(row, "altered", id)
