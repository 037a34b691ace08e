"""A backup that is cut off at any call is what the store was at one moment, or no store yet."""

from __future__ import annotations

import random
from itertools import count

from mq.engine.backup import back_up

from .disk import PowerCut, SimulatedDisk
from .driver import PATH, Driver, contents, open_store
from .explorer import FAR, determined
from .fate import draw, nothing_but_the_platter
from .history import History, Key

TARGET = f"/{PATH}"  # where the driver looks
FATES = 4


def held(disk: SimulatedDisk) -> Key | None:
    """What the store holds; None if it is none yet."""
    return contents(open_store(disk, lambda: FAR))[0] if disk.exists(f"{PATH}/FORMAT") else None


def grow(driver: Driver) -> None:
    for _ in range(3):
        driver.publish("a", 2, size=230)
        driver.take("a")
        driver.ack()
    driver.maintain()  # segments go


def turn_over(driver: Driver) -> None:
    """Until nothing is left of the segments that there were."""
    limit = driver._broker._store.replica.log.end
    while driver._broker._store.replica.log.head <= limit:
        driver.publish("a", 2, size=230)
        for _ in range(8):
            driver.take("a")
            driver.ack()
        driver.maintain()


def test_a_backup_cut_off_at_every_call_is_an_earlier_or_a_later_one():
    with determined(1):
        source = SimulatedDisk()
        driver = Driver(source, History())
        driver.open(sync="never")
        store = driver._broker._store
        moments: set[Key | None] = set()
        source.on_change = lambda kind: moments.add(held(source.after_kill()))
        begin, before, seen = SimulatedDisk(), None, set()
        for go_on in (grow, grow, grow, turn_over):
            moments.clear()
            go_on(driver)
            whole = begin.after_kill()
            back_up(store, TARGET, disk=whole)
            after = held(whole.after_kill())
            assert after not in (None, before)
            allowed = {before, after, *(moments if before and go_on is grow else ())}
            if go_on is turn_over:
                allowed.add(None)  # while one log takes the place of another
            for call in count(1):
                disk = SimulatedDisk(cut_at=call)
                disk.root = begin.after_kill().root
                try:
                    back_up(store, TARGET, disk=disk)
                    break  # it was done before that call
                except PowerCut:
                    pass
                rng = random.Random(call)
                fates = [nothing_but_the_platter(), *(draw(rng) for _ in range(FATES))]
                for survivor in [disk.after_kill(), *map(disk.after_power, fates)]:
                    found = held(survivor)
                    seen.add(found)
                    assert found in allowed, f"cut off at call {call}"
            assert before is None or not whole.exists(f"{PATH}/log/{0:020}.seg")
            begin, before = whole, after
    assert {None, before} <= seen
