"""The queues and schedules: what stands still, dies, or only grows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import mq
from mq.api.options import QueueOptions
from mq.cli import output
from mq.cli.checks.finding import Finding
from mq.cli.checks.subject import Subject
from mq.cli.dead import letters, sources
from mq.delivery.under_way import DESTINATION

MANY_LETTERS: Final = 100
WAITED_SECONDS: Final = 600.0  # of a queue from which nothing is in flight
OVERDUE_SECONDS: Final = 60.0


def check(subject: Subject) -> Iterator[Finding]:
    broker = subject.broker
    if broker is None:
        return
    graves, stats = sources(broker), broker.stats().queues
    for name, found in stats.items():
        queue = broker.queue(name)
        yield from _check_dead(queue) if name in graves else ()
        yield from _check_paused(queue, found)
        yield from _check_full(name, found, queue.options())
        if name not in graves and not found.paused:
            yield from _check_consumer(name, found)
    yield from _check_schedules(subject, broker)


def _check_dead(queue: mq.Queue[object]) -> Iterator[Finding]:
    count = sum(each.origin is not None for each in letters(queue))
    if count:
        yield Finding(
            "dead-letters", "warning" if count >= MANY_LETTERS else "note",
            f"{queue.name}: {output.count(count, 'dead letter')}",
            f"`mq dead show {queue.name}` says why; `mq dead replay` sends them back",
            queue=queue.name,
        )  # fmt: skip


def _check_paused(queue: mq.Queue[object], found: mq.Stats) -> Iterator[Finding]:
    if found.paused:
        name, held = queue.name, output.count(found.ready + found.delayed, "message")
        what = f"paused, with {held} waiting"
        advice = f"`mq queue resume {name}`, if that is not meant any more"
        if DESTINATION in queue.meta():
            what = f"{held} under way to another store, some of which may be there"
            advice = "if no `mq move` is at work, run it again, or with --back; take nothing from it"
        yield Finding("paused", "warning", f"{name}: {what}", advice, queue=name)


def _check_full(name: str, found: mq.Stats, options: QueueOptions) -> Iterator[Finding]:
    held = found.ready + found.in_flight + found.delayed
    for limit, now, what in (
        (options["max_length"], held, "messages"), (options["max_bytes"], found.bytes, "bytes")
    ):  # fmt: skip
        if limit is not None and now >= limit:
            drops = options["overflow"] == "drop_oldest"
            does = "each publish drops the oldest" if drops else "publishes are refused"
            yield Finding(
                "queue-full", "warning", f"{name}: full, at {now:,} of {limit:,} {what}: {does}",
                "look after its consumers, or raise the limit with `mq queue set`", queue=name,
            )  # fmt: skip


def _check_consumer(name: str, found: mq.Stats) -> Iterator[Finding]:
    if found.ready and not found.in_flight and found.oldest_age >= WAITED_SECONDS:
        ever = "" if found.acked or found.failed else "; nothing was ever taken from it"
        yield Finding(
            "no-consumer", "warning",
            f"{name}: {output.count(found.ready, 'message')} ready, the oldest for"
            f" {output.duration(found.oldest_age)}, and none in flight{ever}",
            "start its consumer, or see why it takes none", queue=name,
        )  # fmt: skip


def _check_schedules(subject: Subject, broker: mq.Broker) -> Iterator[Finding]:
    for each in broker.schedules():
        late = time.time() - each.next_at.timestamp()
        if late > OVERDUE_SECONDS:
            why = "its queue may be full, or the disk" if subject.held else "no process has the store open"
            yield Finding(
                "overdue", "warning",
                f"schedule {each.name}: a tick is due for {output.duration(late)}: {why}",
                "start a program that has the store open, or see what it logs", queue=each.queue,
            )  # fmt: skip
