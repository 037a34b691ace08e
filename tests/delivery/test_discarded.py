"""What purged and deleted queues held is freed some at a time, beside the fold."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from mq.delivery.attributes import Attributes
from mq.delivery.discarded import SLICE
from mq.delivery.now import Now
from mq.delivery.queue import QueueState

COUNT = 5 * SLICE
FAR = 10**9

SAID: dict[str, Any] = {
    "delayed": lambda n: {"due": FAR + n},
    "expiring": lambda n: {"expires": FAR + n},
    "groups": lambda n: {"group": f"g{n}"},
    "one group": lambda n: {"group": "g"},
    "dedup ids": lambda n: {"dedup_id": f"d{n}", "dedup_until": FAR + n},
}


def filled(how: str) -> QueueState:
    queue = QueueState(1, "q")
    queue.board.discarded.keeps = True
    if how in SAID:
        for id in range(COUNT):
            queue.publish_with(id, 1, Attributes(**SAID[how](id)))
    else:
        ids = list(range(COUNT))
        queue.publish_run(ids, COUNT)
        queue.deliver_run(ids, FAR, 100, 0)
        if how == "came back":
            queue.release_run(ids)
        elif how == "timed out":
            queue.counts(Now(100, 100))
    return queue


@pytest.mark.parametrize("how", [*SAID, "in flight", "came back", "timed out"])
def test_a_deleted_queue_is_freed_in_slices(how):
    queue = filled(how)
    queue.delete()
    assert queue.total() == queue.timers.deadlines.size() == len(queue.dedup) == 0
    containers = list(queue.board.discarded._rest)
    if how == "one group":  # its list is found as the groups are freed
        (groups,) = [each for each in containers if isinstance(each, dict) and "g" in each]
        containers += groups["g"].contents()
    rests = [sum(map(len, containers))]
    assert rests[0] >= COUNT
    queue.board.discarded.free(lambda: rests.append(sum(map(len, containers))))
    assert not queue.board.discarded
    assert sum(map(len, containers)) == 0
    assert max(left - right for left, right in pairwise(rests)) <= 2 * SLICE
    assert len(rests) >= COUNT // (2 * SLICE)


def test_a_purge_keeps_what_is_in_flight_and_frees_the_rest_in_slices():
    queue = filled("delayed")
    queue.publish(FAR, 7)
    flight = queue.deliver(FAR, FAR + 1, 100, 0)
    queue.purge(50, [(FAR, 7)])
    assert (queue.total(), queue.bytes, dict(queue.flights.items())) == (1, 7, {FAR: flight})
    assert sum(map(len, queue.board.discarded._rest)) >= COUNT
    assert queue.counts(Now(99, 99)) == (0, 1, 0)
    queue.ack(FAR, 7)
    queue.publish(FAR + 5, 1)
    assert queue.head(Now(99, 99)) == FAR + 5
    queue.board.discarded.free(lambda: None)
    assert queue.head(Now(99, 99)) == FAR + 5


def test_little_is_freed_at_once():
    queue = QueueState(1, "q")
    queue.board.discarded.keeps = True
    queue.publish_with(10, 1, Attributes(due=FAR))
    queue.purge(0, ())
    assert not queue.board.discarded


def test_where_nothing_frees_it_nothing_is_kept():
    queue = filled("delayed")
    queue.board.discarded.keeps = False
    queue.delete()
    assert not queue.board.discarded
