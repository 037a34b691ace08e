"""How long opening takes, from open to first delivery, beside a plain read of the same bytes.

    python benchmarks/recovery.py [--messages N] [--many N] [--log-gigabytes N] [--directory DIR]

Every opening is a process of its own, as it is after a crash; what it takes to start
Python and import mq is not counted.  Medians of several rounds, with the range.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

BODY_BYTES = 100
ROUNDS = 5

OPEN = """
import sys, time, mq, mq.engine.cleaning
if sys.argv[2] == "long":  # a log that the cleaner would soon make short
    mq.engine.cleaning.cleaner.is_due = lambda log, live_bytes: False
begin = time.perf_counter()
broker = mq.open(sys.argv[1], sync="never")
found = broker.queue("bench").receive(timeout=0)
print(time.perf_counter() - begin)
if sys.argv[2] == "release":
    if found:
        found.release()
    broker.close()
else:
    import os
    os._exit(0)
"""

FILL = """
import os, sys, mq, mq.engine.cleaning
broker = mq.open(sys.argv[1], sync="never")
queue = broker.queue("bench")
for _ in range(int(sys.argv[2]) // 1000):
    queue.publish_many([bytes(100)] * 1000)
if sys.argv[3] == "killed":
    for number in range(60_000):  # traffic: the tail that a crash leaves
        queue.publish(bytes(100))
        if number % 2:
            queue.receive().ack()
    os._exit(1)
broker.close()
"""

DRAIN = """
import os, sys, mq, mq.engine.cleaning
broker = mq.open(sys.argv[1], sync="never")
kept, queue = broker.queue("bench"), broker.queue("traffic")
body = bytes(100_000)
target = int(sys.argv[2]) << 30
stuck = [kept.publish(bytes(100)) for _ in range(1000)]
batch = [body] * 100
mq.engine.cleaning.cleaner.is_due = lambda log, live_bytes: False
while broker._store.replica.log.end < target:
    queue.publish_many(batch)
    queue.ack_many(queue.receive_many(100))
broker.close()
"""


def run(code: str, *args: object) -> str:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, check=code is not FILL, stdout=subprocess.PIPE, text=True).stdout


def plain_read(store: Path) -> float:
    begin = time.perf_counter()
    for segment in sorted((store / "log").iterdir()):
        with segment.open("rb") as file:
            while file.read(1 << 20):
                pass
    return time.perf_counter() - begin


def report(title: str, store: Path, before: Callable[[], None] | None = None, after: str = "release") -> None:
    times = []
    for _ in range(ROUNDS):
        if before:
            before()
        times.append(float(run(OPEN, store, after)) * 1000)
    middle = statistics.median(times)
    reads = [plain_read(store) for _ in range(3)]
    size = sum(segment.stat().st_size for segment in (store / "log").iterdir())
    click.echo(
        f"{title:52} {middle:9.1f} ms  ({min(times):.1f}–{max(times):.1f})"
        f"   reading its {size >> 20:,} MiB: {statistics.median(reads) * 1000:,.0f} ms"
    )


def without_checkpoint(store: Path) -> None:
    shutil.rmtree(store / "checkpoint", ignore_errors=True)


@click.command(help=__doc__)
@click.option("--messages", default=1_000_000, show_default=True, help="Unacked, of 100 bytes.")
@click.option(
    "--many", default=10_000_000, show_default=True, help="Unacked, for the second checkpoint figure."
)
@click.option(
    "--log-gigabytes", default=10, show_default=True, help="Length of the log with 1,000 live messages."
)
@click.option("--directory", type=click.Path(file_okay=False), help="On the disk to measure.")
def main(messages: int, many: int, log_gigabytes: int, directory: str | None) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="mq-bench-", dir=directory))
    try:
        run(FILL, scratch / "empty", 0, "closed")
        report("an empty store", scratch / "empty")

        run(FILL, scratch / "one", messages, "closed")
        store = scratch / "one"
        report(f"{messages:,} unacked, full scan", store, lambda: without_checkpoint(store))
        report(f"{messages:,} unacked, checkpoint, after a clean close", store)
        shutil.rmtree(store)

        run(FILL, scratch / "killed", messages, "killed")
        shutil.copytree(scratch / "killed", scratch / "copy")

        def restore() -> None:
            shutil.rmtree(scratch / "copy")
            shutil.copytree(scratch / "killed", scratch / "copy")

        report(f"{messages:,} unacked, after a kill in mid-traffic", scratch / "copy", restore)
        for name in ("killed", "copy"):
            shutil.rmtree(scratch / name)

        if many:
            run(FILL, scratch / "many", many, "closed")
            report(f"{many:,} unacked, checkpoint", scratch / "many")
            shutil.rmtree(scratch / "many")
        if log_gigabytes:
            run(DRAIN, scratch / "long", log_gigabytes)
            report(f"a log of {log_gigabytes} GB, 1,000 live", scratch / "long", after="long")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
