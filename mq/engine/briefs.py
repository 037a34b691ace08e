"""The first messages of a queue, for a person who looks at a list: large bodies are left unread."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from mq.delivery.queue import QueueState, State
from mq.engine.channel import Channel
from mq.engine.looking import Seen, Shown, ask_in_turns, chosen, show
from mq.engine.operation import operation
from mq.engine.sizes import glance_created_ms, size_of
from mq.engine.store import Store
from mq.errors import CorruptStore


class Brief(NamedTuple):
    """A message in a list."""

    seen: Seen
    size: int  # what was published, in bytes
    created_ms: int | None  # wall time; None: its record is damaged
    shown: Shown | None  # None: it is larger than what is read for a list, damaged, or gone since
    damage: str  # what is wrong with its record; "" if nothing is known to be


Sized = tuple[Seen, int, int | None]


@operation
def briefs(store: Store, channel: Channel, limit: int, state: State, bytes_max: int) -> list[Brief]:
    """The first *limit* messages in *state*, as `peek` has them; those above *bytes_max* are not read.

    One that is damaged does not hide the others.
    """
    held, found = ask_in_turns(store, partial(_choose, store, channel, limit, state))
    return [_brief(store, held, each, bytes_max) for each in found] if held else []


def _choose(
    store: Store, channel: Channel, limit: int, state: State
) -> tuple[QueueState | None, list[Sized]] | None:
    found = chosen(store, channel, lambda held, now: held.ids(state, now, limit))
    if found is None:
        return None
    held, several = found
    log = store.replica.log
    return held, [
        (each, size_of(log, each.position), glance_created_ms(log, each.position)) for each in several
    ]


def _brief(store: Store, held: QueueState, sized: Sized, bytes_max: int) -> Brief:
    seen, size, created_ms = sized
    if size > bytes_max:
        return Brief(seen, size, created_ms, None, "")
    try:
        shown = show(store, held, seen)
    except CorruptStore as error:
        return Brief(seen, size, created_ms, None, str(error))
    return Brief(seen, size, shown.created_ms if shown else created_ms, shown, "")
