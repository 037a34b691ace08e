"""Monitoring: a program that only looks, and says when an alert begins and when it is over.

It opens the store read-only beside the processes that use it: it takes nothing and changes nothing.  `mq
stats` shows the same figures on the command line.

Prints:

    ALERT orders: more than 2 wait
    ALERT orders: the oldest has waited for too long
    ALERT orders.dead: there are dead letters
    over: orders: more than 2 wait
    over: orders: the oldest has waited for too long
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mq

DEPTH_MAX = 2  # messages
AGE_SECONDS_MAX = 0.1  # perhaps 300 in a real one
EVERY_SECONDS = 0.05  # perhaps 15


def find_alerts(stats: mq.StoreStats) -> Iterator[str]:
    for name, queue in stats.queues.items():
        if name.endswith(".dead"):
            if queue.ready:
                yield f"{name}: there are dead letters"
            continue
        if queue.ready > DEPTH_MAX:
            yield f"{name}: more than {DEPTH_MAX} wait"
        if queue.oldest_age > AGE_SECONDS_MAX:
            yield f"{name}: the oldest has waited for too long"


def monitor(directory: Path, alerts: set[str], *, until: int) -> set[str]:
    """Look, again and again, until there are so many alerts; a real one goes on for ever."""
    with mq.open(directory / "mq", read_only=True) as broker:
        while True:
            now = set(find_alerts(broker.stats()))
            for alert in sorted(now - alerts):
                print("ALERT", alert)
            for alert in sorted(alerts - now):
                print("over:", alert)
            alerts = now
            if len(alerts) == until:
                return alerts
            time.sleep(EVERY_SECONDS)


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:
        orders = broker.queue("orders", type=str)
        orders.publish_many(["lamp", "chair", "?"])
        alerts = monitor(directory, set(), until=2)  # no worker runs

        @broker.consumer(orders)
        def check(order: str) -> None:
            if order == "?":
                raise mq.Reject("no such item")

        broker.run(until_empty=True)
        monitor(directory, alerts, until=1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
