"""What a store holds and does, for Prometheus: `pip install "mq[metrics]"`.

    from prometheus_client import REGISTRY, start_http_server
    import mq, mq.metrics

    broker = mq.open("data")
    REGISTRY.register(mq.metrics.Collector(broker))
    start_http_server(9000)

docs/guide.md lists the metrics, and says which are of the store and which of this process alone.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate, chain
from threading import get_ident
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Final

from mq import exact
from mq.api.around import NO_HEADERS, SEND, add_around
from mq.api.broker import Broker, StoreStats
from mq.errors import MqError, UsageError

try:
    from prometheus_client import generate_latest
    from prometheus_client.metrics_core import CounterMetricFamily as Counter
    from prometheus_client.metrics_core import GaugeMetricFamily as Gauge
    from prometheus_client.metrics_core import HistogramMetricFamily as Histogram
    from prometheus_client.metrics_core import Metric
    from prometheus_client.utils import floatToGoString
except ImportError as error:
    raise ImportError('mq.metrics needs prometheus-client: pip install "mq[metrics]"') from error

if TYPE_CHECKING:
    from mq.aio.broker import AsyncBroker

BOUNDS: Final = (  # seconds, of the buckets: from a publish that waits for nothing to a disk that hangs
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
)  # fmt: skip

STORE, QUEUE, STATE = ("store",), ("store", "queue"), ("store", "queue", "state")
STATES: Final = ("ready", "in_flight", "delayed")  # fields of `mq.Stats`
FAMILIES: Final[dict[str, tuple[Callable[..., Any], str, str, Sequence[str]]]] = {
    "up": (Gauge, "mq_up", "1 if the store could be read.", STORE),
    "messages": (Gauge, "mq_queue_messages", "Messages that are not settled, by state.", STATE),
    # Fields of `mq.Stats`.
    "bytes": (Gauge, "mq_queue_bytes", "Bodies and attributes of the messages that are not settled.", QUEUE),
    "oldest_age": (Gauge, "mq_queue_oldest_age_seconds", "Age of the oldest ready message.", QUEUE),
    "paused": (Gauge, "mq_queue_paused", "1 while the queue is paused.", QUEUE),
    "published": (Counter, "mq_published", "Messages published to the queue, or moved to it.", QUEUE),
    "acked": (Counter, "mq_acked", "Messages acked.", QUEUE),
    "failed": (Counter, "mq_failed", "Attempts that failed.", QUEUE),
    "expired": (Counter, "mq_expired", "Messages that expired.", QUEUE),
    "dead_lettered": (Counter, "mq_dead_lettered", "Messages that went to the dead letters.", QUEUE),
    "dropped": (Counter, "mq_dropped", "Messages dropped for those that came later.", QUEUE),
    # Fields of `mq.StoreStats`.
    "unrouted": (Counter, "mq_unrouted", "Publishes to topics that no queue got.", STORE),
    "disk_bytes": (Gauge, "mq_disk_bytes", "What the log takes on the disk.", STORE),
    "live_bytes": (Gauge, "mq_live_bytes", "Bodies and attributes of all messages, each once.", STORE),
    "segments": (Gauge, "mq_segments", "Files of the log.", STORE),
    "processes": (Gauge, "mq_processes", "Processes that have the store open.", STORE),
    # Of this process alone.
    "publish": (Histogram, "mq_publish_duration_seconds", "Publishes, until they returned.", STORE),
    "fsync": (Histogram, "mq_fsync_duration_seconds", "Each fdatasync of the log.", STORE),
}
OF_QUEUE: Final = [name for name, (*_, labels) in FAMILIES.items() if labels is QUEUE]
OF_STORE: Final = ("unrouted", "disk_bytes", "live_bytes", "segments")


class Collector:
    """A collector for a registry of prometheus-client: `REGISTRY.register(mq.metrics.Collector(broker))`.

    *brokers*: one or several, open, each of another store: `mq.Broker` or `mq.AsyncBroker`.  Every sample has
    the label `store`, the broker's path.

    From now on each publish and fdatasync through these brokers is timed.  `collect` does not raise: for a
    store that cannot be read, because its broker is closed or the store failed, `mq_up` is 0, and there is
    nothing about what it holds.  Any thread may call it; for an event loop's it takes too long.

    Raises UsageError (no broker, or two of one path).
    """

    def __init__(self, *brokers: Broker | AsyncBroker) -> None:
        self._stores: list[_Store] = []
        for each in brokers:
            broker: Any = getattr(each, "_broker", each)
            if not exact.is_a(broker, Broker):
                raise UsageError(f"a collector is of brokers, not {exact.kind(each)}")
            if any(other.path == broker.path for other in self._stores):
                raise UsageError(f"two brokers of {broker.path}: one of them tells all there is")
            self._stores.append(_Store(broker))
        if not self._stores:
            raise UsageError("a collector is of at least one broker")
        for store in self._stores:
            store.attach()

    def describe(self) -> Iterator[Metric]:
        """The metrics, without samples: to register the collector reads no store."""
        yield from _families().values()

    def collect(self) -> Iterator[Metric]:
        """All samples, as they are now."""
        families = _families()
        for store in self._stores:
            store.add_to(families)
        yield from families.values()

    def text(self) -> bytes:
        """The same as Prometheus reads them, text format 0.0.4: for a store of many queues.

        It takes a third of the time of `generate_latest`, which makes several objects for each sample.
        """
        families, lines = _families(), {name: _Lines(*FAMILIES[name]) for name in ("messages", *OF_QUEUE)}
        for store in self._stores:
            store.add_to({**families, **lines})
        few = [family for name, family in families.items() if name not in lines]
        head: bytes = generate_latest(SimpleNamespace(collect=lambda: few))
        return head + "".join(chain.from_iterable(each.lines for each in lines.values())).encode()


def _families() -> dict[str, Any]:
    return {name: kind(shown, text, labels=labels) for name, (kind, shown, text, labels) in FAMILIES.items()}


class _Lines:
    """A family of gauges or counters, as text."""

    def __init__(self, kind: Callable[..., Any], shown: str, text: str, labels: Sequence[str]) -> None:
        name, known = (f"{shown}_total", "counter") if kind is Counter else (shown, "gauge")
        self.lines = [f"# HELP {name} {text}\n# TYPE {name} {known}\n"]
        self._name, self._labels = name, tuple(labels)

    def add_metric(self, labels: Sequence[str], value: float) -> None:
        self.lines.append(f"{self._name}{_said(self._labels, tuple(labels))} {_number(value)}\n")


_number: Final[Callable[[float], str]] = floatToGoString


@lru_cache(8)  # of a queue, most metrics have the same
def _said(labels: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = sorted(zip(labels, values, strict=True))
    return "{" + ",".join([f'{label}="{_escaped(value)}"' for label, value in pairs]) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class _Store:
    """One broker, and what was timed of it."""

    def __init__(self, broker: Broker) -> None:
        self.path = broker.path
        self._broker = broker
        self._publishes, self._syncs = _Durations(), _Durations()

    def attach(self) -> None:
        add_around(self._broker._store, self._around)
        self._broker._store.time_syncs(self._syncs.observe)

    def _around(self, operation: str, destination: str) -> _Timed:
        return _Timed(self._publishes.observe if operation == SEND else _ignore)

    def add_to(self, families: Mapping[str, Any]) -> None:
        stats = None
        with suppress(MqError):
            stats = self._broker.stats()
        families["up"].add_metric([self.path], int(stats is not None))
        if stats:
            self._add_stats(families, stats)
        self._publishes.add_to(families["publish"], self.path)
        self._syncs.add_to(families["fsync"], self.path)

    def _add_stats(self, families: Mapping[str, Any], stats: StoreStats) -> None:
        for queue, counts in stats.queues.items():
            labels = [self.path, queue]
            for state in STATES:
                families["messages"].add_metric([*labels, state], getattr(counts, state))
            for name in OF_QUEUE:
                families[name].add_metric(labels, getattr(counts, name))
        for name in OF_STORE:
            families[name].add_metric([self.path], getattr(stats, name))
        families["processes"].add_metric([self.path], len(stats.processes))


class _Durations:
    """How many took how long.

    Each thread counts for itself.  So there is no lock, which the handler of a signal or the child of a fork
    might find held, and no publish waits for another one to be counted.
    """

    def __init__(self) -> None:
        self._by_thread: dict[int, list[float]] = {}  # how many, by bucket; the seconds of all are last

    def observe(self, seconds: float) -> None:
        counts = self._by_thread.get(get_ident())
        if counts is None:
            counts = self._by_thread[get_ident()] = [0.0] * (len(BOUNDS) + 2)
        counts[bisect_left(BOUNDS, seconds)] += 1
        counts[-1] += seconds

    def add_to(self, family: Histogram, path: str) -> None:
        nothing = [0.0] * (len(BOUNDS) + 2)
        *counts, seconds = map(sum, zip(nothing, *list(self._by_thread.values()), strict=True))
        names = [*map(floatToGoString, BOUNDS), "+Inf"]
        family.add_metric([path], list(zip(names, accumulate(counts), strict=True)), seconds)


def _ignore(seconds: float) -> None:
    pass


class _Timed:
    """Times a block, if it does not raise."""

    __slots__ = ("_begin", "_observe")

    def __init__(self, observe: Callable[[float], object]) -> None:
        self._observe = observe

    def __enter__(self) -> Mapping[str, str]:
        self._begin = time.perf_counter()
        return NO_HEADERS

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._observe(time.perf_counter() - self._begin)
