"""What has to be there, or an error that names what is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import mq
from mq.cli.app import Failure, as_named, note
from mq.delivery.under_way import MOVING_SUFFIX
from mq.engine.names import check_name

NAMED_MAX: Final = 10


def queue(broker: mq.Broker, name: str) -> mq.Queue[Any]:
    """A queue that is there."""
    if not is_there(broker, check_name(name)):
        raise Failure(no_queue(broker, name))
    return broker.queue(name)


def tell_of_under_way(broker: mq.Broker, names: Iterable[str]) -> None:
    """Of queues with what a move to another store has left under way: it may be there as well."""
    from mq.engine import outgoing  # not before it is needed: most commands ask for none

    for name in names:
        found = outgoing.moving(broker._store, name) if name.endswith(MOVING_SUFFIX) else None
        if found and found.messages:
            note(
                f"{name}: a move of {found.queue} to {found.path or 'another store'} has left"
                f" {found.messages:,} messages under way; some may be there as well: end that move first"
            )


def is_there(broker: mq.Broker, name: str) -> bool:
    return name in broker.queues(prefix=name, limit=1)


def no_queue(broker: mq.Broker, name: str) -> str:
    names = broker.queues(limit=NAMED_MAX + 1)
    return f"no queue {name!r} in {as_named(broker.path)}; {among(names)}"


def among(names: Iterable[str]) -> str:
    """Which names there are instead."""
    listed = list(names)
    if not listed:
        return "there are none yet"
    return f"there are: {', '.join(listed[:NAMED_MAX])}{', …' if listed[NAMED_MAX:] else ''}"


def why_empty(broker: mq.Broker, queue: mq.Queue[Any], state: str = "ready") -> str:
    """Why there is no message to take or to show."""
    if not is_there(broker, queue.name):
        return no_queue(broker, queue.name)
    stats = queue.stats()
    counts = {"ready": stats.ready, "in flight": stats.in_flight, "delayed": stats.delayed}
    others = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    held = f" ({others})" if others else ""
    if stats.paused and stats.ready and state == "ready":
        return f"{queue.name}: paused{held}; nothing is delivered until `mq queue resume`"
    return f"{queue.name}: nothing is {state.replace('_', ' ')}{held}"
