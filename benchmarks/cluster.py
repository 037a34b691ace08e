"""A store on NATS beside nats-py alone, on the same servers, in turns: messages a second, and hand-offs.

    python benchmarks/cluster.py [--messages N] [--rounds N] [--servers 1,3] [--sync always,2m]

Needs the extra `cluster`: the servers are started here, on loopback, with their files in $TMPDIR.  Bodies
have 100 bytes.  Each figure is the median of the rounds; what is compared takes turns, so that a machine that
slows down slows both.

    one at a time     publish, and wait until a majority has it          js.publish
    200 in flight     200 tasks publish at once                           200 times js.publish at once
    in hundreds       publish_many of 100                                 100 times js.publish at once
    receive, ack      one message after the other                         fetch(1), ack_sync
    in hundreds       receive_many(100), ack_many                         fetch(100), ack_sync of each at once
    4 workers         4 processes loop over the queue, and ack each       4 processes fetch(1), ack_sync
    hand-off          to another process and back, halved                 the same, with ack_sync

In the end the figures are printed once more, as the table in docs/cluster.md has them.

`js.publish` and `ack_sync` promise what publish and ack promise: the servers have it.  A native ack without a
wait for the answer is faster, and may be lost.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import NotFoundError, ServiceUnavailableError

import mq
from mq.aio.broker import AsyncBroker

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from servers import Cluster

BODY = bytes(range(100))
IN_FLIGHT = 200
HUNDRED = 100
WORKERS = 4
WAIT_SECONDS = 5.0
NAMES = ("one at a time", "200 in flight", "publish_many", "receive, ack", "receive_many", "4 workers")
HAND_OFF = "hand-off, ms"
ROWS = {
    "one at a time": "publish, one at a time",
    "200 in flight": "publish, 200 tasks at once",
    "publish_many": "`publish_many(100)`",
    "receive, ack": "receive and ack, one at a time",
    "receive_many": "`receive_many(100)`, `ack_many`",
    "4 workers": "4 processes that loop, one at a time",
    HAND_OFF: "hand-off to another process, ms",
}

Figures = dict[str, dict[str, float]]  # by case, and by side: "mq" and "nats-py"


# ── mq ─────────────────────────────────────────────────────────────────────────────


class Ours:
    def __init__(self, url: str) -> None:
        self._broker = mq.open(url)
        self._queue = self._broker.queue("bench")

    def one_at_a_time(self, count: int) -> None:
        for _ in range(count):
            self._queue.publish(BODY)

    def in_flight(self, count: int) -> None:
        asyncio.run(self._in_flight(count))

    async def _in_flight(self, count: int) -> None:
        queue = (await AsyncBroker(lambda: self._broker)).queue("bench")  # as the other side, it stays open
        for _ in range(count // IN_FLIGHT):
            await asyncio.gather(*[queue.publish(BODY) for _ in range(IN_FLIGHT)])

    def in_hundreds(self, count: int) -> None:
        for _ in range(count // HUNDRED):
            self._queue.publish_many([BODY] * HUNDRED)

    def receive(self, count: int) -> None:
        for _ in range(count):
            self._queue.receive(timeout=WAIT_SECONDS).ack()  # type: ignore[union-attr]

    def work(self, count: int) -> None:
        for message in self._queue:
            message.ack()
            count -= 1
            if not count:
                break

    def receive_many(self, count: int) -> None:
        while count > 0:
            messages = self._queue.receive_many(min(HUNDRED, count), timeout=WAIT_SECONDS)
            self._queue.ack_many(messages)
            count -= len(messages)

    def close(self) -> None:
        self._broker.close()


# ── nats-py alone ──────────────────────────────────────────────────────────────────


class Native:
    """A work queue of JetStream: what is acked is removed."""

    def __init__(self, servers: list[str], replicas: int) -> None:
        self._runner = asyncio.Runner()
        self._servers, self._replicas = servers, replicas
        self._nc: Client
        self._js: JetStreamContext
        self._runner.run(self._open())

    async def _open(self) -> None:
        self._nc = await nats.connect(self._servers)
        self._js = self._nc.jetstream(timeout=30)
        try:
            await self._js.stream_info("bench")
        except NotFoundError:
            await self._js.add_stream(
                StreamConfig(
                    name="bench", subjects=["bench"], num_replicas=self._replicas, retention="workqueue"
                )  # type: ignore[arg-type]
            )
        self._pull = await self._js.pull_subscribe(
            "bench", durable="bench", config=ConsumerConfig(ack_wait=600)
        )  # fmt: skip

    def one_at_a_time(self, count: int) -> None:
        self._runner.run(self._publish(count, 1))

    def in_flight(self, count: int) -> None:
        self._runner.run(self._publish(count, IN_FLIGHT))

    def in_hundreds(self, count: int) -> None:
        self._runner.run(self._publish(count, HUNDRED))

    async def _publish(self, count: int, at_once: int) -> None:
        for _ in range(count // at_once):
            await asyncio.gather(*[self._js.publish("bench", BODY) for _ in range(at_once)])

    def receive(self, count: int) -> None:
        self._runner.run(self._receive(count, 1))

    work = receive

    def receive_many(self, count: int) -> None:
        self._runner.run(self._receive(count, HUNDRED))

    async def _receive(self, count: int, at_once: int) -> None:
        while count > 0:
            messages = await self._pull.fetch(min(at_once, count), timeout=WAIT_SECONDS)
            await asyncio.gather(*[message.ack_sync(timeout=WAIT_SECONDS) for message in messages])
            count -= len(messages)

    def close(self) -> None:
        self._runner.run(self._nc.close())
        self._runner.close()


# ── other processes ────────────────────────────────────────────────────────────────


def opened(kind: str, address: str, replicas: int) -> Any:
    return Ours(address) if kind == "mq" else Native(address.split(","), replicas)


def worker(kind: str, address: str, replicas: str, count: str) -> None:
    """Does its share once it is told to; says when it is ready, and when it is done."""
    side = opened(kind, address, int(replicas))
    print("ready", flush=True)
    sys.stdin.readline()
    side.work(int(count))
    print("done", flush=True)
    side.close()


def workers(kind: str, address: str, replicas: int, count: int) -> float:
    """Seconds that WORKERS processes take to work on *count* messages."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "worker", kind, address, str(replicas), str(count // WORKERS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        for _ in range(WORKERS)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    begin = time.perf_counter()
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
    for process in processes:
        assert process.stdout and process.stdout.readline() == "done\n"
    seconds = time.perf_counter() - begin
    for process in processes:
        process.communicate()
    return seconds


def echo_ours(url: str) -> None:
    with mq.open(url) as broker:
        print("ready", flush=True)
        for message in broker.queue("there"):
            message.ack()
            broker.queue("back").publish(message.raw)


async def echo_native(servers: str) -> None:
    nc = await nats.connect(servers.split(","))
    js = nc.jetstream()
    pull = await js.pull_subscribe("there", durable="there")
    print("ready", flush=True)
    while True:
        try:
            messages = await pull.fetch(1, timeout=600)
        except ServiceUnavailableError:  # the servers have no leader yet for the consumer
            await asyncio.sleep(0.1)
            continue
        for message in messages:
            await message.ack_sync()
            await js.publish("back", message.data)


def hand_off_ours(url: str, count: int) -> float:
    with mq.open(url) as broker, echoing("echo-mq", url):
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            broker.queue("there").publish(BODY)
            broker.queue("back").receive().ack()
            times.append((time.perf_counter() - begin) / 2)
    return statistics.median(times)


async def hand_off_native(servers: list[str], replicas: int, count: int) -> float:
    nc = await nats.connect(servers)
    js = nc.jetstream()
    for name in ("there", "back"):
        config = StreamConfig(name=name, subjects=[name], num_replicas=replicas, retention="workqueue")  # type: ignore[arg-type]
        await js.add_stream(config)
    pull = await js.pull_subscribe("back", durable="back")
    with echoing("echo-nats", ",".join(servers)):
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            await js.publish("there", BODY)
            for message in await pull.fetch(1, timeout=WAIT_SECONDS):
                await message.ack_sync()
            times.append((time.perf_counter() - begin) / 2)
    await nc.close()
    return statistics.median(times)


class echoing:
    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._process.stdout and self._process.stdout.readline() == "ready\n"

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()


# ── the table ──────────────────────────────────────────────────────────────────────


def measure(address: dict[str, str], replicas: int, count: int) -> Figures:
    """Messages a second."""
    found: Figures = {name: {} for name in NAMES}
    sides = {kind: opened(kind, where, replicas) for kind, where in address.items()}

    def timed(name: str, do: Callable[[Any], Callable[[int], None]], many: int) -> None:
        for kind, side in sides.items():
            begin = time.perf_counter()
            do(side)(many)
            found[name][kind] = many / (time.perf_counter() - begin)

    timed("one at a time", lambda side: side.one_at_a_time, count)
    timed("200 in flight", lambda side: side.in_flight, count - count % IN_FLIGHT)
    timed("publish_many", lambda side: side.in_hundreds, 10 * count)
    timed("receive, ack", lambda side: side.receive, count)
    timed("receive_many", lambda side: side.receive_many, 9 * count)
    for side in sides.values():  # else this process would follow what the four do
        side.close()
    for kind, where in address.items():
        found["4 workers"][kind] = count / workers(kind, where, replicas, count)
    return found


def medians(rounds: list[Figures]) -> Figures:
    return {
        name: {kind: statistics.median(one[name][kind] for one in rounds) for kind in rounds[0][name]}
        for name in rounds[0]
    }


@click.command(help=__doc__.partition("\n")[0])
@click.option(
    "--messages", default=2000, show_default=True, help="of each case; ten times as many in hundreds"
)
@click.option("--rounds", default=3, show_default=True)
@click.option("--servers", default="1,3", show_default=True)
@click.option(
    "--sync", default="always,2m", show_default=True, help="sync_interval of the servers; 2m is theirs"
)
def main(messages: int, rounds: int, servers: str, sync: str) -> None:
    found: dict[str, Figures] = {}
    for size in map(int, servers.split(",")):
        for interval in sync.split(","):
            with (
                TemporaryDirectory() as scratch,
                Cluster(Path(scratch), size, sync=interval) as cluster,
            ):
                click.echo(f"\nR{size}, sync_interval {interval:6}        mq   nats-py   mq / nats-py")
                found[f"R{size}, {interval}"] = report(cluster, size, messages, rounds)
    click.echo(f"\n{table(found)}")


def report(cluster: Cluster, size: int, messages: int, rounds: int) -> Figures:
    address = {"mq": cluster.url("bench"), "nats-py": ",".join(cluster.servers())}
    found = medians([measure(address, size, messages) for _ in range(rounds)])
    there = hand_off_ours(cluster.url("hands"), messages // 10) * 1e3
    alone = asyncio.run(hand_off_native(cluster.servers(), size, messages // 10)) * 1e3
    found[HAND_OFF] = {"mq": there, "nats-py": alone}
    for name, figures in found.items():
        ours, native = figures["mq"], figures["nats-py"]
        click.echo(f"{name:24} {shown(name, ours):>9} {shown(name, native):>9}   × {ours / native:.2f}")
    return found


def shown(name: str, figure: float) -> str:
    return f"{figure:,.1f}" if name == HAND_OFF else f"{figure:,.0f}"


def table(found: dict[str, Figures]) -> str:
    """*found*, by the servers that it was measured on, as Markdown."""
    heads = [head for servers in found for head in (f"{servers}: mq", "nats-py")]
    lines = [["", *heads], ["---"] * (1 + len(heads))]
    for name, row in ROWS.items():
        lines.append([row, *[shown(name, each) for one in found.values() for each in one[name].values()]])
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


ROLES: dict[str, Callable[..., object]] = {
    "worker": worker, "echo-mq": echo_ours, "echo-nats": lambda servers: asyncio.run(echo_native(servers)),
}  # fmt: skip

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ROLES:
        ROLES[sys.argv[1]](*sys.argv[2:])
    else:
        main()
