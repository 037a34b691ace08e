"""What is known of a queue beside its messages: its options, and its totals so far."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from .retry import Backoff

# No name of a queue of users begins with one of these.
TOPIC_KEY: Final = "\0"  # what a topic retains
ASIDE_KEY: Final = "\1"  # a queue that is being filled, to take the place of another
HIDDEN_KEYS: Final = TOPIC_KEY + ASIDE_KEY
DEAD_SUFFIX: Final = ".dead"  # behind a queue's name, it is that of the queue where its dead letters go


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """A queue's durable options.  Durations are seconds."""

    visibility_timeout: float = 30.0
    max_attempts: int | None = None
    backoff: Backoff = Backoff()
    dead_letter: str = ""  # "<name>.dead"
    ttl: float | None = None
    expired: Literal["drop", "dead_letter"] = "drop"
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: Literal["reject", "drop_oldest"] = "reject"
    dedup_window: float = 300.0
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    delete_when_idle: float | None = None
    delete_when_abandoned: float | None = None
    delay: float = 0.0


class Declaration(
    Options, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False
):
    """All there is to know of a queue beside its messages: supersedes what was declared before."""

    name: str
    was: str = ""  # the queue has this name instead of the one named here, from this record on; once
    topic: bool = False  # no queue of users, but what a topic retains; its name is the topic's
    retain_for: float | None = None
    retain_count: int | None = None
    retain_bytes: int | None = None
    paused: bool = False
    idle_until: int = 0  # store time; see idle.py
    meta: dict[str, str] = {}  # see meta.py; never changed, only replaced
    published: int = 0
    acked: int = 0
    failed: int = 0
    expirations: int = 0
    dead_lettered: int = 0
    dropped: int = 0


DEFINITION: Final = (  # fields: what a program declares
    *Options.__struct_fields__, "name", "topic", "retain_for", "retain_count", "retain_bytes", "paused"
)  # fmt: skip


def key_of(declaration: Declaration) -> str:
    """By what its queue is known: its name; what a topic retains, by one that no queue can have.

    And what belongs to no queue has none.
    """
    return TOPIC_KEY + declaration.name if declaration.topic else declaration.name


class Totals:
    """What has happened at the queue since it was made: how many messages."""

    __slots__ = ("acked", "dead_lettered", "dropped", "expirations", "failed", "published")

    def __init__(self, declaration: Declaration) -> None:
        self.published, self.acked, self.failed = declaration.published, declaration.acked, declaration.failed
        self.expirations, self.dead_lettered = declaration.expirations, declaration.dead_lettered
        self.dropped = declaration.dropped


def defines_alike(one: Declaration, other: Declaration) -> bool:
    """Whether they differ in no option: at most in meta, totals, and when the queue was last used."""
    return all(getattr(one, name) == getattr(other, name) for name in DEFINITION)


def replaced(declaration: Declaration, changes: dict[str, Any]) -> Declaration:
    """The declaration with *changes*."""
    return msgspec.structs.replace(declaration, **changes)
