"""What a store takes: on the disk under traffic, and in memory for what waits.

    python benchmarks/space.py [--gigabytes N] [--stuck N] [--waiting N] [--directory DIR]

Three figures, each against its bound: the disk while much more is published and acked
than it holds; the same beside a backlog that is never taken; memory for a waiting message.
Write amplification is bytes appended to the log, cleaning included, over bytes that the
traffic itself appends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

import mq

SEGMENT = 64 << 20
OVERHEAD = 96  # what a live message counts in the log beside its body


class Peak:
    """The largest size that the log's directory had."""

    def __init__(self, store: Path) -> None:
        self._log = store / "log"
        self.bytes = self.files = 0

    def look(self) -> None:
        sizes = []
        for name in os.listdir(self._log):
            try:
                sizes.append(os.stat(self._log / name).st_blocks * 512)
            except FileNotFoundError:
                continue
        self.bytes, self.files = max(self.bytes, sum(sizes)), max(self.files, len(sizes))


def traffic(queue: mq.Queue[bytes], body: bytes, total: int, peak: Peak) -> float:
    """Publish and ack *total* bytes; seconds."""
    begin = time.perf_counter()
    batch = [body] * max(1, min(100, (1 << 20) // len(body)))
    for turn in range(total // (len(body) * len(batch))):
        queue.publish_many(batch)
        queue.ack_many(queue.receive_many(len(batch)))
        if turn % 20 == 0:
            peak.look()
    return time.perf_counter() - begin


def own_bytes(body: bytes, total: int) -> int:
    """What publishing, delivering and acking *total* bytes appends."""
    return total // len(body) * (24 + len(body) + 40 + 36)


def through(store: Path, gigabytes: float) -> None:
    body, total = os.urandom(10_000), int(gigabytes * (1 << 30))
    with mq.open(store, sync="never") as broker:
        peak = Peak(store)
        seconds = traffic(broker.queue("traffic"), body, total, peak)
        end = broker._store.replica.log.end
    peak_after = Peak(store)
    peak_after.look()
    click.echo(
        f"{gigabytes:g} GB through a store, in {seconds:.0f} s: at most {peak.files} segments,"
        f" {peak.bytes >> 20} MiB; after closing {peak_after.files} segments, {peak_after.bytes >> 20} MiB;"
        f" write amplification {end / own_bytes(body, total):.3f}"
    )


def stuck(store: Path, messages: int) -> None:
    body, small = os.urandom(1000), bytes(100)
    total = 20 * messages * len(small)
    with mq.open(store, sync="never") as broker:
        queue = broker.queue("stuck")
        for _ in range(messages // 1000):
            queue.publish_many([small] * 1000)
        before, peak = broker._store.replica.log.end, Peak(store)
        seconds = traffic(broker.queue("traffic"), body, total, peak)
        appended = broker._store.replica.log.end - before
        live = messages * (len(small) + OVERHEAD)
        assert queue.stats().ready == messages
    bound = 2 * live + 4 * SEGMENT
    click.echo(
        f"{messages:,} stuck messages and {total >> 20} MiB of other traffic, in {seconds:.0f} s: at most"
        f" {peak.bytes >> 20} MiB on disk, the bound is {bound >> 20} MiB ({peak.bytes / bound:.2f});"
        f" write amplification {appended / own_bytes(body, total):.2f}"
    )


WAITING = """
import os, resource, sys, mq
def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
count, size = int(sys.argv[2]), int(sys.argv[3])
broker = mq.open(sys.argv[1], sync="never")
queue = broker.queue("bench")
for _ in range(10):
    queue.publish_many([bytes(size)] * 1000)  # what a process takes once
before = rss()
for _ in range(count // 1000):
    queue.publish_many([bytes(size)] * 1000)
print((rss() - before) / count, len(os.listdir("/proc/self/fd")), len(broker._store.replica.log.segments))
os._exit(0)
"""


def waiting(store: Path, messages: int, size: int) -> None:
    command = [sys.executable, "-c", WAITING, str(store), str(messages), str(size)]
    each, files, segments = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    click.echo(
        f"{messages:,} waiting messages of {size} bytes: {float(each):.1f} bytes of memory each;"
        f" {files} open files for {segments} segments"
    )


@click.command(help=__doc__)
@click.option("--gigabytes", default=10.0, show_default=True, help="Published and acked through one store.")
@click.option(
    "--stuck", "backlog", default=1_000_000, show_default=True, help="Messages that are never taken."
)
@click.option(
    "--waiting", "count", default=5_000_000, show_default=True, help="Messages, for the memory of each."
)
@click.option("--directory", type=click.Path(file_okay=False), help="On the disk to measure.")
def main(gigabytes: float, backlog: int, count: int, directory: str | None) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="mq-bench-", dir=directory))
    try:
        through(scratch / "through", gigabytes)
        stuck(scratch / "stuck", backlog)
        waiting(scratch / "small", count, 100)
        shutil.rmtree(scratch / "small")
        waiting(scratch / "large", count // 50, 10_000)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
