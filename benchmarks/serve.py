"""What `mq serve` does in a second, as SQS: sends, batches, receives with deletes; long polls; and idle.

    python benchmarks/serve.py [--seconds N] [--connections N,N,…] [--sync SECONDS] [--waiting N]

The server is a process of its own, and so is the client: one event loop that keeps each connection busy with
one request at a time, in the JSON protocol, with 100-byte bodies.  Both share the machine's cores.  By
default each answer waits for the disk (sync="always").  A figure is the median of several rounds, with the
range; messages are counted, not requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

BODY = "x" * 100
ROUNDS = 3
BATCH = 10
HAND_OFFS = 300
IDLE_SECONDS = 5.0
TICKS = os.sysconf("SC_CLK_TCK")

Step = Callable[["Connection"], Awaitable[int]]  # one request or two; how many messages that was


class Connection:
    """One connection, with one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> Connection:
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    async def ask(self, action: str, **members: Any) -> dict[str, Any]:
        body = json.dumps(members).encode()
        head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Amz-Target: AmazonSQS.{action}\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        told = await self._reader.readuntil(b"\r\n\r\n")
        length = int(told.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        said = await self._reader.readexactly(length)
        if not told.startswith(b"HTTP/1.1 200"):
            raise click.ClickException(said.decode())
        return json.loads(said) if said else {}

    def close(self) -> None:
        self._writer.close()


@contextmanager
def server(directory: str | None, sync: float | None) -> Iterator[tuple[str, int]]:
    """Its URL and process id."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        command = [sys.executable, "-m", "mq.cli", "-s", f"{place}/store", "serve", "--port", "0"]
        options = [] if sync is None else ["--sync", str(sync)]
        with subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout
            try:
                yield process.stdout.readline().decode().strip(), process.pid
            finally:
                process.terminate()


# ── throughput ─────────────────────────────────────────────────────────────────────


def sending(url: str) -> Step:
    async def send(connection: Connection) -> int:
        await connection.ask("SendMessage", QueueUrl=url, MessageBody=BODY)
        return 1

    return send


def sending_batches(url: str) -> Step:
    entries = [{"Id": str(number), "MessageBody": BODY} for number in range(BATCH)]

    async def send(connection: Connection) -> int:
        await connection.ask("SendMessageBatch", QueueUrl=url, Entries=entries)
        return BATCH

    return send


def receiving(url: str, limit: int) -> Step:
    """Receive up to *limit*, and delete them."""

    async def receive(connection: Connection) -> int:
        found = await connection.ask("ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=limit)
        messages = found.get("Messages", [])
        if limit == 1:
            for each in messages:
                await connection.ask("DeleteMessage", QueueUrl=url, ReceiptHandle=each["ReceiptHandle"])
        elif messages:
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
            await connection.ask("DeleteMessageBatch", QueueUrl=url, Entries=entries)
        return len(messages)

    return receive


async def per_second(url: str, step: Step, connections: int, seconds: float) -> float:
    opened = [await Connection.open(url) for _ in range(connections)]
    until = time.perf_counter() + seconds

    async def work(connection: Connection) -> int:
        count = 0
        while time.perf_counter() < until:
            done = await step(connection)
            count += done
            if not done:  # the queue is empty
                break
        return count

    began = time.perf_counter()
    counts = await asyncio.gather(*map(work, opened))
    took = time.perf_counter() - began
    for each in opened:
        each.close()
    return sum(counts) / took


def show(title: str, figures: list[float], unit: str) -> None:
    spread = f"({min(figures):,.0f}–{max(figures):,.0f})"
    click.echo(f"{title:44} {statistics.median(figures):10,.0f} {unit}  {spread}")


async def throughput(url: str, connections: list[int], seconds: float) -> None:
    admin = await Connection.open(url)
    queue = (await admin.ask("CreateQueue", QueueName="bench"))["QueueUrl"]
    cases = {
        "SendMessage": sending(queue), "SendMessageBatch of 10": sending_batches(queue),
        "ReceiveMessage of 1, DeleteMessage": receiving(queue, 1),
        "ReceiveMessage of 10, DeleteMessageBatch": receiving(queue, BATCH),
    }  # fmt: skip
    for count in connections:
        for title, step in cases.items():
            figures = [await per_second(url, step, count, seconds) for _ in range(ROUNDS)]
            show(f"{title}, {count} connections", figures, "messages/s")
    admin.close()


# ── waiting ────────────────────────────────────────────────────────────────────────


async def hand_offs(url: str, waiting: int) -> None:
    """From before a send until a long poll, of so many, has the message."""
    admin = await Connection.open(url)
    queues = [
        (await admin.ask("CreateQueue", QueueName=f"wait-{n}"))["QueueUrl"] for n in range(min(waiting, 10))
    ]
    sent: dict[str, float] = {}
    took: list[float] = []

    async def poll(number: int) -> None:
        connection = await Connection.open(url)
        while True:
            found = await connection.ask(
                "ReceiveMessage", QueueUrl=queues[number % len(queues)], WaitTimeSeconds=20
            )
            for each in found.get("Messages", ()):
                took.append(time.perf_counter() - sent[each["Body"]])

    polls = [asyncio.create_task(poll(number)) for number in range(waiting)]
    await asyncio.sleep(2)  # until all of them wait: it is not timed
    for number in range(HAND_OFFS):
        sent[str(number)] = time.perf_counter()
        await admin.ask("SendMessage", QueueUrl=queues[number % len(queues)], MessageBody=str(number))
        while len(took) <= number:
            await asyncio.sleep(0)
    millis = sorted(each * 1000 for each in took)
    middle, late = statistics.median(millis), millis[int(len(millis) * 0.99)]
    click.echo(f"{f'hand-off to one of {waiting:,} long polls':44} {middle:10.2f} ms  p99 {late:.2f} ms")
    for task in polls:
        task.cancel()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def idle(pid: int) -> None:
    before = cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    percent = 100 * (cpu_seconds(pid) - before) / IDLE_SECONDS
    threads = len(os.listdir(f"/proc/{pid}/task"))
    click.echo(f"{'idle':44} {percent:10.1f} % of a core; {threads} threads")


@click.command(context_settings={"show_default": True})
@click.option("--seconds", default=2.0, help="Of each round.")
@click.option("--connections", default="1,10,50,100", help="How many, separated by commas.")
@click.option("--sync", type=float, help="As of mq serve; left out: each answer waits for the disk.")
@click.option("--waiting", default=1000, help="How many long polls wait.")
@click.option("--directory", help="Where the store is.")
def main(seconds: float, connections: str, sync: float | None, waiting: int, directory: str | None) -> None:
    with server(directory, sync) as (url, pid):
        idle(pid)
        asyncio.run(throughput(url, [int(each) for each in connections.split(",")], seconds))
        asyncio.run(hand_offs(url, waiting))
        idle(pid)


if __name__ == "__main__":
    main()
