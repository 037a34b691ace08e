"""What the explorer runs: small functions over a driver, each about one thing.

Add one by writing it and putting it into WORKLOADS.  Segments are tiny, so that a few
dozen operations rotate.  What follows a crash is done to "a" and "b": queues that are not like
others have other names.  An operation must make sense when any before it is left out:
that is how a failure is made shorter.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .driver import Driver

Workload = Callable[[Driver], None]


def first_create(d: Driver) -> None:
    d.open()
    d.publish("a")


def publish_always(d: Driver) -> None:
    d.open()
    for _ in range(6):
        d.publish("a")
    d.publish("b", size=300)
    d.publish("a")


def publish_never(d: Driver) -> None:
    d.open(sync="never")
    for index in range(8):
        d.publish("ab"[index % 2])
    d.flush()
    for _ in range(6):
        d.publish("a", size=90)


def batches(d: Driver) -> None:
    d.open()
    d.publish("a", 3)
    d.publish("a", 4, size=70)
    d.publish("b", 1, group=True)
    d.take("a", 4)
    d.publish("a", 2, size=700)  # larger than what is left of the segment
    d.ack(3)
    d.publish("b", 2)


def unsynced_batches(d: Driver) -> None:
    d.open(sync="never")
    d.publish("a", 3)
    d.publish("b", 5, size=50)
    d.publish("a", 4, size=150)
    d.take("b", 3)
    d.ack(2)
    d.publish("a", 2)
    d.flush()
    d.publish("b", 3, size=120)


def acks(d: Driver) -> None:
    d.open()
    d.publish("a", 4)
    d.take("a")
    d.ack()
    d.take("a")
    d.take("a")
    d.ack()
    d.publish("a")
    d.ack()
    d.flush()
    d.take("a")


def settling(d: Driver) -> None:
    d.open()
    d.declare("a", 20.0)
    d.publish("a", 3)
    d.take("a")
    d.nack()
    d.take("a", 2)
    d.release()
    d.extend()
    d.take("a")
    d.nack(delay=5.0)
    d.sleep(6)
    d.take("a", 3)
    d.ack(2)
    d.declare("a", 40.0)
    d.flush()


def timeouts(d: Driver) -> None:
    d.open(sync="never")
    d.publish("a", 2)
    d.take("a", 2)
    d.sleep(40)  # the timeout, and a backoff
    d.held.clear()
    d.take("a")
    d.flush()
    d.ack()
    d.sleep(40)
    d.take("a")
    d.publish("a")


def purging(d: Driver) -> None:
    d.open()
    d.publish("a", 3)
    d.publish("b", 2)
    d.take("a")
    d.purge("a")
    d.publish("a")
    d.ack()
    d.purge("b")
    d.flush()


def rotation(d: Driver) -> None:
    d.open()
    for index in range(12):
        d.publish("a", size=200 + 13 * index)
        if index % 3 == 1:
            d.take("a")
            d.ack()


def unsynced_rotation(d: Driver) -> None:
    d.open(sync="never")
    for index in range(10):
        d.publish("a", size=240)
        if index == 6:
            d.flush()
    d.take("a", 3)
    d.ack(2)


def closing(d: Driver) -> None:
    d.open()
    d.publish("a", 2)
    d.take("a")
    d.close()
    d.open(sync="never")
    d.publish("a", size=300)
    d.close()
    d.open()
    d.take("a")
    d.ack()
    d.close()


def full_segment(d: Driver) -> None:
    """Records that end exactly where a segment does, and around it."""
    for size in (812, 811, 813):
        d.open()
        d.publish("a", size=40)
        d.publish("a", size=size)
        d.publish("a")
        d.close()


def long_gap(d: Driver) -> None:
    """Positions whose low halves are the same, 4 GiB apart: rotated by time, not by size."""
    d.open(sync="never", segment_bytes=256 << 20)
    for _ in range(18):
        d.publish("a", size=20)
        d.sleep(50 * 86_400)
    d.publish("a", 2)
    d.flush()
    d.publish("a")


def cleaning(d: Driver) -> None:
    """Garbage fills segments; what is stuck among it moves, again and again."""
    d.open()
    d.declare("a", 20.0)
    d.publish("b", size=60)
    d.publish("a", size=50)
    d.take("a")
    for index in range(9):
        d.publish("c", 1 + index % 2, size=150)
        d.take("c", 2)
        d.ack(2 if index else 1)
        if index % 3 == 2:
            d.maintain(1 << 30)
    d.publish("a")
    d.close()


def unsynced_cleaning(d: Driver) -> None:
    d.open(sync="never")
    d.publish("b", 2, size=60)
    d.take("b")
    d.nack(delay=0.5)
    for _ in range(7):
        d.publish("c", size=180)
        d.take("c")
        d.ack()
        d.maintain(1 << 30)
    d.take("b", 2)
    d.publish("c")


def unsynced_closing(d: Driver) -> None:
    """What is cleaned when the store is closed is synced there; no caller waits for it."""
    d.open(sync="never")
    d.publish("b", 2, size=60)
    for _ in range(10):
        d.publish("c", 2, size=180)
        d.take("c", 2)
        d.ack(2)
    d.publish("a")
    d.close()
    d.open(sync="never")
    d.take("b", 2)
    d.publish("a", size=300)
    d.close()


def checkpoints(d: Driver) -> None:
    d.open(sync="never")
    d.publish("a", 3)
    d.take("a")
    d.maintain()
    d.ack()
    d.publish("b")
    d.maintain()
    d.publish("a", 2, size=200)
    d.reopen(sync="always")
    d.take("a", 2)
    d.maintain()
    d.publish("a", size=400)
    d.maintain()
    d.ack()
    d.reopen()
    d.take("a")


def sleeping(d: Driver) -> None:
    """A queue that no operation touches, behind checkpoints, while the cleaner comes by."""
    d.open(sync="never")
    d.publish("a", 2)
    d.publish("a", delay=500.0)
    d.take("a")
    d.maintain()
    d.reopen()
    d.publish("c", 4, size=700)
    d.take("c", 4)
    d.ack(4)
    d.maintain()
    d.reopen()
    d.maintain()
    d.reopen()
    d.take("a")


def ordering(d: Driver) -> None:
    """Priorities and groups, delayed and not, behind a checkpoint and through a cleaning."""
    d.open()
    d.publish("a", 2, priority=3)
    d.publish("a", size=40)
    d.publish("a", 2, group_name="g")
    d.publish("b", group_name="g", priority=1)
    d.publish("a", delay=500.0)
    d.take("a", 3)
    d.maintain()
    d.release()
    d.ack()
    d.publish("a", group_name="h", size=200)
    d.take("a", 2)
    d.nack(delay=5.0)
    d.cancel("a")
    d.sleep(600)
    d.reopen()
    d.publish("c", 3, size=300)
    d.take("c", 3)
    d.ack(3)
    d.maintain(1 << 30)
    d.take("a", 2)
    d.ack()


def dying(d: Driver) -> None:
    """Dead letters, by nacks, timeouts and rejects, and back again."""
    d.open()
    d.declare("a", 20.0, max_attempts=1)
    d.publish("a", 4)
    d.take("a", 3)
    d.nack(last=True)
    d.reject()
    d.sleep(60)
    d.held.clear()
    d.fall_due()
    d.replay("a.dead")
    d.take("a", 1)
    d.nack(last=True)
    for _ in range(3):
        d.publish("c", size=300)
        d.take("c")
        d.ack()
        d.maintain(1 << 30)
    d.replay("a.dead")
    d.take("a", 2)
    d.ack()


def out_of_time(d: Driver) -> None:
    """Last attempts that have no time left as soon as they are noted."""
    d.open()
    d.declare("a", 20.0, max_attempts=1)
    d.publish("a", 2)
    d.take("a", 2)
    d.extend(0.0)
    d.fall_due()
    d.publish("a")
    d.extend(0.0)
    d.held.clear()
    d.fall_due()


def idling(d: Driver) -> None:
    """A queue from which no process receives, and which is not empty."""
    d.open()
    d.declare("c", 20.0, delete_when_idle=50.0)
    d.publish("c", 2)
    d.sleep(100)
    d.fall_due()
    d.take("c")
    d.ack()
    d.reopen()
    d.sleep(100)
    d.fall_due()


def expiring(d: Driver) -> None:
    d.open(sync="never")
    d.declare("a", 20.0, expired="drop")
    d.publish("a", 2)
    d.publish("a", 2, ttl=5.0)
    d.publish("c", ttl=5000.0)
    d.maintain()
    d.sleep(10)
    d.fall_due()
    d.take("a", 2)
    d.flush()
    d.ack()


def publishing_once(d: Driver) -> None:
    """A dedup id outlives cleaning and checkpoints, and its answer waits for the disk."""
    d.open()
    d.declare("a", 20.0, dedup_window=300_000_000.0)
    d.publish_once("a", "k")
    d.publish_once("a", "k")
    for index in range(4):
        d.publish("c", size=300)
        d.take("c")
        d.ack()
        d.maintain(1 << 30 if index % 2 else 1)
    d.publish_once("a", "l")
    d.reopen(sync="never")
    d.publish_once("a", "k")
    d.publish_once("a", "l")
    d.publish_once("a", "m")
    d.reopen(sync="always")
    d.publish_once("a", "m")


def keeping_meta(d: Driver) -> None:
    """What a program keeps with a queue outlives cleaning and checkpoints; compare-and-set is true or not."""
    d.open()
    d.update_meta("a", "k", "1")
    d.update_meta("a", "k", "2", expect="1")
    d.update_meta("a", "k", "3", expect="1")
    d.update_meta("a", "long", "x" * 900)
    d.declare("a", 20.0)
    for _ in range(4):
        d.publish("c", size=300)
        d.take("c")
        d.ack()
        d.maintain(1 << 30)
    d.update_meta("a", "k", "4", expect="2")
    d.maintain()
    d.reopen(sync="never")
    d.update_meta("a", "k", "5", expect="4")
    d.publish("a")
    d.reopen(from_log=True)
    d.update_meta("a", "k", "6", expect="5")


def fanning_out(d: Driver) -> None:
    """One record for several queues: all of them or none, through cleanings, checkpoints and ways out."""
    d.open()
    d.subscribe("a")
    d.subscribe("b")
    d.fan_out()
    d.fan_out(size=90, priority=3)
    d.take("a")
    d.ack()
    d.take("b")
    d.nack(delay=500.0)
    for _ in range(3):
        d.publish("c", size=300)
        d.take("c")
        d.ack()
        d.maintain(1 << 30)
    d.fan_out(size=200)
    d.unsubscribe("b")
    d.fan_out()
    d.maintain()
    d.reopen(sync="never")
    d.take("b")
    d.reject()
    d.take("a")
    d.purge("a")
    d.reopen(from_log=True)
    d.fan_out()


def unsynced_fanning_out(d: Driver) -> None:
    d.open(sync="never")
    for name in ("a", "b", "c"):
        d.subscribe(name)
    for _ in range(3):
        d.fan_out(size=150)
    d.flush()
    d.take("c", 2)
    d.ack(2)
    d.fan_out(size=240)
    _turn_over(d)
    d.take("a", 2)
    d.ack()
    d.release()
    d.purge("c")
    _turn_over(d)
    d.reopen(from_log=True)
    d.take("b", 4)


def moving_shares(d: Driver) -> None:
    """A subscription, a schedule, and a message of several queues move with all that is said of them."""
    d.open(sync="never")
    d.subscribe("a")
    d.subscribe("b")
    d.schedule("ticks", "a")
    d.do_tick("ticks")
    d.fan_out()
    d.flush()
    _turn_over(d)
    _turn_over(d)
    d.reopen(from_log=True)
    d.fan_out()
    d.take("b", 2)


def transforming(d: Driver) -> None:
    """Each input gives exactly one output, wherever it is cut."""
    d.open()
    d.publish("a", 3)
    for _ in range(3):
        d.take("a")
        d.transform("a", "b")
    d.reopen(sync="never")
    d.publish("a", 2, size=300)
    d.take("a", 2)
    d.transform("a", "b")
    d.maintain(1 << 30)
    d.transform("a", "b")
    d.flush()
    d.take("b", 2)
    d.ack(2)


def asking_again(d: Driver) -> None:
    """A caller that asks again waits for what the first one did not wait for."""
    d.open()
    d.publish_once("a", "n", waits=False)
    d.publish_once("a", "n")


def remembering(d: Driver) -> None:
    """A dedup id whose record has moved."""
    d.open(sync="never")
    d.declare("a", 20.0, dedup_window=300_000_000.0)
    d.publish_once("a", "k")
    d.flush()
    _turn_over(d)
    d.reopen(from_log=True)
    d.publish_once("a", "k")


def remembering_without_reading(d: Driver) -> None:
    """Dedup ids in a checkpoint."""
    d.open(sync="never")
    d.publish_once("a", "k")
    d.publish_once("a", "l")
    d.flush()
    d.maintain()
    d.reopen()
    d.publish_once("a", "k")


def moving(d: Driver) -> None:
    """What sets messages apart moves with them: priority, group, attempts, and where they died."""
    d.open(sync="never")
    d.publish("c", 2)
    d.publish("c", priority=2, group_name="g")
    d.take("c", 3)
    d.reject()
    d.release()
    d.nack(delay=500.0)
    _turn_over(d)
    _turn_over(d)
    d.reopen(from_log=True)


def _turn_over(d: Driver) -> None:
    """The first segments go."""
    d.publish("c", 3, size=900, priority=9)
    d.take("c", 3)
    d.ack(3)
    d.maintain(1 << 30)


def arriving_settled(d: Driver) -> None:
    """At most once: whatever was handed over is gone for good."""
    d.open()
    d.declare("c", 20.0, delivery="at_most_once")
    d.publish("c", 3)
    d.publish("c", group_name="g", priority=1)
    d.take_settled("c")
    d.take_settled("c")
    d.reopen()
    d.take_settled("c")


def grouped(d: Driver) -> None:
    """Of a group one is in flight, whichever process opens the store, from a checkpoint or from the log."""
    d.open(sync="never")
    d.publish("a", 3, group_name="g")
    d.publish("a", group_name="h", priority=7)
    d.take("a", 2)
    d.maintain()
    d.reopen()
    d.take("a", 2)
    d.reopen(from_log=True)
    d.take("a", 2)


def batched_groups(d: Driver) -> None:
    """Several of a group are held together, and go back together, whichever process opens the store."""
    d.open(sync="never")
    d.publish("a", 6, group_name="g")
    d.publish("a", 4, group_name="h", priority=7)
    d.take("a", 6, per_group=3)
    d.ack()
    d.take("a", 6, per_group=3)  # nothing: of both groups some are held
    d.maintain()
    d.reopen()
    d.take("a", 6, per_group=3)
    d.sleep(40)
    d.fall_due()
    d.take("a", 6, per_group=3)
    d.nack()
    d.release()
    d.reopen(from_log=True)
    d.take("a", 6, per_group=3)
    d.ack(3)


def upgrading(d: Driver) -> None:
    """A store that an older mq closed."""
    d.inherit("recovered")
    d.open()
    d.publish("a", 2)
    d.take("a")
    d.ack()
    d.reopen(sync="never")
    d.publish("b", size=300)
    d.take("a")
    d.close()


def upgrading_what_was_killed(d: Driver) -> None:
    """A store that an older mq left open, with a checkpoint and a head behind the first segments."""
    d.inherit("cleaned")
    d.open(sync="never")
    d.publish("a", 2)
    d.maintain(1 << 30)
    d.take("a")
    d.reopen()
    d.publish("b", size=300)


def scheduling(d: Driver) -> None:
    """Each tick is published once, while its schedule moves with the cleaner."""
    d.open()
    d.schedule("ticks", "a")
    d.do_tick("ticks")
    for index in range(6):
        d.publish("c", size=180)
        d.take("c")
        d.ack()
        if index % 3 == 2:
            d.maintain(1 << 30)
            d.schedule("ticks", "a")
            d.do_tick("ticks")
    d.take("a")
    d.ack()
    d.schedule("others", "b")
    d.unschedule("ticks")
    d.reopen()
    d.do_tick("others")
    d.schedule("others", "b")
    d.do_tick("others")
    d.flush()


def unsynced_scheduling(d: Driver) -> None:
    """The same from checkpoints, and without a disk to wait for."""
    d.open(sync="never")
    d.schedule("ticks", "a")
    d.do_tick("ticks")
    d.maintain()
    d.schedule("ticks", "a")
    d.do_tick("ticks")
    d.publish("b", 2, size=200)
    d.maintain()
    d.reopen()
    d.schedule("ticks", "a")
    d.do_tick("ticks")
    d.flush()
    d.schedule("ticks", "b")
    d.do_tick("ticks")


def retaining(d: Driver) -> None:
    """A topic retains the newest, and all of these, whatever becomes of them in queues."""
    d.open(sync="never")
    d.retain(4)
    d.subscribe("a")
    for _ in range(3):
        d.fan_out()
    d.take("a", 2)
    d.ack(2)
    d.flush()
    for index in range(20):
        d.fan_out(size=60)
        if index % 8 == 7:
            d.fall_due()
            d.maintain(1 << 30)
    d.reopen(from_log=True)
    d.retain(2)
    d.fan_out()
    d.retain(4)
    d.fan_out()


def starting_in_the_past(d: Driver) -> None:
    """A subscription and all that it brings: both are there, or neither."""
    d.open()
    d.retain(100)
    for _ in range(4):
        d.fan_out(size=50)
    d.start_in_the_past("a")
    d.fan_out()
    d.take("a", 2)
    d.ack(2)
    d.start_in_the_past("b")
    d.retain(None)
    d.reopen(from_log=True)
    d.take("b", 2)


def starting_far_in_the_past(d: Driver) -> None:
    """The same in slices: whatever is aside at a crash, there is no half of it."""
    d.open()
    d.retain(100)
    for _ in range(5):
        d.fan_out(size=50)
    d.start_in_the_past("a", slices=2)
    d.fan_out()
    d.take("a", 2)
    d.ack(2)
    d.maintain(1 << 30)
    d.start_in_the_past("b", slices=3)
    d.retain(None)
    d.reopen(from_log=True)
    d.take("b", 2)


def litter(d: Driver, size: int) -> None:
    """Garbage in the log."""
    d.publish("c", size=size)
    d.take("c")
    d.ack()


def renaming(d: Driver) -> None:
    """All of a queue and its dead letters goes along, and nothing of a new queue of the old name."""
    d.open()
    d.declare("a", 20.0, max_attempts=1)
    d.publish("a", 4)
    d.take("a", 2)
    d.reject()
    d.rename("a", "b")
    d.ack()
    d.publish("a")
    d.take("a")
    d.reject()
    for _ in range(4):
        litter(d, 300)
        d.maintain(1 << 30)
    d.reopen(from_log=True)
    d.replay("b.dead")
    d.take("b")
    d.rename("b", "d")
    d.reject()
    d.replay("a.dead")


def renamed_and_cleaned(d: Driver) -> None:
    """What the cleaner copies does not rename again: by then another queue has the old name."""
    d.open()
    d.declare("a", 20.0)
    d.rename("a", "b")
    litter(d, 700)  # the first segment has the declarations, and garbage
    d.declare("a", 20.0, max_attempts=1)
    d.publish("a", size=300)
    d.take("a")
    d.reject()
    for _ in range(4):  # garbage enough to clean the first segment, and only that
        litter(d, 700)
    d.maintain(1 << 30)
    d.reopen(from_log=True)
    d.replay("a.dead")


WORKLOADS: dict[str, Workload] = {
    each.__name__: each
    for each in (
        first_create, publish_always, publish_never, batches, unsynced_batches, acks, settling, timeouts,
        purging, rotation, unsynced_rotation, closing, full_segment, long_gap,
        cleaning, unsynced_cleaning, unsynced_closing, checkpoints, sleeping,
        ordering, dying, out_of_time, idling, expiring, publishing_once, transforming,
        fanning_out, unsynced_fanning_out, moving_shares, retaining, starting_in_the_past,
        starting_far_in_the_past, renaming, renamed_and_cleaned,
        arriving_settled, keeping_meta, asking_again, remembering, remembering_without_reading, moving,
        grouped, batched_groups, scheduling, unsynced_scheduling, upgrading, upgrading_what_was_killed,
    )
}  # fmt: skip


def aftermath(rng: random.Random) -> Workload:
    """A little of everything, for a life after a crash."""

    def run(d: Driver) -> None:
        d.fall_due()
        d.fall_due()
        for _ in range(rng.randrange(2, 7)):
            name = rng.choice("ab")
            rng.choice((
                lambda name=name: d.publish(name, size=rng.choice((0, 0, 0, 200))),
                lambda name=name: d.publish(name),
                lambda name=name: d.publish(name, rng.randrange(2, 4)),
                lambda name=name: d.take(name),
                lambda name=name: d.take(name, 2),
                lambda: d.ack(),
                lambda: d.flush(),
                lambda: d.maintain(),
                lambda: d.reopen(),
            ))()  # fmt: skip

    return run
