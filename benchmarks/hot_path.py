"""What a message costs, beside what the disk alone costs: 100-byte bodies.

    python benchmarks/hot_path.py [--messages N] [--backlog N] [--directory DIR]

Each figure stands beside the raw loop of `write` (and `fdatasync`) of as many bytes on
the same disk in the same run, taken just before and just after it; the ratio is what to
compare between machines.  Medians of several rounds, with the range.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click

import mq

BODY = bytes(range(100))
RECORD_BYTES = 24 + len(BODY)
ROUNDS = 5
PUBLISHERS, RECEIVERS = 10, 5


def raw_loop(directory: str, count: int, *, sync: bool) -> float:
    """Seconds for *count* plain writes of a record's size."""
    data = os.urandom(RECORD_BYTES)
    path = os.path.join(directory, "raw")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        begin = time.perf_counter()
        if sync:
            for _ in range(count):
                os.write(fd, data)
                os.fdatasync(fd)
        else:
            for _ in range(count):
                os.write(fd, data)
        return time.perf_counter() - begin
    finally:
        os.close(fd)
        os.unlink(path)


def publish(broker: mq.Broker, count: int) -> float:
    queue = broker.queue("bench")
    queue.publish(BODY)
    begin = time.perf_counter()
    for _ in range(count):
        queue.publish(BODY)
    return time.perf_counter() - begin


def publish_many(broker: mq.Broker, count: int) -> float:
    queue = broker.queue("bench")
    batch = [BODY] * 100
    begin = time.perf_counter()
    for _ in range(count // 100):
        queue.publish_many(batch)
    return time.perf_counter() - begin


def receive_ack(broker: mq.Broker, count: int) -> float:
    queue = broker.queue("bench")
    queue.publish_many([BODY] * count)
    begin = time.perf_counter()
    for _ in range(count):
        queue.receive().ack()
    return time.perf_counter() - begin


def receive_ack_many(broker: mq.Broker, count: int) -> float:
    queue = broker.queue("bench")
    queue.publish_many([BODY] * count)
    begin = time.perf_counter()
    for _ in range(count // 100):
        queue.ack_many(queue.receive_many(100))
    return time.perf_counter() - begin


def publish_in_threads(broker: mq.Broker, count: int) -> float:
    queue = broker.queue("bench")
    queue.publish(BODY)

    def work() -> None:
        for _ in range(count // PUBLISHERS):
            queue.publish(BODY)

    return together([work] * PUBLISHERS)


def all_in_threads(broker: mq.Broker, count: int) -> float:
    """Until all that is published is acked."""
    queue = broker.queue("bench")
    queue.publish(BODY)
    queue.receive().ack()
    left = iter(range(count))  # one step of C: each message is taken from it once

    def publish() -> None:
        for _ in range(count // PUBLISHERS):
            queue.publish(BODY)

    def receive() -> None:
        for _ in left:
            queue.receive().ack()

    return together([publish] * PUBLISHERS + [receive] * RECEIVERS)


def together(works: list[Callable[[], None]]) -> float:
    """Seconds until threads that do *works* have ended."""
    threads = [threading.Thread(target=work) for work in works]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def measure(
    title: str,
    work: Callable[[mq.Broker, int], float],
    count: int,
    directory: str,
    sync: mq.Sync,
    raw_sync: bool,
) -> None:
    """Print the median of *work* beside the raw loop's, and the ratio of their rates."""
    times, ratios, raws = [], [], []
    for _ in range(ROUNDS):
        store = os.path.join(directory, "store")
        before = raw_loop(directory, count, sync=raw_sync)
        with mq.open(store, sync=sync) as broker:
            seconds = work(broker, count)
        after = raw_loop(directory, count, sync=raw_sync)
        shutil.rmtree(store)
        raw = (before + after) / 2
        times.append(seconds / count)
        raws.append(raw / count)
        ratios.append(raw / seconds)
    micro, raw_micro = statistics.median(times) * 1e6, statistics.median(raws) * 1e6
    click.echo(
        f"{title:34} {micro:8.2f} µs {1 / statistics.median(times):10,.0f}/s   raw {raw_micro:7.2f} µs"
        f"   ratio {statistics.median(ratios):5.2f}  ({min(ratios):.2f}–{max(ratios):.2f})"
    )


def recovery(count: int, directory: str) -> None:
    """Time from open to first delivery, with *count* unacked messages and no checkpoint to help."""
    store = os.path.join(directory, "store")
    with mq.open(store, sync="never") as broker:
        queue = broker.queue("bench")
        for begin in range(0, count, 10_000):
            queue.publish_many([BODY] * min(10_000, count - begin))
    seconds, reads = [], []
    for _ in range(3):
        begin = time.perf_counter()
        for segment in sorted(Path(store, "log").iterdir()):
            segment.read_bytes()
        reads.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with mq.open(store, sync="never") as broker:
            broker.queue("bench").receive(timeout=0)
            seconds.append(time.perf_counter() - begin)
    size = sum(segment.stat().st_size for segment in Path(store, "log").iterdir())
    shutil.rmtree(store)
    click.echo(
        f"recovery of {count:,} messages, {size >> 20} MiB: {statistics.median(seconds):.2f} s"
        f" ({min(seconds):.2f}–{max(seconds):.2f}); reading the same bytes: {statistics.median(reads):.2f} s"
    )


@click.command(help=__doc__)
@click.option("--messages", default=50_000, show_default=True, help="For each figure without fsync.")
@click.option("--backlog", default=1_000_000, show_default=True, help="Messages to recover.")
@click.option(
    "--directory", type=click.Path(file_okay=False), help="On the disk to measure; default: a temporary one."
)
def main(messages: int, backlog: int, directory: str | None) -> None:
    scratch = tempfile.mkdtemp(prefix="mq-bench-", dir=directory)
    try:
        synced = max(100, messages // 25)
        measure('publish, sync="never"', publish, messages, scratch, "never", False)
        measure('publish_many of 100, "never"', publish_many, messages, scratch, "never", False)
        measure('receive + ack, "never"', receive_ack, messages, scratch, "never", False)
        measure('both, many of 100, "never"', receive_ack_many, messages, scratch, "never", False)
        measure('publish, 10 threads, "never"', publish_in_threads, messages, scratch, "never", False)
        measure('10 publish, 5 receive + ack, "never"', all_in_threads, messages, scratch, "never", False)
        measure('publish, sync="always"', publish, synced, scratch, "always", True)
        measure('publish_many of 100, "always"', publish_many, synced, scratch, "always", True)
        measure('receive + ack, "always"', receive_ack, synced, scratch, "always", True)
        recovery(backlog, scratch)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
