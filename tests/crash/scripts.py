"""What several processes do: a script for each, over an actor.

Each script must make sense whatever the others do, or do not get to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mq.errors import StorageError, StoreLocked

from .actor import Actor

Script = Callable[[Actor], None]


class Workload(NamedTuple):
    scripts: tuple[Script, ...]  # one for each process
    before: Script | None = None  # what the first has done before the others come


def opened(a: Actor) -> None:
    a.open()
    a.publish("q")


def filled(a: Actor) -> None:
    """Several segments, most of them garbage, and a message that is stuck in the first."""
    a.open()
    a.publish("stuck", 2, size=60)
    a.take("stuck")
    for _ in range(6):
        a.publish("q", size=330)
        a.take("q")
        a.held.reverse()
        a.ack()


def unsynced(a: Actor) -> None:
    a.open("never")
    a.publish("q", 2)


def publish_take_ack(a: Actor) -> None:
    a.open()
    a.publish("q")
    a.take("q")
    a.ack()
    a.publish("q")


def compete(a: Actor) -> None:
    a.open()
    a.take("q")
    a.take("q")
    a.ack()
    a.nack()
    a.take("q", 2)
    a.release()
    a.ack()


def settle(a: Actor) -> None:
    """Timeouts, extensions, delays, receipts that may have been overtaken; and the wall clock is set."""
    a.set_wall_clock(40.0)
    a.open()
    a.take("q", visibility_timeout=10.0)
    a.extend(40.0)
    a.sleep(15.0)
    a.ack()
    a.take("q", 2, visibility_timeout=5.0)
    a.nack(delay=3.0)
    a.sleep(6.0)
    a.take("q")
    a.ack()
    a.release()


def batches(a: Actor) -> None:
    a.open()
    a.publish("q", 3)
    a.take("q", 4)
    a.ack()
    a.publish("r", 2, size=120)
    a.publish("q", 4, size=150)
    a.nack()


def rotate(a: Actor) -> None:
    a.open()
    for index in range(5):
        a.publish("q", size=300 + 31 * index)
    a.take("q")
    a.ack()


def rotate_unsynced(a: Actor) -> None:
    a.open("never")
    for index in range(5):
        a.publish("q", 1 + index % 2, size=260)
    a.take("q")
    a.flush()
    a.publish("q")
    a.ack()


def publish_always(a: Actor) -> None:
    a.open()
    for _ in range(3):
        a.publish("q", size=200)


def write_on(a: Actor) -> None:
    for _ in range(3):
        a.publish("q")
        a.take("stuck")
        a.ack()
    a.publish("q", size=400)


def clean(a: Actor) -> None:
    a.open()
    a.maintain()
    a.publish("q", size=300)
    a.take("q")
    a.ack()
    a.maintain(1 << 30)
    a.maintain()


def idle_then_take(a: Actor) -> None:
    """Behind for long: what it knows may be gone from the log."""
    a.open()
    a.look("stuck")
    for _ in range(3):
        a.rest()
    a.take("stuck")
    a.take("q")
    a.options("q")
    a.ack()
    a.publish("stuck")


def stay(a: Actor) -> None:
    a.open("never")
    a.publish("q")
    a.rest()
    a.rest()
    a.publish("q", size=200)
    a.rest()
    a.take("q")


def churn(a: Actor) -> None:
    """Whole segments come and go."""
    a.open()
    for _ in range(5):
        a.publish("q", 2, size=380)
        a.take("q", 2)
        a.ack()
        a.ack()
        a.maintain(1 << 30)


def come_and_go(a: Actor) -> None:
    for _ in range(2):
        a.open()
        a.publish("q")
        a.close()


def come_and_take(a: Actor) -> None:
    for _ in range(2):
        a.open("never")
        a.take("q")
        a.ack()
        a.close()


def create(a: Actor) -> None:
    a.open()
    a.publish("q")
    a.take("q")


def exclusively(a: Actor) -> None:
    a.open(exclusive=True, excuse=(StoreLocked,))
    a.publish("q")
    a.take("q")
    a.close()


def as_guest(a: Actor) -> None:
    a.open(excuse=(StoreLocked,))
    a.publish("q")
    a.take("q")
    a.ack()
    a.close()


def read_only(a: Actor) -> None:
    for _ in range(2):
        a.open(read_only=True, excuse=(StoreLocked, StorageError))
        a.look("q")
        a.look("stuck")
        a.rest()
        a.look("q")
        a.close()


def declare(a: Actor) -> None:
    a.open()
    a.declare("q", 20.0)
    a.take("q")
    a.options("q")
    a.declare("q", 45.0)
    a.publish("q")
    a.options("q")


def observe(a: Actor) -> None:
    a.open()
    a.options("q")
    a.take("q")
    a.declare("q", 70.0)
    a.options("q")
    a.purge("q")
    a.take("q")


def closed(before: Script) -> Script:
    """The same, and in good order."""

    def script(a: Actor) -> None:
        before(a)
        a.close()

    return script


# ── topics ─────────────────────────────────────────────────────────────────────────────


def subscribed(a: Actor) -> None:
    a.open()
    a.subscribe("a")
    a.subscribe("b")
    a.fan_out(size=300)


def fan_out(a: Actor) -> None:
    a.open()
    a.fan_out()
    a.take("a")
    a.ack()
    a.fan_out(size=400)
    a.take("b", 2)
    a.ack()
    a.release()


def come_and_subscribe(a: Actor) -> None:
    a.open("never")
    a.subscribe("c")
    a.take("c")
    a.fan_out()
    a.unsubscribe("b")
    a.take("c", 2)
    a.ack()
    a.subscribe("b", "t")
    a.fan_out()


def clean_among_subscribers(a: Actor) -> None:
    """What is cleaned holds subscriptions, some of which are taken back meanwhile."""
    a.open("never")
    for _ in range(2):
        a.publish("q", 2, size=400)
        a.take("q", 2)
        a.ack()
        a.ack()
        a.maintain(1 << 30)
    a.fan_out()


def retained(a: Actor) -> None:
    a.open("never")
    a.retain(1000)
    for index in range(3):
        a.fan_out(size=60 + 300 * (index == 1))


def start_in_the_past(pattern: str, then: str) -> Script:
    """And once more, when some of it is settled already."""

    def script(a: Actor) -> None:
        a.open("never")
        a.subscribe("a", pattern, since=True)
        a.take("a", 3)
        a.ack()
        a.ack()
        a.subscribe("a", then, since=True)
        a.take("a", 3)

    return script


def fan_out_only(a: Actor) -> None:
    a.open()
    for _ in range(3):
        a.fan_out()


def bounded(a: Actor) -> None:
    a.open("never")
    a.retain(3)
    for _ in range(4):
        a.fan_out(size=200)


def read_history(a: Actor) -> None:
    a.open("never")
    a.read_history()
    a.fan_out(size=300)
    a.maintain(1 << 30)
    a.read_history()


# ── schedules ──────────────────────────────────────────────────────────────────────────


def scheduled(a: Actor) -> None:
    a.open()
    a.schedule("s", "ticks", 2.0)
    a.publish("q", size=500)


def tick(a: Actor) -> None:
    a.open("never")
    a.sleep(2.5)
    a.tick()
    a.take("ticks")
    a.ack()
    a.schedule("s", "ticks", 2.0)
    a.sleep(4.0)
    a.publish("q", size=300)
    a.tick()


def clean_and_tick(a: Actor) -> None:
    a.open()
    a.take("q")
    a.ack()
    a.publish("q", size=600)
    a.sleep(3.0)
    a.maintain(1 << 30)
    a.tick()
    a.maintain()


# ── compare-and-set ────────────────────────────────────────────────────────────────────


def compare_and_set(a: Actor) -> None:
    a.open()
    for _ in range(3):
        a.compare_and_set("q")


def declare_beside(a: Actor) -> None:
    a.open("never")
    a.compare_and_set("q")
    a.declare("q", 20.0)
    a.publish("r", 2, size=400)
    a.take("r", 2)
    a.ack()
    a.maintain(1 << 30)
    a.compare_and_set("q")


# ── groups ─────────────────────────────────────────────────────────────────────────────


def grouped(a: Actor) -> None:
    a.open("never")
    a.publish("q", 3, group="g")
    a.publish("q", 2, group="h")
    a.publish("q", group="g")


def take_runs(a: Actor) -> None:
    """Several of a group at once; one goes back, and those behind it do."""
    a.open("never")
    a.take("q", 3, per_group=None)
    a.ack()
    a.nack()
    a.take("q", 4, per_group=2)
    a.publish("q", group="g")
    a.ack()
    a.release()
    a.ack()


def take_one_by_one(a: Actor) -> None:
    a.open("never")
    for _ in range(3):
        a.take("q")
        a.ack()
    a.publish("q", 2, group="h")
    a.take("q", 2)
    a.release()


WORKLOADS: dict[str, Workload] = {
    "two publish and take": Workload((publish_take_ack, publish_take_ack)),
    "three compete": Workload((compete, compete, publish_take_ack), unsynced),
    "settling": Workload((settle, settle, publish_take_ack), unsynced),
    "batches": Workload((batches, compete, batches)),
    "rotation": Workload((rotate, rotate)),
    "unsynced rotation": Workload((rotate_unsynced, publish_always, compete)),
    "one syncs for another": Workload((rotate_unsynced, publish_always)),
    "cleaning": Workload((write_on, clean, idle_then_take), filled),
    "two clean": Workload((clean, clean), closed(filled)),
    "idle": Workload((idle_then_take, clean, write_on), closed(filled)),
    "far behind": Workload((idle_then_take, churn), closed(filled)),
    "stay while others go": Workload((stay, come_and_take, stay)),
    "come and go": Workload((come_and_go, come_and_take, come_and_go)),
    "first creation": Workload((create, create, read_only)),
    "exclusive": Workload((exclusively, as_guest, exclusively), closed(opened)),
    "read-only": Workload((clean, read_only, rotate), closed(filled)),
    "behind a closing record": Workload((unsynced, unsynced), closed(opened)),
    "definitions": Workload((declare, observe, declare)),
    "fan-outs": Workload((fan_out, come_and_subscribe, fan_out), subscribed),
    "subscriptions and the cleaner": Workload((clean_among_subscribers, come_and_subscribe), subscribed),
    "starting in the past": Workload(
        (start_in_the_past("#", "t"), start_in_the_past("t", "#"), start_in_the_past("#", "*"), fan_out_only),
        retained,
    ),
    "history": Workload((read_history, read_history, fan_out_only), bounded),
    "schedules": Workload((tick, clean_and_tick, tick), scheduled),
    "compare and set": Workload((compare_and_set, declare_beside, compare_and_set)),
    "groups": Workload((take_runs, take_one_by_one, take_runs), grouped),
}
