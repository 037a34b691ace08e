"""The phases of a store; what an operation does in each is in a table of the store's, WAYS."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Of a store in this process: what it may be used for."""

    BEGINNING = "it is being opened"
    READING = "opened with read_only=True"
    OPEN = "any operation may come in"
    EXCLUSIVE = "the same, and no other process has it open"
    FOLLOWING = "the same, on a log that no lock keeps: another writer may be first"
    CLOSING = "no operation comes in any more; what closes the store does"
    CLOSED = "the files are let go of"
    FORKED = "the child of a fork: the first operation opens the store"
    LOST = "the files are not, or not only, this store's: nothing is done to them"
    SPOILED = "the child of a fork that could not take leave of its parent's files"
