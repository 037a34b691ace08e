"""mq stats: the counts of one queue, of what one topic retains, or of the whole store; their JSON schema."""

from __future__ import annotations

from typing import Any, Literal, Self

import click
import msgspec

import mq
from mq.cli import existing, output
from mq.cli.app import Failure, command, json_option, store_option
from mq.cli.looking import look
from mq.cli.options import shown_options, shown_value
from mq.cli.params import QUEUE
from mq.engine import retaining
from mq.engine.retaining import Retained

Kind = Literal["drop", "dead_letter"]


class Totals(msgspec.Struct, frozen=True):
    """Since the queue was made."""

    published: int
    acked: int
    failed: int
    expired: int
    dead_lettered: int
    dropped: int


class BackoffOption(msgspec.Struct, frozen=True):
    """Seconds, but for factor and jitter."""

    initial: float
    factor: float
    maximum: float
    jitter: float


class Options(msgspec.Struct, frozen=True):
    """Those of mq.QueueOptions; null: no limit."""

    visibility_timeout: float
    max_attempts: int | None
    backoff: BackoffOption
    dead_letter: str
    ttl: float | None
    expired: Kind
    max_length: int | None
    max_bytes: int | None
    overflow: Literal["reject", "drop_oldest"]
    dedup_window: float
    delivery: Literal["at_least_once", "at_most_once"]
    delete_when_idle: float | None
    delete_when_abandoned: float | None
    delay: float

    @classmethod
    def of(cls, options: mq.QueueOptions) -> Self:
        found: dict[str, Any] = {**options}
        return cls(**found | {"backoff": BackoffOption(*map(float, options["backoff"]))})


class QueueStats(msgspec.Struct, frozen=True):
    """One queue: what is in it now, totals and options apart from that.

    bytes         of bodies and attributes
    oldest_age    seconds since the oldest ready message was published; 0 if none is ready
    """

    queue: str
    ready: int
    in_flight: int
    delayed: int
    bytes: int
    oldest_age: float
    paused: bool
    totals: Totals
    options: Options

    @classmethod
    def of(cls, queue: mq.Queue[Any]) -> Self:
        stats = queue.stats()
        totals = Totals(*(getattr(stats, name) for name in Totals.__struct_fields__))
        return cls(queue.name, *stats[:6], totals, Options.of(queue.options()))


class TopicOptions(msgspec.Struct, frozen=True):
    """Those of mq.TopicOptions; null: no limit."""

    retain_for: float | None
    retain_count: int | None
    retain_bytes: int | None


class TopicStats(msgspec.Struct, frozen=True):
    """What one topic retains."""

    topic: str
    retained: int
    bytes: int
    oldest_at: str | None
    options: TopicOptions

    @classmethod
    def of(cls, topic: str, found: Retained) -> Self:
        limits = TopicOptions(*(getattr(found.limits, name) for name in TopicOptions.__struct_fields__))
        oldest_at = None if found.oldest_ms is None else output.instant(found.oldest_ms)
        return cls(topic, found.messages, found.bytes, oldest_at, limits)


class StoreStats(msgspec.Struct, frozen=True):
    """The whole store.

    unrouted    how many publishes to topics found no queue
    """

    store: str
    store_id: str
    queues: int
    ready: int
    in_flight: int
    delayed: int
    disk_bytes: int
    live_bytes: int
    segments: int
    processes: list[int]
    unrouted: int

    @classmethod
    def of(cls, broker: mq.Broker) -> Self:
        found = broker.stats()
        ready, in_flight, delayed = (
            sum(getattr(each, name) for each in found.queues.values())
            for name in ("ready", "in_flight", "delayed")
        )
        return cls(
            broker.path, broker.store_id, len(found.queues), ready, in_flight, delayed, found.disk_bytes,
            found.live_bytes, found.segments, found.processes, found.unrouted,
        )  # fmt: skip


@command(short_help="Show the counts and options of one queue, or of the store.")
@click.argument("queue", required=False, type=QUEUE)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of what --json prints, only.")
@json_option
@store_option
def stats(queue: str | None, schema: bool, as_json: bool, store: str) -> None:
    """Show the counts of one queue, its totals since it was made, and its options; without QUEUE, of all.

    If no queue has the name, and a topic does that retains messages: how much of it is there.

    Shows the visibility timeout, and each option that is not the default; --json has all options.
    Writes nothing.  Works while other processes have the store open.

    \b
    mq stats
    mq stats mail
    mq stats mail --json | jq '.ready, .totals.acked, .options.max_attempts'
    """
    if schema:
        forms, parts = msgspec.json.schema_components([QueueStats, TopicStats, StoreStats])
        output.json_line({"anyOf": list(forms), "$defs": parts})
        return
    with look(store) as broker:
        if queue is None:
            found: QueueStats | TopicStats | StoreStats = StoreStats.of(broker)
        elif existing.is_there(broker, queue):
            found = QueueStats.of(broker.queue(queue))
        elif retained := retaining.retained(broker._store, queue):
            found = TopicStats.of(queue, retained)
        else:
            broker.queue(queue)  # is it a name?
            raise Failure(existing.no_queue(broker, queue))
        options = broker.queue(queue).options() if isinstance(found, QueueStats) and queue else {}
    if as_json:
        output.json_line(found)
    elif isinstance(found, QueueStats):
        output.pairs(_queue_rows(found, options))
    else:
        output.pairs(_topic_rows(found) if isinstance(found, TopicStats) else _store_rows(found))


def _queue_rows(found: QueueStats, options: mq.QueueOptions) -> list[tuple[str, str]]:
    counts = {"ready": found.ready, "in flight": found.in_flight, "delayed": found.delayed}
    totals = {name.replace("_", "-"): count for name, count in msgspec.structs.asdict(found.totals).items()}
    width = max(len(f"{count:,}") for count in (counts | totals).values())
    rows = [("queue", found.queue)]
    rows += [("paused", output.coloured("yes", output.YELLOW))] if found.paused else []
    rows += [(name, f"{count:,}".rjust(width)) for name, count in counts.items()]
    rows += [("size", output.size(found.bytes))]
    rows += [("oldest", output.duration(found.oldest_age) if found.ready else "-")]
    rows += [(name, f"{count:,}".rjust(width)) for name, count in totals.items()]
    return rows + list(shown_options(found.queue, options))


def _topic_rows(found: TopicStats) -> list[tuple[str, str]]:
    rows = [("topic", found.topic), ("retained", f"{found.retained:,}"), ("size", output.size(found.bytes))]
    rows += [("oldest", found.oldest_at or "-")]
    for name, value in msgspec.structs.asdict(found.options).items():
        rows += [(name.replace("_", " "), shown_value(name, value))] if value is not None else []
    return rows


def _store_rows(found: StoreStats) -> list[tuple[str, str]]:
    processes = ", ".join(map(str, found.processes)) or "none, or the system does not say"
    return [
        ("store", found.store), ("id", found.store_id), ("queues", f"{found.queues:,}"),
        ("ready", f"{found.ready:,}"), ("in flight", f"{found.in_flight:,}"),
        ("delayed", f"{found.delayed:,}"), ("live", output.size(found.live_bytes)),
        ("disk", f"{output.size(found.disk_bytes)}, in {output.count(found.segments, 'segment')}"),
        ("processes", processes), ("unrouted", f"{found.unrouted:,}"),
    ]  # fmt: skip
