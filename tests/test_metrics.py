"""Metrics for Prometheus: what a scrape says, what it costs others, and that it never raises."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import CountingDisk, FakeClock, open_on
from test_fork import in_child

import mq
from mq.engine import looking
from mq.storage.real_disk import RealDisk

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mq.metrics import FAMILIES, Collector

GUIDE = (Path(__file__).parents[1] / "docs/guide.md").read_text()
ODD = ['a "quoted" one', "back\\slash", "ключ", "{curly}", "a,b=c", " spaces "]
PATIENCE = 120.0


Samples = dict[tuple[str, str, str], float]  # by metric, queue and state or bucket


def between_slices(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Have another thread *do* something whenever a scrape gives way, which it does behind each queue."""

    def give_way(store: object) -> None:
        other = threading.Thread(target=do)
        other.start()
        other.join(PATIENCE)
        assert not other.is_alive()

    monkeypatch.setattr(looking, "SLICE_SECONDS", 0)
    monkeypatch.setattr(looking, "give_way", give_way)


def scrape(collector: Collector) -> Samples:
    """All samples, by way of the text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(collector)
    found: Samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for name, labels, value, *_ in family.samples:
            key = name, labels.get("queue", ""), labels.get("state", "") or labels.get("le", "")
            assert key not in found
            found[key] = value
    return found


def of_queues(samples: Samples) -> set[str]:
    return {queue for _, queue, _ in samples} - {""}


def published(samples: Samples) -> float:
    return samples["mq_publish_duration_seconds_count", "", ""]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


# ── what is said ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["mail", *ODD])
def test_a_scrape_says_what_stats_say(path: Path, name: str) -> None:
    clock = FakeClock()
    with mq.open(path, clock=clock) as broker:
        queue = broker.queue(name, max_attempts=2)
        queue.publish_many([b"one", b"two", b"three", b"four"])
        queue.publish(b"later", delay=60)
        queue.publish(b"expires", ttl=1)
        queue.receive().ack()
        queue.receive().reject()
        queue.receive()
        clock.advance(5)
        queue.pause()
        broker.topic("nowhere").publish(b"lost")
        samples, stats, store = scrape(Collector(broker)), queue.stats(), broker.stats()
        for state in ("ready", "in_flight", "delayed"):
            assert samples["mq_queue_messages", name, state] == getattr(stats, state) > 0
        for total in ("published", "acked", "failed", "expired", "dead_lettered", "dropped"):
            assert samples[f"mq_{total}_total", name, ""] == getattr(stats, total)
        assert (stats.published, stats.acked, stats.dead_lettered) == (6, 1, 1)
        assert samples["mq_queue_bytes", name, ""] == stats.bytes > 0
        assert samples["mq_queue_oldest_age_seconds", name, ""] == stats.oldest_age == 5
        assert samples["mq_queue_paused", name, ""] == 1
        assert samples["mq_unrouted_total", "", ""] == store.unrouted == 1
        assert samples["mq_disk_bytes", "", ""] == store.disk_bytes
        assert samples["mq_live_bytes", "", ""] == store.live_bytes
        assert samples["mq_segments", "", ""] == store.segments
        assert samples["mq_processes", "", ""] == 1
        assert samples["mq_up", "", ""] == 1


def test_the_text_is_what_the_library_writes(tmp_path: Path) -> None:
    """But for the order of the metrics; each with all its samples behind its head."""
    clock, registry = FakeClock(), CollectorRegistry()
    with mq.open(tmp_path / 'a "b"\n', clock=clock) as one, mq.open(tmp_path / "c", clock=clock) as other:
        collector = Collector(one, other)
        registry.register(collector)
        for name in ODD:
            one.queue(name).publish_many([b"x"] * len(name))
        clock.advance(1.5)
        metrics = [set(text.split(b"# HELP ")[1:]) for text in (collector.text(), generate_latest(registry))]
    assert metrics[0] == metrics[1]


def test_names_follow_the_conventions_and_the_guide_has_them_all() -> None:
    for kind, name, text, labels in FAMILIES.values():
        assert re.fullmatch(r"mq_[a-z_]+", name)
        assert not name.endswith("_total"), "the library adds it"
        shown = f"{name}_total" if kind.__name__.startswith("Counter") else name
        assert f"`{shown}`" in GUIDE
        assert text.endswith(".")
        assert labels[0] == "store"
        if kind.__name__.startswith("Histogram") or "_age_" in name:
            assert name.endswith("_seconds")


def test_a_queue_that_is_deleted_is_gone_and_begins_anew(path: Path) -> None:
    with mq.open(path) as broker:
        collector, queue = Collector(broker), broker.queue("mail")
        queue.publish_many([1, 2, 3])
        queue.delete()
        assert of_queues(scrape(collector)) == set()
        queue.publish(1)
        assert scrape(collector)["mq_published_total", "mail", ""] == 1


def test_a_queue_that_goes_during_a_scrape_is_left_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mq.open(path) as broker:
        for name in ("a", "b", "c"):
            broker.queue(name).publish(1)
        between_slices(monkeypatch, lambda: broker.queue("c").delete())
        assert of_queues(scrape(Collector(broker))) == {"a", "b"}


def test_what_is_no_queue_has_no_samples(path: Path) -> None:
    """What topics retain, and what belongs to no queue."""
    with mq.open(path) as broker:
        broker.topic("news", retain_count=5).publish("one")
        broker.queue("reader").subscribe("news")
        assert of_queues(scrape(Collector(broker))) == {"reader"}


def test_several_stores_have_a_label_each(tmp_path: Path) -> None:
    with mq.open(tmp_path / "one") as one, mq.open(tmp_path / "other") as other:
        registry = CollectorRegistry()
        registry.register(Collector(one, other))
        one.queue("q").publish(1)
        for broker, count in ((one, 1), (other, None)):
            labels = {"store": broker.path, "queue": "q"}
            assert registry.get_sample_value("mq_published_total", labels) == count


def test_what_others_did_is_told_and_not_how_long_it_took(path: Path) -> None:
    with mq.open(path) as broker:
        collector = Collector(broker)
        program = f"import mq\nmq.open({str(path)!r}).queue('q').publish_many([1, 2])"
        subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
        samples = scrape(collector)
        assert samples["mq_published_total", "q", ""] == 2
        assert published(samples) == 0


def test_a_reader_tells_what_is_there(path: Path) -> None:
    with mq.open(path) as broker:
        broker.queue("q").publish(1)
        with mq.open(path, read_only=True) as reader:
            assert scrape(Collector(reader))["mq_queue_messages", "q", "ready"] == 1


# ── it never raises ────────────────────────────────────────────────────────────────


def only_that_it_is_down(samples: Samples) -> bool:
    rest = {name for name, *_ in samples if "duration_seconds" not in name}
    return rest == {"mq_up"} and samples["mq_up", "", ""] == 0


def test_a_closed_broker_is_down(path: Path) -> None:
    with mq.open(path) as broker:
        collector = Collector(broker)
        broker.queue("q").publish(1)
    samples = scrape(collector)
    assert only_that_it_is_down(samples)
    assert published(samples) == 1


def test_a_broker_that_is_closed_during_a_scrape_is_down(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = mq.open(path)
    broker.queue("q").publish(1)
    collector, files = Collector(broker), looking.files
    monkeypatch.setattr(looking, "files", lambda store: (broker.close(), files(store))[1])
    assert only_that_it_is_down(scrape(collector))


class Failing(RealDisk):
    on = False

    def sync(self, fd: int) -> None:
        if self.on:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(fd)


def test_a_failed_store_is_down(path: Path) -> None:
    disk = Failing()
    broker = open_on(disk, path)
    collector = Collector(broker)
    disk.on = True
    with pytest.raises(mq.StoreFailed):
        broker.queue("q").publish(1)
    samples = scrape(collector)
    assert only_that_it_is_down(samples)
    assert published(samples) == 0
    broker.close()


@pytest.mark.parametrize("given", [(), ("data",), (None,)])
def test_what_is_no_broker_is_refused(given: tuple[Any, ...]) -> None:
    with pytest.raises(mq.UsageError, match="collector is of"):
        Collector(*given)


def test_a_store_is_told_of_once(path: Path) -> None:
    with mq.open(path) as one, mq.open(path) as other, pytest.raises(mq.UsageError, match="two brokers"):
        Collector(one, other)


def test_to_register_reads_no_store(path: Path) -> None:
    broker = mq.open(path)
    broker.close()
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Collector(broker))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Collector(broker))


@pytest.mark.parametrize("module, library", [("metrics", "prometheus_client"), ("otel", "opentelemetry")])
def test_without_the_library_it_says_what_to_install(module: str, library: str) -> None:
    program = f"import sys\nsys.modules[{library!r}] = None\nimport mq.{module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr.splitlines()[-1].endswith(f'pip install "mq[{module}]"')


def test_neither_library_is_imported_before_it_is_asked_for() -> None:
    program = (
        "import sys, mq\nmq.open(':memory:').queue('q').publish(1)\n"
        "assert not {'prometheus_client', 'opentelemetry', 'mq.metrics', 'mq.otel'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)


# ── others go on ───────────────────────────────────────────────────────────────────


def test_others_come_in_between_two_slices(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many queues there are, a thread that publishes waits for a slice of them at most."""
    with mq.open(path, sync="never") as broker:
        for number in range(50):
            broker.queue(f"q{number}").publish(b"x")
        between_slices(monkeypatch, lambda: broker.queue("new").publish(b"x"))
        assert len(of_queues(scrape(Collector(broker)))) == 50
        assert broker.queue("new").stats().published == 49


def test_many_queues_are_told_of_and_not_kept(path: Path) -> None:
    with mq.open(path, sync="never") as broker, broker.transaction() as tx:
        for number in range(3000):
            tx.publish(f"q{number}", b"x")
    with mq.open(path, sync="never") as broker:
        samples = scrape(Collector(broker))
        assert sum(samples["mq_queue_messages", f"q{n}", "ready"] for n in range(3000)) == 3000
        assert len(broker._store.waiters.channels) == 0


# ── how long it took ───────────────────────────────────────────────────────────────


def test_nothing_is_timed_without_a_collector(path: Path) -> None:
    with mq.open(path) as broker:
        broker.queue("q").publish(1)
        store = broker._store
        assert store.around is None
        assert store.replica.log.owner.observe_sync is None


def test_each_publish_that_returns_is_timed(path: Path) -> None:
    with mq.open(path) as broker:
        collector, queue = Collector(broker), broker.queue("q", max_length=4)
        queue.publish(b"plain")
        queue.publish({"a": 1}, priority=3)
        queue.publish_many([b"two", b"more"])
        with pytest.raises(mq.QueueFull):
            queue.publish(b"no room")
        with pytest.raises(mq.UsageError):
            queue.publish(b"", priority=-1)
        broker.topic("t").publish(b"x")
        with broker.transaction() as tx:
            tx.publish("other", b"x")
        assert published(scrape(collector)) == 4
        assert [each.body for each in queue.peek()] == [{"a": 1}, b"plain", b"two", b"more"]
        assert all(not each.headers for each in queue.peek())


def test_the_buckets_add_up(path: Path) -> None:
    with mq.open(path, sync="never") as broker:
        collector = Collector(broker)
        observe = collector._stores[0]._publishes.observe
        for seconds in (1e-6, 3e-4, 99.0):
            thread = threading.Thread(target=observe, args=(seconds,))
            thread.start()
            thread.join()
        observe(0.00025)
        samples = scrape(collector)
        name = "mq_publish_duration_seconds_bucket"
        assert samples[name, "", "1e-05"] == 1
        assert samples[name, "", "0.00025"] == 2  # a bound is inside
        assert samples[name, "", "0.0005"] == samples[name, "", "10.0"] == 3
        assert samples[name, "", "+Inf"] == published(samples) == 4
        assert samples["mq_publish_duration_seconds_sum", "", ""] == pytest.approx(99.000551)


def test_each_sync_of_the_log_is_timed(path: Path) -> None:
    disk = CountingDisk()
    with open_on(disk, path, segment_bytes=4096) as broker:
        collector, before = Collector(broker), disk.log_syncs()
        for _ in range(5):
            broker.queue("q").publish(bytes(1000))
        samples, count = scrape(collector), disk.log_syncs() - before
        timed = samples["mq_fsync_duration_seconds_count", "", ""]
        assert 5 <= timed <= count  # the header of a new segment is synced by itself


def test_a_second_collector_takes_nothing_from_the_first(path: Path) -> None:
    name = "mq_fsync_duration_seconds_count", "", ""
    with mq.open(path) as broker:
        one, other = Collector(broker), Collector(broker)
        before = scrape(one)[name]
        broker.queue("q").publish(1)
        assert scrape(one)[name] - before == scrape(other)[name] > 0
        assert published(scrape(one)) == published(scrape(other)) == 1


def test_the_child_of_a_fork_times_its_own(path: Path) -> None:
    with mq.open(path) as broker:
        collector = Collector(broker)
        broker.queue("q").publish(1)

        def child() -> None:
            before = scrape(collector)["mq_fsync_duration_seconds_count", "", ""]
            broker.queue("q").publish(2)
            samples = scrape(collector)
            assert published(samples) == 2
            assert samples["mq_fsync_duration_seconds_count", "", ""] > before

        in_child(child)
        assert published(scrape(collector)) == 1


class Gate(RealDisk):
    """Syncs wait while the gate is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.open_again = threading.Event()
        self.open_again.set()

    def sync(self, fd: int) -> None:
        assert self.open_again.wait(PATIENCE)
        super().sync(fd)


def test_a_publish_of_a_task_is_timed_until_it_is_on_the_disk(path: Path) -> None:
    disk = Gate()

    async def main() -> None:
        face = mq.AsyncBroker(lambda: open_on(disk, path))
        async with face as broker:
            collector, queue = Collector(broker), broker.queue("q")
            await queue.publish(0)
            disk.open_again.clear()
            waits = [
                asyncio.create_task(queue.publish(1)),
                asyncio.create_task(queue.publish_many([2, 3])),
                asyncio.create_task(broker.topic("t").publish(4)),
            ]
            for _ in range(20):
                await asyncio.sleep(0)
            assert published(await asyncio.to_thread(scrape, collector)) == 1
            disk.open_again.set()
            await asyncio.gather(*waits)
            assert published(await asyncio.to_thread(scrape, collector)) == 4
            assert [each.body for each in await queue.peek()] == [0, 1, 2, 3]

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
