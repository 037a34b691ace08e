"""What the asyncio face costs beside the plain one, and that waiting tasks cost nothing.

    python -m benchmarks.asyncio [--messages N] [--tasks N] [--queues N] [--seconds S] [--directory DIR]

publish, receive + ack    CPU time a message with sync="never", by turns with the plain face in the same
                          process; the minimum of several rounds.  Mark: 2 times the plain face.
ticker                    how late a task is that sleeps for a millisecond again and again, beside durable
                          publishing from 100 tasks.  Mark: 5 ms for 99 of 100.
waiting                   memory a task, CPU at rest and threads, while very many tasks wait in `receive`.

This is a directory without an __init__.py: a file asyncio.py would stand in front of Python's own module for
every script beside it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

import mq

BODY = bytes(range(100))
ROUNDS = 15
PUBLISHERS = 100
TICK_SECONDS = 0.001
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Rounds = dict[str, list[float]]  # microseconds of CPU a message, by what was done


# ── a message ──────────────────────────────────────────────────────────────────────


def publish(queue: mq.Queue[bytes], count: int) -> None:
    for _ in range(count):
        queue.publish(BODY)


def receive_ack(queue: mq.Queue[bytes], count: int) -> None:
    for _ in range(count):
        queue.receive().ack()


async def publish_async(queue: mq.AsyncQueue[bytes], count: int) -> None:
    for _ in range(count):
        await queue.publish(BODY)


async def receive_ack_async(queue: mq.AsyncQueue[bytes], count: int) -> None:
    for _ in range(count):
        await (await queue.receive()).ack()


def plain_round(directory: str, count: int, rounds: Rounds) -> None:
    with mq.open(tempfile.mkdtemp(dir=directory), sync="never") as broker:
        queue = broker.queue("bench")
        for title, work in (("publish", publish), ("receive + ack", receive_ack)):
            begin = time.process_time()
            work(queue, count)
            note(rounds, title, begin, count)


async def async_round(directory: str, count: int, rounds: Rounds) -> None:
    async with mq.aopen(tempfile.mkdtemp(dir=directory), sync="never") as broker:
        queue = broker.queue("bench")
        works: list[tuple[str, Callable[[Any, int], Awaitable[None]]]]
        works = [("publish", publish_async), ("receive + ack", receive_ack_async)]
        for title, work in works:
            begin = time.process_time()
            await work(queue, count)
            note(rounds, title, begin, count)


def note(rounds: Rounds, title: str, begin: float, count: int) -> None:
    rounds.setdefault(title, []).append((time.process_time() - begin) / count * 1e6)


def messages(directory: str, count: int) -> None:
    plain: Rounds = {}
    tasks: Rounds = {}
    for _ in range(ROUNDS):
        plain_round(directory, count, plain)
        asyncio.run(async_round(directory, count, tasks))
    for title, micros in plain.items():
        one, other = min(micros), min(tasks[title])
        click.echo(f"{title:14} plain {one:5.2f} µs   asyncio {other:5.2f} µs   {other / one:4.2f} times")


# ── the loop beside the disk ───────────────────────────────────────────────────────


async def ticker(directory: str, seconds: float) -> None:
    late: list[float] = []
    async with mq.aopen(directory) as broker:
        queue = broker.queue("bench")
        end, published = time.monotonic() + seconds, 0

        async def work() -> None:
            nonlocal published
            while time.monotonic() < end:
                await queue.publish(BODY)
                published += 1

        async def tick() -> None:
            while time.monotonic() < end:
                begin = time.perf_counter()
                await asyncio.sleep(TICK_SECONDS)
                late.append(time.perf_counter() - begin - TICK_SECONDS)

        await asyncio.gather(tick(), *(work() for _ in range(PUBLISHERS)))
    late.sort()
    half, most = (late[int(len(late) * part)] * 1e3 for part in (0.5, 0.99))
    click.echo(
        f"ticker         late by {half:.1f} ms, 99 of 100 by less than {most:.1f} ms, the worst by"
        f" {late[-1] * 1e3:.1f} ms, beside {published / seconds:,.0f} durable publishes/s"
    )


# ── waiting ────────────────────────────────────────────────────────────────────────


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


async def waiting(directory: str, count: int, queues: int, seconds: float) -> None:
    async with mq.aopen(directory, sync="never") as broker:
        handles = [broker.queue(f"queue-{number}") for number in range(queues)]
        for handle in handles:
            async with await handle.publish(b"") and await handle.receive():
                pass
        before = memory_bytes()
        tasks = [asyncio.create_task(handles[number % queues].receive()) for number in range(count)]
        while len(broker._broker._store.waiters.asleep) < count:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        each = (memory_bytes() - before) / count
        begin, began = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        cpu = (time.process_time() - begin) / (time.monotonic() - began)
        click.echo(
            f"waiting        {count:,} tasks on {queues:,} queues: {each / 1000:.1f} KB a task,"
            f" {cpu:.2%} CPU at rest, {threading.active_count()} threads"
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@click.command(help=__doc__)
@click.option("--messages", "count", default=20_000, show_default=True)
@click.option("--tasks", default=10_000, show_default=True)
@click.option("--queues", default=1_000, show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="For the ticker, and at rest.")
@click.option("--directory", type=click.Path(file_okay=False), help="On the disk to measure.")
def main(count: int, tasks: int, queues: int, seconds: float, directory: str | None) -> None:
    scratch = tempfile.mkdtemp(prefix="mq-bench-", dir=directory)
    try:
        messages(scratch, count)
        asyncio.run(ticker(tempfile.mkdtemp(dir=scratch), seconds))
        asyncio.run(waiting(tempfile.mkdtemp(dir=scratch), tasks, queues, seconds))
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
