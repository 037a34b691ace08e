"""What an operation costs when there is much more of what it does not concern.

    python benchmarks/growth.py [--only TEXT] [--scale SHARE] [--directory DIR]

Each row is one operation, in a small store and in a large one, and the ratio of the two: it should be near 1,
or, where the operation goes through all of them, near the ratio of the sizes.  Times are medians of several
rounds.  "worst" is the longest that a publish to another queue took meanwhile, in a second process and then
in another thread, or that one of the publishes took; in brackets what 999 of 1,000 stayed below, for the one
that is left may have met a pause of the machine.  Where that has other work, compare it with what the row
"nothing" has there.
"""

from __future__ import annotations

import gc
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import click

import mq
from mq.engine import commands

BODY = bytes(range(100))
ROUNDS = 5
BATCH = 1_000
NO_BACKOFF = mq.Backoff(initial=0)

Operation = Callable[[], Any]


# ── stores ─────────────────────────────────────────────────────────────────────────


def crowd(
    broker: mq.Broker, count: int, said: Callable[[int], dict[str, Any]], **options: Any
) -> mq.Queue[Any]:
    """A queue with so many messages."""
    queue = broker.queue("crowd", **options)
    for first in range(0, count, BATCH):
        with broker.transaction() as tx:
            for index in range(first, min(first + BATCH, count)):
                tx.publish(queue, BODY, **said(index))
    return queue


def queues(broker: mq.Broker, count: int) -> None:
    for index in range(count):
        broker.queue(f"queue-{index}").publish(BODY)


def delayed(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    return crowd(broker, count, lambda _: {"delay": 3600})


def groups(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    return crowd(broker, count, lambda index: {"group": str(index)})


def dedup(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    return crowd(broker, count, lambda index: {"dedup_id": str(index)}, dedup_window=86_400)


def one_group(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    """All in one group, of which one is in flight."""
    queue = crowd(broker, count, lambda _: {"group": "one"})
    assert queue.receive(timeout=0)
    return queue


def flying(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    queue = crowd(broker, count, lambda _: {}, visibility_timeout=3600)
    while queue.receive_many(BATCH, timeout=0):
        pass
    return queue


def both(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    """As many in flight as waiting."""
    flying(broker, count // 2)
    return crowd(broker, count // 2, lambda _: {})


def nacked(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    queue = crowd(broker, count, lambda _: {}, backoff=NO_BACKOFF)
    found: list[mq.Delivery[Any]] = []
    while part := queue.receive_many(BATCH, timeout=0):
        found += part
    queue.nack_many(found)
    return queue


def fanned_out(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    """All are in two other queues as well."""
    for name in ("crowd", "second", "third"):
        broker.queue(name).subscribe("topic")
    topic = broker.topic("topic")
    for _ in range(count):
        topic.publish(BODY)
    return broker.queue("crowd")


def expired(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    queue = crowd(broker, count, lambda _: {"ttl": 0.001})
    time.sleep(0.01)
    return queue


def dead(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    crowd(broker, count, lambda _: {}, max_attempts=1, visibility_timeout=3600)
    queue = broker.queue("crowd")
    while part := queue.receive_many(BATCH, timeout=0):
        queue.nack_many(part)
    return broker.queue("crowd.dead")


# ── rows ───────────────────────────────────────────────────────────────────────────


class Row(NamedTuple):
    title: str
    small: int
    large: int
    measure: Callable[[Path, int], float]  # seconds


ROWS: list[Row] = []


def row(title: str, small: int, large: int) -> Callable[[Any], Any]:
    def add(measure: Callable[[Path, int], float]) -> Callable[[Path, int], float]:
        ROWS.append(Row(title, small, large, measure))
        return measure

    return add


def median_of(operation: Operation, rounds: int = ROUNDS) -> float:
    return statistics.median(seconds_of(operation, rounds))


def seconds_of(operation: Operation, rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - begin)
    return seconds


def keep(broker: mq.Broker) -> None:
    """A checkpoint, for the next opening; the maintenance thread may be writing one."""
    maintenance = broker._store.maintenance
    with maintenance.working:
        maintenance.checkpoints.write()


def opening(fill: Callable[[mq.Broker, int], Any]) -> Callable[[Path, int], float]:
    def measure(path: Path, count: int) -> float:
        with mq.open(path, sync="never") as broker:
            fill(broker, count)
            keep(broker)
        return median_of(lambda: mq.open(path).close())

    return measure


def first_use(fill: Callable[[mq.Broker, int], mq.Queue[Any]]) -> Callable[[Path, int], float]:
    def measure(path: Path, count: int) -> float:
        with mq.open(path, sync="never") as broker:
            fill(broker, count)
            keep(broker)
        with mq.open(path) as broker:
            return median_of(lambda: broker.queue("crowd").stats(), rounds=1)

    return measure


def looking(fill: Callable[[mq.Broker, int], mq.Queue[Any]], look: Callable[[mq.Queue[Any]], Any]) -> Any:
    def measure(path: Path, count: int) -> float:
        with mq.open(path, sync="never") as broker:
            queue = fill(broker, count)
            return median_of(lambda: look(queue))

    return measure


for fill, large in ((queues, 20_000), (delayed, 1_000_000), (groups, 1_000_000), (dedup, 1_000_000)):
    row(f"open, {fill.__name__}", 100, large)(opening(fill))

for fill in (delayed, groups, dedup):
    row(f"first use after opening, {fill.__name__}", 1_000, 1_000_000)(first_use(fill))

for fill in (groups, one_group, nacked, expired, flying):
    row(f"stats(), {fill.__name__}", 1_000, 400_000)(looking(fill, lambda queue: queue.stats()))
for fill in (one_group, groups, delayed):
    row(f"peek(10), {fill.__name__}", 1_000, 400_000)(looking(fill, lambda queue: queue.peek(10)))
row("peek(10, state='in_flight')", 1_000, 400_000)(
    looking(flying, lambda queue: queue.peek(10, state="in_flight"))
)
row("peek(10, state='delayed')", 1_000, 400_000)(
    looking(delayed, lambda queue: queue.peek(10, state="delayed"))
)


@row("stats(), a large oldest body", 100, 10_000_000)
def large_body(path: Path, size: int) -> float:
    with mq.open(path, sync="never") as broker:
        queue = broker.queue("crowd")
        queue.publish(bytes(size))
        return median_of(queue.stats)


@row("broker.queues(limit=100), queues", 100, 65_000)
def list_queues(path: Path, count: int) -> float:
    with mq.open(path, sync="never", exclusive=True) as broker:
        queues(broker, count)
        broker.queues(limit=1)  # puts all names in order, once
        return median_of(lambda: broker.queues(prefix="queue-5", after="queue-50", limit=100))


@row("broker.stats(), queues", 100, 5_000)
def all_stats(path: Path, count: int) -> float:
    with mq.open(path, sync="never") as broker:
        queues(broker, count)
        broker.stats()
        return median_of(broker.stats)


@row("broker.receive(), empty queues", 100, 10_000)
def receive_from_many(path: Path, count: int) -> float:
    with mq.open(path, sync="never") as broker:
        listed = [broker.queue(f"queue-{index}") for index in range(count)]
        for queue in listed:  # empty, and not only never used
            queue.publish(BODY)
            message = queue.receive(timeout=0)
            assert message
            message.ack()
        listed[-1].publish_many([BODY] * (ROUNDS + 1))
        broker.receive(listed, timeout=0)
        return median_of(lambda: broker.receive(listed, timeout=0))


@row("publish, notified, receive, ack, armed again, of watches", 1, 10_000)
def watched(path: Path, count: int) -> float:
    with mq.open(path, sync="never") as broker:
        queue, rung = broker.queue("bench"), Event()
        told: list[mq.Watch] = []

        def notify(number: int) -> None:
            told.append(watches[number])
            rung.set()

        watches = [broker.watch(partial(notify, number)) for number in range(count)]
        for watch in watches:
            watch.arm([queue])

        def once() -> None:
            rung.clear()
            queue.publish(BODY)
            rung.wait()
            message = queue.receive(timeout=0)
            assert message
            message.ack()
            told.pop().arm([queue])

        return median_of(once, rounds=2_000)


@row("a watch is armed and closed, beside watches of other queues", 1, 10_000)
def armed(path: Path, count: int) -> float:
    with mq.open(path, sync="never") as broker:
        others = [(broker.watch(Event().set), broker.queue(f"queue-{number}")) for number in range(count)]
        for watch, queue in others:
            watch.arm([queue])
        mine, queue = broker.watch(Event().set), broker.queue("bench")

        def once() -> None:
            mine.arm([queue])
            mine.close()

        return median_of(once, rounds=2_000)


# ── in slices ──────────────────────────────────────────────────────────────────────


class Waits(NamedTuple):
    """Of a publish, in seconds."""

    worst: float
    of_nearly_all: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Waits:
        ordered = sorted(seconds)
        return cls(ordered[-1], ordered[len(ordered) * 999 // 1000])

    def __str__(self) -> str:
        return f"{self.worst * 1000:.0f} ms ({self.of_nearly_all * 1000:.0f})"


NEIGHBOUR = """
import sys, time, mq
with mq.open(sys.argv[1], sync="never") as broker:
    broker.queue("crowd").stats()  # loads it, which has a row of its own
    queue, waits = broker.queue("neighbour"), []
    queue.publish(b"")
    print("ready", flush=True)
    stop = time.monotonic() + 600
    while time.monotonic() < stop and not broker.queue("stop").stats().published:
        for _ in range(100):
            begin = time.perf_counter()
            queue.publish(b"")
            waits.append(time.perf_counter() - begin)
            time.sleep(0.0005)
    print(*waits, flush=True)
"""


@contextmanager
def neighbour(broker: mq.Broker, told: list[Waits]) -> Iterator[None]:
    """A second process that publishes to a queue of its own; how it waited is appended to *told*."""
    command = [sys.executable, "-c", NEIGHBOUR, broker.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            process.stdout.readline()
            yield
            broker.queue("stop").publish(b"")  # by this process: an opening is waited for, too
            told.append(Waits.of(map(float, process.stdout.readline().split())))
        finally:
            process.kill()  # else an error above would wait for it for ten minutes


@contextmanager
def neighbour_thread(broker: mq.Broker, told: list[Waits]) -> Iterator[None]:
    """The same, in a thread of this process."""
    queue, waited, stop = broker.queue("thread"), [0.0], Event()

    def publish() -> None:
        while not stop.is_set():
            begin = time.perf_counter()
            queue.publish(b"")
            waited.append(time.perf_counter() - begin)
            time.sleep(0.0005)

    thread = Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    told.append(Waits.of(waited))


waits: dict[str, list[Waits]] = {}


def filled(
    broker: mq.Broker, count: int, fill: Callable[[mq.Broker, int], mq.Queue[Any]]
) -> mq.Queue[Any]:  # fmt: skip
    """The neighbour waits neither for what maintenance has to do behind that, nor for the garbage
    collections of a program that holds as many deliveries."""
    queue = fill(broker, count)
    broker._store.maintenance.run()
    gc.freeze()
    return queue


def at_once(
    title: str, fill: Callable[[mq.Broker, int], mq.Queue[Any]], operation: Callable[[mq.Queue[Any]], Any]
) -> None:
    @row(title, 10_000, 400_000)
    def measure(path: Path, count: int) -> float:
        told: list[Waits] = []
        with mq.open(path, sync="never") as broker:
            queue = filled(broker, count, fill)
            with neighbour(broker, told):
                seconds = median_of(lambda: operation(queue), rounds=1)
        with mq.open(path.with_name("again"), sync="never") as broker:
            queue = filled(broker, count, fill)
            with neighbour_thread(broker, told):
                operation(queue)
        waits[title] = told
        held.clear()  # else Python's garbage collector goes through them in the rows that follow
        return seconds


held: list[mq.Delivery[Any]] = []


def taken(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    held.clear()
    queue = crowd(broker, count, lambda _: {}, max_attempts=1, visibility_timeout=3600)
    while part := queue.receive_many(BATCH, timeout=0):
        held.extend(part)
    return queue


def other_attempts(queue: mq.Queue[Any]) -> None:
    commands.declare(queue._store, queue._channel, {"max_attempts": 3})


at_once("nothing", delayed, lambda queue: time.sleep(1))
at_once("purge(), in flight", both, lambda queue: queue.purge())
at_once("purge(), delayed", delayed, lambda queue: queue.purge())
at_once("ack_many()", taken, lambda queue: queue.ack_many(held))
at_once("extend_many()", taken, lambda queue: queue.extend_many(held))
at_once("extend_many(), three times", taken, lambda queue: [queue.extend_many(held) for _ in range(3)])
at_once("nack_many() to dead letters", taken, lambda queue: queue.nack_many(held))
at_once("replay()", dead, lambda queue: queue.replay())
at_once("another max_attempts", taken, other_attempts)
at_once("delete(), delayed", delayed, lambda queue: queue.delete())
at_once("delete(), groups", groups, lambda queue: queue.delete())
at_once("delete(), in other queues too", fanned_out, lambda queue: queue.delete())
at_once("delete(), in flight", flying, lambda queue: queue.delete())


# ── at one moment ──────────────────────────────────────────────────────────────────


def timed_out(broker: mq.Broker, count: int, **options: Any) -> mq.Queue[Any]:
    """All have been in flight, and no process has looked since."""
    queue = crowd(broker, count, lambda _: {}, **{"backoff": NO_BACKOFF, **options})
    seconds = 2 + count / 20_000
    end = time.monotonic() + seconds
    for _ in range(0, count, BATCH):
        queue.receive_many(BATCH, timeout=0, visibility_timeout=end - time.monotonic())
    time.sleep(max(0.0, end - time.monotonic()) + 0.1)
    return queue


def delays_over(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    end = time.monotonic() + 2 + count / 10_000
    queue = crowd(broker, count, lambda _: {"delay": end - time.monotonic()})
    time.sleep(max(0.0, end - time.monotonic()) + 0.1)
    return queue


def last_attempts(broker: mq.Broker, count: int) -> mq.Queue[Any]:
    return timed_out(broker, count, max_attempts=1)


def bury(queue: mq.Queue[Any]) -> None:
    while queue.stats().in_flight:
        time.sleep(0.001)  # a loop without a pause has a row of its own


at_once("receive(), all timed out", timed_out, lambda queue: queue.receive(timeout=0))
at_once("receive_many(1000), all timed out", timed_out, lambda queue: queue.receive_many(1000, timeout=0))
at_once("stats(), all timed out", timed_out, lambda queue: queue.stats())
at_once("peek(10), all timed out", timed_out, lambda queue: queue.peek(10))
at_once("receive(), all delays over", delays_over, lambda queue: queue.receive(timeout=0))
at_once("stats() until all last attempts are dead", last_attempts, bury)


# ── other processes ────────────────────────────────────────────────────────────────

WAITER = """
import sys, mq
with mq.open(sys.argv[1], sync="never") as broker:
    print("ready", flush=True)
    broker.queue(sys.argv[2]).receive()
"""

WATCHER = """
import sys, mq
with mq.open(sys.argv[1], sync="never") as broker:
    queue = broker.queue("bench")
    print("ready", flush=True)
    while True:
        queue.stats()
"""


@contextmanager
def beside(path: Path, count: int, code: str, *words: str) -> Iterator[None]:
    command = [sys.executable, "-c", code, str(path), *words]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    time.sleep(0.5)  # until they wait
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def publishing(title: str, path: Path, count: int, code: str, *words: str) -> float:
    with mq.open(path, sync="never") as broker:
        queue = broker.queue("bench")
        queue.publish(BODY)
        with beside(path, count, code, *words):
            for _ in range(100):
                queue.publish(BODY)
            seconds = seconds_of(lambda: queue.publish(BODY), rounds=2_000)
        waits[title] = [Waits.of(seconds)]
        return statistics.median(seconds)


BESIDE_WAITERS = "publish, beside processes that wait elsewhere"
BESIDE_WATCHERS = "publish, beside loops of stats()"


@row(BESIDE_WAITERS, 0, 60)
def waiters(path: Path, count: int) -> float:
    return publishing(BESIDE_WAITERS, path, count, WAITER, "elsewhere")


@row(BESIDE_WATCHERS, 0, 1)
def watchers(path: Path, count: int) -> float:
    return publishing(BESIDE_WATCHERS, path, count, WATCHER)


# ── the command line ───────────────────────────────────────────────────────────────


def command(path: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "mq", "--store", str(path), *words], check=True, stdout=subprocess.DEVNULL
    )


def full(path: Path, megabytes: int) -> int:
    """A log of that size; the id of a message in the midst of it."""
    with mq.open(path, sync="never") as broker:
        queue = broker.queue("bench")
        ids = [queue.publish_many([BODY * 10] * 1_000)[0] for _ in range(megabytes)]
    return ids[len(ids) // 2]


for words in (["inspect"], ["verify"], ["dump", "--kind", "nack"], ["dump", "--message"]):

    def reading(path: Path, megabytes: int, words: list[str] = words) -> float:
        id = full(path, megabytes)
        told = [str(id)] if words[-1] == "--message" else []
        return median_of(lambda: command(path, *words, *told), rounds=3)

    row(f"mq {' '.join(words)}, MB", 1, 600)(reading)


@row("mq dump --message, its first line, MB", 1, 600)
def first_line(path: Path, megabytes: int) -> float:
    words = [sys.executable, "-m", "mq", "--store", str(path), "dump", "--message"]
    words.append(str(full(path, megabytes)))

    def run() -> None:
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout and process.stdout.readline()
            process.kill()

    return median_of(run, rounds=3)


@click.command(help=__doc__)
@click.option("--only", default="", help="Rows whose title has this text.")
@click.option("--scale", default=1.0, show_default=True, help="Of the large sizes: 0.01 is a quick look.")
@click.option("--directory", type=click.Path(file_okay=False), help="On the disk to measure.")
def main(only: str, scale: float, directory: str | None) -> None:
    click.echo(f"{'':46}{'small':>10} {'ms':>10} {'large':>10} {'ms':>10} {'ratio':>8}")
    for title, small, large, measure in ROWS:
        if only not in title:
            continue
        sizes = small, max(small, 1, int(large * scale))
        found = []
        for size in sizes:
            scratch = tempfile.mkdtemp(prefix="mq-bench-", dir=directory)
            try:
                found.append(measure(Path(scratch, "data"), size) * 1000)
            finally:
                shutil.rmtree(scratch)
        worst = ", ".join(map(str, waits.get(title, ())))
        told = f"  worst {worst}" if worst else ""
        times = f"{sizes[0]:10,} {found[0]:10.3f} {sizes[1]:10,} {found[1]:10.3f}"
        click.echo(f"{title:46}{times} {found[1] / found[0]:8.1f}{told}")


if __name__ == "__main__":
    main()
