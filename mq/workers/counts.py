"""Counts: what a worker has to do, and what it did."""

from __future__ import annotations

from typing import NamedTuple


class Counts(NamedTuple):
    """Of messages: those held now, those whose handler returned, and those whose handler raised."""

    in_flight: int = 0
    done: int = 0
    failed: int = 0
