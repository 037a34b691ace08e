"""What a publish to a topic costs beside one to a queue: many queues, many patterns; and reading history.

    python benchmarks/topics.py [--messages N] [--bindings N] [--directory DIR]

One thread, 100-byte bodies, sync="never": the disk is not what is measured.  Each figure is the median
of several rounds, with the range.  What is compared takes turns in the same store, round by round, so that
a machine that slows down slows both; the ratio is that of the medians.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

import mq

BODY = bytes(range(100))
ROUNDS = 5
FANS = (1, 10, 100)
FEW_BINDINGS = 10
PATTERNS_PER_QUEUE = 10
CHANGES = 1000  # publishes between two changes of a binding

Work = Callable[[int], object]


def seconds_each(work: Work, count: int) -> float:
    begin = time.perf_counter()
    work(count)
    return (time.perf_counter() - begin) / count


def compare(cases: dict[str, Work], count: int) -> None:
    """Report the time for each of *count*, and how many times that of the first case it is."""
    found: dict[str, list[float]] = {title: [] for title in cases}
    for _ in range(ROUNDS):
        for title, work in cases.items():
            found[title].append(seconds_each(work, count) * 1e6)
    first = statistics.median(next(iter(found.values())))
    for title, micros in found.items():
        middle = statistics.median(micros)
        click.echo(
            f"{title:52} {middle:8.2f} µs  ({min(micros):.2f}–{max(micros):.2f})  × {middle / first:.2f}"
        )


def publishing(target: mq.Queue[bytes] | mq.Topic[bytes]) -> Work:
    def publish(count: int) -> None:
        for _ in range(count):
            target.publish(BODY)

    return publish


def fan_out(broker: mq.Broker, count: int) -> None:
    cases = {"publish to a queue": publishing(broker.queue("queue"))}
    numbers = itertools.count()
    for fan in FANS:
        topic = f"fan.{fan}"
        for _ in range(fan):
            broker.queue(f"q{next(numbers)}").subscribe(topic)
        cases[f"publish to a topic that {fan:,} queues get"] = publishing(broker.topic(topic))
    compare(cases, count)


def bind(broker: mq.Broker, count: int) -> None:
    for number in range(count):
        broker.queue(f"q{number // PATTERNS_PER_QUEUE}").subscribe(f"events.{number}.*")


def many_bindings(few: mq.Broker, many: mq.Broker, bindings: int, count: int) -> None:
    bind(few, FEW_BINDINGS)
    bind(many, bindings)

    def rebinding(broker: mq.Broker) -> Work:
        topic, queue = broker.topic("events.7.paid"), broker.queue("other")

        def publish(count: int) -> None:
            for number in range(count):
                if number % CHANGES == 0 and not queue.unsubscribe("other.#"):
                    queue.subscribe("other.#")
                topic.publish(BODY)

        return publish

    for title, work in (
        ("1 of {:,} patterns", lambda broker: publishing(broker.topic("events.7.paid"))),
        (f"1 of {{:,}} patterns, one changes every {CHANGES:,}", rebinding),
    ):
        compare({title.format(FEW_BINDINGS): work(few), title.format(bindings): work(many)}, count)


def history(broker: mq.Broker, count: int) -> None:
    topic = broker.topic("retained", retain_count=1 << 40)
    publishing(topic)(count)

    def read_bodies(count: int) -> None:
        assert sum(1 for message in topic.history() if message.body) == count

    compare({"history: a message read, and its body": read_bodies}, count)


@click.command(help=__doc__)
@click.option("--messages", default=20_000, show_default=True)
@click.option("--bindings", default=10_000, show_default=True)
@click.option("--directory", type=click.Path(file_okay=False), help="On the disk to measure.")
def main(messages: int, bindings: int, directory: str | None) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="mq-bench-", dir=directory))
    stores = (scratch / name for name in ("fan", "few", "many", "history"))
    try:
        with mq.open(next(stores), sync="never") as broker:
            fan_out(broker, messages)
        with mq.open(next(stores), sync="never") as few, mq.open(next(stores), sync="never") as many:
            many_bindings(few, many, bindings, messages)
        with mq.open(next(stores), sync="never") as broker:
            history(broker, messages)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
