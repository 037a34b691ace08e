"""Publishes to a queue whose messages have a time to live, and nothing else that a plan would look at.

What is appended is what `commands.publish` would append.  The attributes of all messages are the same, so
they are made once, and not decoded before they are appended: nothing in them comes from a caller.
"""

from __future__ import annotations

from functools import partial

from mq.delivery.attributes import Attributes, trailer
from mq.delivery.records import ATTRIBUTED, PUBLISH
from mq.delivery.traits import traits_of
from mq.engine.channel import Channel
from mq.engine.operation import operation
from mq.engine.store import Store
from mq.errors import DiskFull


def is_meant(channel: Channel) -> bool:
    """Whether the queue is one of those."""
    return channel.state is not None and channel.state.expires_alone


@operation
def publish_many(store: Store, channel: Channel, flags: list[int], bodies: list[bytes]) -> list[int] | None:
    """Store all of *bodies*, or none; their ids.  None if the queue needs a plan for them.

    *flags* say how each was given.
    """
    try:
        stored = store.turn.take(partial(_publish, store, channel, flags, bodies))
    except DiskFull:
        return None  # the plan makes way, perhaps
    if stored is None:
        return None
    ids, end = stored
    store.finish_publish(end)
    return ids


def _publish(
    store: Store, channel: Channel, flags: list[int], bodies: list[bytes]
) -> tuple[list[int], int] | None:  # fmt: skip
    """Their ids, and the end of the log."""
    replica, plan = store.replica, store.committer.plan()
    if plan.now.store >= replica.state.board.next:
        store.committer.do_due()
        plan = store.committer.plan()
    state = channel.state
    if state is None or not state.expires_alone:
        return None
    attributes = Attributes(expires=plan.expires(state.number))
    traits, behind, count = traits_of(attributes), trailer(attributes), len(bodies)
    payloads = [raw + behind for raw in bodies]
    ids = replica.log.append_columns(
        plan.now.store, [PUBLISH] * count, [each | ATTRIBUTED for each in flags], [state.number] * count,
        payloads,
    )  # fmt: skip
    state.take_in_run(ids, sum(map(len, payloads)), traits)
    end = replica.applied = replica.log.end
    replica.waiters.announce({state.number: count}, plan.now)
    return ids, end
