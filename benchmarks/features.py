"""What each feature of a queue costs when it is used, and that it costs nothing when it is not.

    python benchmarks/features.py [--messages N] [--groups N] [--queues N] [--directory DIR]

One thread, 100-byte bodies, sync="never": the disk is not what is measured.  The first line
is a queue that uses nothing; it stands at the end once more, in a store where everything
else is in use.  Each figure is the median of several rounds, with the range.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import mq

BODY = bytes(range(100))
ROUNDS = 5
NO_BACKOFF = mq.Backoff(initial=0)

Work = Callable[[mq.Queue[Any], int], None]


def cycle(queue: mq.Queue[Any], count: int, said: Callable[[int], dict[str, Any]] = lambda _: {}) -> None:
    """Publish, receive and ack so many."""
    for index in range(count):
        queue.publish(BODY, **said(index))
    for _ in range(count):
        message = queue.receive(timeout=0)
        assert message
        message.ack()


def dead_letters(queue: mq.Queue[Any], count: int) -> None:
    """Publish, receive and reject so many; then bring them back, and ack them."""
    for _ in range(count):
        queue.publish(BODY)
        message = queue.receive(timeout=0)
        assert message
        message.reject("benchmark")
    # A handle on the queue that they went to, in the same store.
    dead = mq.Queue(queue._store, queue._store.channel(f"{queue.name}.dead"))
    assert dead.replay() == count
    for message in queue.receive_many(count, timeout=0):
        message.ack()


def transactions(queue: mq.Queue[Any], count: int) -> None:
    broker = mq.Broker(queue._store)
    queue.publish_many([BODY] * count)
    for _ in range(count):
        message = queue.receive(timeout=0)
        assert message
        with broker.transaction() as tx:
            tx.ack(message)
            tx.publish("out", BODY)


def settled_on_arrival(queue: mq.Queue[Any], count: int) -> None:
    queue.publish_many([BODY] * count)
    for _ in range(count):
        assert queue.receive(timeout=0)


def measure(title: str, directory: str, work: Work, count: int, **options: Any) -> None:
    seconds = []
    for _ in range(ROUNDS):
        store = Path(tempfile.mkdtemp(dir=directory))
        with mq.open(store, sync="never") as broker:
            queue = broker.queue("bench", **options) if options else broker.queue("bench")
            begin = time.perf_counter()
            work(queue, count)
            seconds.append((time.perf_counter() - begin) / count * 1e6)
        shutil.rmtree(store)
    report(title, seconds)


def report(title: str, micros: list[float]) -> None:
    click.echo(f"{title:44} {statistics.median(micros):8.2f} µs  ({min(micros):.2f}–{max(micros):.2f})")


def beside_everything(directory: str, count: int, groups: int, queues: int) -> None:
    """A plain queue, while other queues of the store hold many delayed, grouped and expiring messages."""
    store = Path(tempfile.mkdtemp(dir=directory))
    with mq.open(store, sync="never") as broker:
        crowd = broker.queue("crowd", ttl=86_400, max_attempts=5)
        with broker.transaction() as tx:
            for index in range(groups):
                tx.publish(crowd, BODY, group=str(index), delay=3600 if index % 2 else 0)
        for index in range(queues):
            broker.queue(f"queue-{index}", max_length=10)
        seconds = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            cycle(broker.queue("bench"), count)
            seconds.append((time.perf_counter() - begin) / count * 1e6)
    shutil.rmtree(store)
    report(f"plain, beside {groups:,} in groups, {queues:,} queues", seconds)


@click.command(help=__doc__)
@click.option("--messages", default=20_000, show_default=True)
@click.option("--groups", default=100_000, show_default=True)
@click.option("--queues", default=1_000, show_default=True)
@click.option("--directory", type=click.Path(file_okay=False), help="On the disk to measure.")
def main(messages: int, groups: int, queues: int, directory: str | None) -> None:
    scratch = tempfile.mkdtemp(prefix="mq-bench-", dir=directory)
    keys = itertools.count()
    later = {"delay": 0.001}
    cases: list[tuple[str, Work, dict[str, Any]]] = [
        ("plain: publish, receive, ack", cycle, {}),
        ("priority, 256 of them", lambda q, n: cycle(q, n, lambda i: {"priority": i % 256}), {}),
        ("headers", lambda q, n: cycle(q, n, lambda i: {"headers": {"trace": "0123456789"}}), {}),
        ("ttl of the queue", cycle, {"ttl": 3600}),
        ("a group each", lambda q, n: cycle(q, n, lambda i: {"group": str(i)}), {}),
        ("dedup_id", lambda q, n: cycle(q, n, lambda i: {"dedup_id": str(next(keys))}), {}),
        ("max_attempts", cycle, {"max_attempts": 5}),
        ("max_length", cycle, {"max_length": 1 << 40}),
        ("delayed, published only", lambda q, n: [q.publish(BODY, **later) for _ in range(n)] and None, {}),
        ("at most once", settled_on_arrival, {"delivery": "at_most_once"}),
        ("transaction: ack one, publish one", transactions, {}),
        ("rejected, replayed, acked", dead_letters, {"backoff": NO_BACKOFF}),
    ]
    try:
        for title, work, options in cases:
            measure(title, scratch, work, messages, **options)
        beside_everything(scratch, messages, groups, queues)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
