"""What it costs that a store is shared by processes.

    python benchmarks/processes.py [--messages N] [--rounds N] [--quick] [--directory DIR]

One table, medians with the range over the rounds, 100-byte bodies, sync="never":

    1 → 1, 2 → 2, 4 → 4     messages a second from publish through receive to ack, of so many
                            publishing and as many consuming processes; one message at a time,
                            and in batches: publish_many, receive_many, ack_many of 100
    one process             the same work, one message at a time, by one thread of one process
    hand-off                from before a publish until a receiver that was blocked in another
                            process has the message; and what that process uses while it waits
    now and then            what a publish takes in a process that publishes seldom, beside one and
                            beside three that do all the time: it applies what they did meanwhile;
                            and another one right behind it, which only has to get the lock
    beside a loop of …      the same beside a process that polls an empty queue, or looks, all the time
    shared, exclusive       one process alone, the same store opened in either way
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import click

import mq

BODY = bytes(range(100))
STOP = b"stop"
BATCH = 100
COLD_SECONDS = 0.005  # between two publishes of the cold process
IDLE_SECONDS = 2.0
WARM_UP = 100  # messages before anything is timed

spawn = multiprocessing.get_context("spawn")


# ── other processes ────────────────────────────────────────────────────────────────


class Helper(NamedTuple):
    process: Any
    pipe: Connection

    def go(self) -> None:
        self.pipe.send(None)

    def result(self) -> Any:
        return self.pipe.recv()


@contextmanager
def helpers(store: str, *works: tuple[Any, ...]) -> Iterator[list[Helper]]:
    """A process for each of *works*, a function and its arguments; with the store open, it waits to `go`."""
    started = []
    try:
        for work in works:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_help, args=(store, theirs, *work), daemon=True)
            process.start()
            started.append(Helper(process, ours))
        for helper in started:
            helper.result()  # it is ready
        yield started
        for helper in started:
            helper.process.join()
    finally:
        for helper in started:
            helper.process.kill()


def _help(store: str, pipe: Connection, work: Callable[..., Any], *args: Any) -> None:
    with mq.open(store, sync="never") as broker:
        queue = broker.queue("bench")
        queue.stats()
        pipe.send(None)
        pipe.recv()
        pipe.send(work(queue, pipe, *args))


def _publish(queue: mq.Queue[bytes], pipe: Connection, count: int) -> None:
    for _ in range(count):
        queue.publish(BODY)


def _consume(queue: mq.Queue[bytes], pipe: Connection) -> int:
    count = 0
    while True:
        message = queue.receive()
        message.ack()
        if message.raw == STOP:
            return count
        count += 1


def _publish_batches(queue: mq.Queue[bytes], pipe: Connection, count: int) -> None:
    for _ in range(count // BATCH):
        queue.publish_many([BODY] * BATCH)


def _consume_batches(queue: mq.Queue[bytes], pipe: Connection) -> int:
    count = 0
    while True:
        messages = queue.receive_many(BATCH)
        queue.ack_many(messages)
        stops = sum(message.raw == STOP for message in messages)
        count += len(messages) - stops
        if stops:
            queue.publish_many([STOP] * (stops - 1))  # for the others
            return count


def _publish_until_told(queue: mq.Queue[bytes], pipe: Connection) -> None:
    """With as many acks as publishes, so that the store stays small."""
    while not pipe.poll():
        for _ in range(100):
            queue.publish(BODY)
            queue.receive().ack()
    pipe.recv()


POLLS: dict[str, Callable[[mq.Queue[bytes]], object]] = {
    "receive(timeout=0)": lambda queue: queue.receive(timeout=0),
    "purge": lambda queue: queue.purge(),
    "stats": lambda queue: queue.stats(),
}


def _poll_until_told(queue: mq.Queue[bytes], pipe: Connection, name: str) -> None:
    while not pipe.poll():
        for _ in range(100):
            POLLS[name](queue)
    pipe.recv()


def _wait_and_tell(queue: mq.Queue[bytes], pipe: Connection) -> None:
    """When each message was had; at last, the seconds of processor used while nothing came."""
    while (message := queue.receive()).raw != STOP:
        pipe.send(time.perf_counter())
        message.ack()
    message.ack()
    begin = _processor_seconds()
    queue.receive(timeout=IDLE_SECONDS)
    pipe.send(_processor_seconds() - begin)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# ── figures ────────────────────────────────────────────────────────────────────────


def rate(store: str, pairs: int, count: int, *, batches: bool) -> float:
    """Messages a second through *pairs* of processes."""
    publish, consume = (_publish_batches, _consume_batches) if batches else (_publish, _consume)
    count -= count % (BATCH * pairs)
    works: list[tuple[Any, ...]] = [(publish, count // pairs)] * pairs + [(consume,)] * pairs
    with helpers(store, *works) as started, mq.open(store, sync="never") as broker:
        begin = time.perf_counter()
        for helper in started:
            helper.go()
        for helper in started[:pairs]:
            helper.result()
        broker.queue("bench").publish_many([STOP] * pairs)
        done = sum(helper.result() for helper in started[pairs:])
        seconds = time.perf_counter() - begin
    assert done == count
    return done / seconds


def hand_off(store: str, count: int) -> tuple[list[float], float]:
    """Seconds of each hand-over, and the share of a processor that waiting takes."""
    took = []
    with helpers(store, (_wait_and_tell,)) as [waiter], mq.open(store, sync="never") as broker:
        queue = broker.queue("bench")
        waiter.go()
        for turn in range(WARM_UP + count):
            time.sleep(0.002)  # until it is asleep again
            begin = time.perf_counter()
            queue.publish(BODY)
            seconds = waiter.result() - begin  # one clock for all processes of a host
            if turn >= WARM_UP:
                took.append(seconds)
        queue.publish(STOP)
        idle = waiter.result()
        waiter.result()
    return took, idle / IDLE_SECONDS


def cold(store: str, busy: list[tuple[Any, ...]], count: int) -> tuple[list[float], list[float]]:
    """Seconds of each publish beside *busy* processes that never rest; and of another one right behind it."""
    first: list[float] = []
    second: list[float] = []
    with helpers(store, *busy) as started, mq.open(store, sync="never") as broker:
        queue = broker.queue("cold")
        queue.publish(BODY)
        for helper in started:
            helper.go()
        for _ in range(count):
            time.sleep(COLD_SECONDS)
            for took in first, second:
                begin = time.perf_counter()
                queue.publish(BODY)
                took.append(time.perf_counter() - begin)
        for helper in started:
            helper.go()
            helper.result()
    return first, second


def alone(store: str, exclusive: bool, count: int) -> tuple[float, float]:
    """Seconds of a publish, and of a receive with its ack."""
    with mq.open(store, sync="never", exclusive=exclusive) as broker:
        queue = broker.queue("bench")
        begin = time.perf_counter()
        for _ in range(count):
            queue.publish(BODY)
        published = time.perf_counter()
        for _ in range(count):
            queue.receive().ack()
        return (published - begin) / count, (time.perf_counter() - published) / count


# ── the table ──────────────────────────────────────────────────────────────────────


class Table:
    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, list[float]]] = {}

    def add(self, title: str, unit: str, value: float) -> None:
        self._rows.setdefault(title, (unit, []))[1].append(value)

    def show(self) -> None:
        for title, (unit, values) in self._rows.items():
            middle = f"{statistics.median(values):14,.2f} {unit:11}"
            click.echo(f"{title:46}{middle} ({min(values):,.2f}–{max(values):,.2f})")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@click.command(help=__doc__)
@click.option("--messages", default=50_000, show_default=True, help="For each figure of throughput.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help="One short round, to see that it works.")
@click.option(
    "--directory", type=click.Path(file_okay=False), help="On the disk to measure; default: a temporary one."
)
def main(messages: int, rounds: int, quick: bool, directory: str | None) -> None:
    messages, rounds = (1000, 1) if quick else (messages, rounds)
    few = max(50, messages // 50)
    table = Table()
    for _ in range(rounds):
        scratch = tempfile.mkdtemp(prefix="mq-bench-", dir=directory)
        try:
            one_round(table, lambda name, scratch=scratch: os.path.join(scratch, name), messages, few)
        finally:
            shutil.rmtree(scratch)
    table.show()


def one_round(table: Table, path: Callable[[str], str], messages: int, few: int) -> None:
    for batches, how in ((False, ""), (True, f", batches of {BATCH}")):
        for pairs in (1, 2, 4):
            found = rate(path(f"rate-{pairs}{how}"), pairs, messages, batches=batches)
            table.add(f"{pairs} → {pairs} processes{how}", "messages/s", found)
    took, idle = hand_off(path("hand-off"), few)
    for share in (50, 99):
        table.add(f"hand-off to a blocked receiver, p{share}", "µs", percentile(took, share / 100) * 1e6)
    table.add("a blocked receiver's share of a processor", "%", idle * 100)
    for hot in (1, 3):
        first, second = cold(path(f"cold-{hot}"), [(_publish_until_told,)] * hot, few)
        for took, which in (first, "now and then"), (second, "the next"):
            for share in (50, 99):
                title = f"a publish beside {hot} busy, {which}, p{share}"
                table.add(title, "µs", percentile(took, share / 100) * 1e6)
    for number, name in enumerate(POLLS):
        first, _ = cold(path(f"poll-{number}"), [(_poll_until_told, name)], few)
        table.add(f"a publish beside a loop of {name}, p50", "µs", percentile(first, 0.5) * 1e6)
    costs = {}
    for name in ("shared", "exclusive"):
        publish, receive = costs[name] = alone(path(name), name == "exclusive", messages)
        table.add(f"{name}: publish", "µs", publish * 1e6)
        table.add(f"{name}: receive + ack", "µs", receive * 1e6)
        table.add(f"{name}: one process", "messages/s", 1 / (publish + receive))
    for index, work in enumerate(("publish", "receive + ack")):
        ratio = costs["exclusive"][index] / costs["shared"][index]
        table.add(f"shared, of what exclusive does: {work}", "", ratio)


if __name__ == "__main__":
    main()
