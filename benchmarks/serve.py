"""What `mq serve` does in a second, as SQS: sends, batches, receives with deletes; long polls; and idle.

    python benchmarks/serve.py [--seconds N] [--connections N,N,…] [--sync SECONDS] [--waiting N]

The server is a process of its own, and so is the client: raw sockets in one loop, which keeps each
connection busy with one request at a time, in the JSON protocol, with 100-byte bodies.  Both share the
machine's cores, so the CPU time that a message takes is shown for each of them.  By default each answer
waits for the disk (sync="always").  A figure is the median of several rounds, with the range; messages are
counted, not requests.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import msgspec

BODY = "x" * 100
ROUNDS = 3
BATCH = 10
HAND_OFFS = 300
SETTLE_SECONDS = 2.0  # for what is not timed
IDLE_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
TICKS = os.sysconf("SC_CLK_TCK")

Step = Generator[bytes, bytes, int]
"""Requests, each of which is sent the body of its response; how many messages that was."""


def request(action: str, **members: Any) -> bytes:
    body = msgspec.json.encode(members)
    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Amz-Target: AmazonSQS.{action}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """One connection, with one request at a time."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname or "", address.port or 0), PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._said = b""

    def send(self, request: bytes) -> None:
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """The body of the response; None: there is more to come."""
        part = self.socket.recv(1 << 18)
        if not part:
            raise click.ClickException("the server has closed a connection")
        self._said += part
        head, end, body = self._said.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise click.ClickException(body.decode())
        self._said = b""
        return body

    def ask(self, action: str, **members: Any) -> Any:
        self.send(request(action, **members))
        while (body := self.receive()) is None:
            pass
        return msgspec.json.decode(body or b"{}")

    def close(self) -> None:
        self.socket.close()


@contextmanager
def server(directory: str | None, sync: float | None) -> Iterator[tuple[str, int]]:
    """Its URL and process id."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        command = [sys.executable, "-m", "mq", "-s", f"{place}/store", "serve", "--port", "0"]
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


def sending(url: str) -> Callable[[], Step]:
    asked = request("SendMessage", QueueUrl=url, MessageBody=BODY)

    def send() -> Step:
        yield asked
        return 1

    return send


def sending_batches(url: str) -> Callable[[], Step]:
    entries = [{"Id": str(number), "MessageBody": BODY} for number in range(BATCH)]
    asked = request("SendMessageBatch", QueueUrl=url, Entries=entries)

    def send() -> Step:
        yield asked
        return BATCH

    return send


def receiving(url: str, limit: int) -> Callable[[], Step]:
    """Receive up to *limit*, and delete them."""
    asked = request("ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=limit)

    def receive() -> Step:
        messages = msgspec.json.decode((yield asked)).get("Messages", [])
        if limit == 1:
            for each in messages:
                yield request("DeleteMessage", QueueUrl=url, ReceiptHandle=each["ReceiptHandle"])
        elif messages:
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
            yield request("DeleteMessageBatch", QueueUrl=url, Entries=entries)
        return len(messages)

    return receive


class Round(NamedTuple):
    """*server*, *client*: microseconds of CPU for each message."""

    per_second: float
    server: float
    client: float


def measure(url: str, pid: int, begin: Callable[[], Step], connections: int, seconds: float) -> Round:
    opened = [Connection(url) for _ in range(connections)]
    cpu, own, began = cpu_seconds(pid), time.process_time(), time.perf_counter()
    count = work(opened, begin, began + seconds)
    took, own, cpu = time.perf_counter() - began, time.process_time() - own, cpu_seconds(pid) - cpu
    for each in opened:
        each.close()
    return Round(count / took, 1e6 * cpu / max(1, count), 1e6 * own / max(1, count))


def work(opened: list[Connection], begin: Callable[[], Step], until: float) -> int:
    """Keep the connections busy; how many messages that was.  One that finds an empty queue ends."""
    poller, count = select.epoll(), 0
    steps: dict[int, tuple[Connection, Step]] = {}
    for each in opened:
        step = begin()
        steps[each.socket.fileno()] = each, step
        poller.register(each.socket, select.EPOLLIN)
        each.send(next(step))
    while steps:
        for fd, _ in poller.poll():
            connection, step = steps[fd]
            body = connection.receive()
            if body is None:
                continue
            try:
                connection.send(step.send(body))
            except StopIteration as end:
                count += end.value
                if not end.value or time.perf_counter() >= until:
                    poller.unregister(fd)
                    del steps[fd]
                    continue
                step = begin()
                steps[fd] = connection, step
                connection.send(next(step))
    return count


def show(title: str, rounds: list[Round]) -> None:
    figures = [each.per_second for each in rounds]
    server, client = (statistics.median(each[part] for each in rounds) for part in (1, 2))
    spread = f"({min(figures):,.0f}–{max(figures):,.0f})"
    click.echo(
        f"{title:44} {statistics.median(figures):8,.0f} messages/s {spread:16}"
        f" CPU {server:4.0f} µs, client {client:3.0f} µs"
    )


def throughput(url: str, pid: int, connections: list[int], seconds: float) -> None:
    admin = Connection(url)
    queue = admin.ask("CreateQueue", QueueName="bench")["QueueUrl"]
    cases = {
        "SendMessage": sending(queue), "SendMessageBatch of 10": sending_batches(queue),
        "ReceiveMessage of 1, DeleteMessage": receiving(queue, 1),
        "ReceiveMessage of 10, DeleteMessageBatch": receiving(queue, BATCH),
    }  # fmt: skip
    for count in connections:
        for title, begin in cases.items():
            rounds = [measure(url, pid, begin, count, seconds) for _ in range(ROUNDS)]
            show(f"{title}, {count} connections", rounds)
    admin.close()


# ── waiting ────────────────────────────────────────────────────────────────────────


def hand_offs(url: str, waiting: int) -> None:
    """From before a send until a long poll, of so many, has the message."""
    admin = Connection(url)
    queues = [
        admin.ask("CreateQueue", QueueName=f"wait-{number}")["QueueUrl"] for number in range(min(waiting, 10))
    ]
    polls = [request("ReceiveMessage", QueueUrl=queue, WaitTimeSeconds=20) for queue in queues]
    opened = [Connection(url) for _ in range(waiting)]
    by_fd = {each.socket.fileno(): (each, polls[number % len(queues)]) for number, each in enumerate(opened)}
    poller = select.epoll()
    for each, poll in by_fd.values():
        poller.register(each.socket, select.EPOLLIN)
        each.send(poll)
    time.sleep(SETTLE_SECONDS)  # until all of them wait: it is not timed
    took = []
    for number in range(HAND_OFFS):
        began = time.perf_counter()
        admin.send(request("SendMessage", QueueUrl=queues[number % len(queues)], MessageBody="x"))
        took.append(arrival(poller, by_fd) - began)
        while admin.receive() is None:
            pass
    millis = sorted(each * 1000 for each in took)
    middle, late = statistics.median(millis), millis[int(len(millis) * 0.99)]
    click.echo(f"{f'hand-off to one of {waiting:,} long polls':44} {middle:8.2f} ms  p99 {late:.2f} ms")
    for each in (admin, *opened):
        each.close()


def arrival(poller: select.epoll, by_fd: dict[int, tuple[Connection, bytes]]) -> float:
    """When a poll was given a message; polls that were answered are sent again."""
    arrived = 0.0
    while not arrived:
        for fd, _ in poller.poll():
            connection, poll = by_fd[fd]
            body = connection.receive()
            if body is not None:
                arrived = time.perf_counter() if b"MessageId" in body else arrived
                connection.send(poll)
    return arrived


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def idle(pid: int) -> None:
    before = cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    percent = 100 * (cpu_seconds(pid) - before) / IDLE_SECONDS
    threads = len(os.listdir(f"/proc/{pid}/task"))
    click.echo(f"{'idle':44} {percent:8.1f} % of a core; {threads} threads")


@click.command(context_settings={"show_default": True})
@click.option("--seconds", default=2.0, help="Of each round.")
@click.option("--connections", default="1,10,50,100", help="How many, separated by commas.")
@click.option("--sync", type=float, help="As of mq serve; left out: each answer waits for the disk.")
@click.option("--waiting", default=1000, help="How many long polls wait.")
@click.option("--directory", help="Where the store is.")
def main(seconds: float, connections: str, sync: float | None, waiting: int, directory: str | None) -> None:
    with server(directory, sync) as (url, pid):
        idle(pid)
        throughput(url, pid, [int(each) for each in connections.split(",")], seconds)
        hand_offs(url, waiting)
        time.sleep(SETTLE_SECONDS)  # until the server has let go of all those connections
        idle(pid)


if __name__ == "__main__":
    main()
