"""A move or a copy that is cut off at any call loses nothing, doubles nothing, and goes on when run again."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from unittest import mock

import pytest

from mq.api.broker import Broker
from mq.engine import carrying, passage
from mq.engine.store import Store
from mq.errors import QueueFull

from .disk import PowerCut, SimulatedDisk
from .driver import EPOCH
from .explorer import determined
from .fate import draw, nothing_but_the_platter

BODIES = [f"m{number}".encode() for number in range(7)]
HERE, THERE = "here/store", "there/store"
STATES = ("ready", "delayed", "in_flight")
STEP = 5  # every so many calls is cut; each run begins at another one


def opened(disk: SimulatedDisk, path: str, sync: str = "never") -> Broker:
    options = {"sync": sync, "read_only": False, "segment_bytes": 4096, "clock": lambda: EPOCH}
    return Broker(Store(path, **options, disk=disk, background=False))  # type: ignore[arg-type]


def held(broker: Broker, name: str) -> list[bytes]:
    queue = broker.queue(name)
    return [each.raw for state in STATES for each in queue.peek(100, state=state)]  # type: ignore[arg-type]


@contextmanager
def small() -> Iterator[None]:
    with (
        determined(1),
        mock.patch.object(carrying, "SLICE_MESSAGES", 2),
        mock.patch.multiple(passage, SLICE_MESSAGES=2, ROUND_MESSAGES=3),
    ):
        yield


def begun() -> SimulatedDisk:
    """Two stores, one of which has messages of each sort in `orders`."""
    disk = SimulatedDisk()
    with opened(disk, HERE, "always") as here, opened(disk, THERE, "always"):
        orders = here.queue("orders", max_attempts=9)
        here.queue("other", visibility_timeout=9)
        orders.publish(BODIES[0], priority=3)
        orders.publish_many(BODIES[1:3])
        orders.publish(BODIES[3], delay=3600, group="g", dedup_id="d")
        orders.publish_many(BODIES[4:])
        for _ in range(2):
            delivery = orders.receive(timeout=0)
            assert delivery
            delivery.nack(reason="why", delay=0)
    return disk


Work = Callable[[Broker, Broker], object]


def cuts(
    base: SimulatedDisk, work: Work, begin: int, step: int = STEP
) -> Iterator[tuple[str, SimulatedDisk]]:
    """What is left if *work* is cut off: by a kill, or by a power cut."""
    for call in count(begin, step):
        disk = SimulatedDisk(cut_at=call)
        disk.root = base.after_kill().root
        try:
            work(opened(disk, HERE), opened(disk, THERE))
            assert call > 50, "it was cut off"
            return
        except PowerCut:
            pass
        yield f"kill at {call}", disk.after_kill()
        fates = [nothing_but_the_platter(), draw(random.Random(call))]
        for fate in fates:
            yield f"power cut at {call}, {fate}", disk.after_power(fate)


def a_move(here: Broker, there: Broker) -> None:
    passage.move(here._store, there._store, "orders", "orders", None, lambda count: None)


@pytest.mark.parametrize("begin", [1, 3])
def test_a_move_to_another_store_neither_loses_nor_doubles(begin: int) -> None:
    with small():
        for where, disk in cuts(begun(), a_move, begin):
            with opened(disk, HERE) as here, opened(disk, THERE) as there:
                waiting, coming = held(here, "orders"), held(there, "orders")
                under_way = held(here, "orders.moving")
                assert set(waiting + coming + under_way) == set(BODIES), where
                for names in (waiting, coming, under_way):
                    assert max(Counter(names).values(), default=1) == 1, where
                assert not set(waiting) & set(coming + under_way), where
                a_move(here, there)
                assert sorted(held(there, "orders")) == BODIES, where
                assert held(here, "orders") == [] and "orders.moving" not in here.queues(), where
                (note,) = there.queue("orders").meta().values()
                assert re.fullmatch(r"[0-9a-f]{16}( \d+)?", note), where


def test_what_a_target_has_no_room_for_goes_back_and_is_neither_lost_nor_doubled() -> None:
    def a_move_of_too_many(here: Broker, there: Broker) -> None:
        there.queue("orders", max_length=3)
        with pytest.raises(QueueFull):
            a_move(here, there)

    with small():
        for where, disk in cuts(begun(), a_move_of_too_many, 7, 3 * STEP):
            with opened(disk, HERE) as here, opened(disk, THERE) as there:
                coming = held(there, "orders")
                assert sorted({*held(here, "orders"), *held(here, "orders.moving"), *coming}) == BODIES, where
                a_move_of_too_many(here, there)
                assert "orders.moving" not in here.queues() and len(held(there, "orders")) == 3, where
                there.queue("orders", max_length=None)
                a_move(here, there)
                assert sorted(held(there, "orders")) == BODIES and held(here, "orders") == [], where


@pytest.mark.parametrize("begin", [2, 4])
def test_a_copy_to_another_store_goes_on_where_it_was_cut_off(begin: int) -> None:
    def a_copy(here: Broker, there: Broker) -> carrying.Copied:
        return carrying.copy(here._store, there._store, "orders", "orders", lambda count: None)

    with small():
        for where, disk in cuts(begun(), a_copy, begin):
            with opened(disk, HERE) as here, opened(disk, THERE) as there:
                before = len(held(there, "orders"))
                found = a_copy(here, there)
                assert found == (7, 7 - before, before, 0, 0, 0), where
                assert sorted(held(there, "orders")) == BODIES == sorted(held(here, "orders")), where


def test_a_move_inside_a_store_is_whole_or_not_there() -> None:
    def a_move_here(here: Broker, there: Broker) -> None:
        passage.move_here(here._store, "orders", "other", None, lambda count: None)

    with small():
        for where, disk in cuts(begun(), a_move_here, 1):
            with opened(disk, HERE) as here:
                assert sorted(held(here, "orders") + held(here, "other")) == BODIES, where
                a_move_here(here, here)
                assert sorted(held(here, "other")) == BODIES, where
