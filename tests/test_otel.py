"""Traces: the context goes with the message, and a handler's span goes on with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import mq

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

import mq.otel


class Spans(SpanExporter):
    def __init__(self) -> None:
        self.all: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.all += spans
        return SpanExportResult.SUCCESS

    def one(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.all if span.name == name)
        return found


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def provider(spans: Spans) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider


@pytest.fixture
def broker(provider: TracerProvider) -> Iterator[mq.Broker]:
    with mq.open(":memory:") as broker:
        mq.otel.instrument(broker, tracer_provider=provider)
        yield broker


def span_id(span: ReadableSpan) -> int:
    assert span.context
    return span.context.span_id


def trace_of(message: mq.Message[Any]) -> tuple[int, int]:
    """The trace and the span that the headers name, read without the library."""
    version, trace_id, parent, _ = message.headers["traceparent"].split("-")
    assert version == "00"
    return int(trace_id, 16), int(parent, 16)


# ── publishing ─────────────────────────────────────────────────────────────────────


def test_a_publish_is_a_span_whose_context_is_in_the_headers(broker, spans, provider) -> None:
    queue = broker.queue("orders")
    with provider.get_tracer("test").start_as_current_span("checkout"):
        queue.publish({"id": 1}, priority=3, headers={"a": "b"})
    sent, checkout = spans.one("send orders"), spans.one("checkout")
    (message,) = queue.peek()
    assert trace_of(message) == (sent.context.trace_id, sent.context.span_id)
    assert (message.headers["a"], message.priority, message.body) == ("b", 3, {"id": 1})
    assert sent.kind is SpanKind.PRODUCER
    assert sent.parent.span_id == span_id(checkout)
    assert sent.attributes == {
        "messaging.system": "mq",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
    }


def test_every_way_to_publish_passes_the_context_on(broker, spans) -> None:
    queue = broker.queue("q")
    broker.queue("reader").subscribe("news.*")
    queue.publish(b"plain")
    queue.publish_many([b"one", mq.Outgoing("own", {"headers": {"own": "x"}})], headers={"all": "y"})
    broker.topic("news.today").publish("hello")
    with broker.transaction() as tx:
        tx.publish(queue, "in a transaction")
        tx.publish(broker.topic("news.today"), "too")
    names = ["send q", "send q", "send news.today", "create q", "create news.today"]
    assert [span.name for span in spans.all] == names
    ids = [span_id(span) for span in spans.all]
    messages = queue.peek()
    assert [trace_of(each)[1] for each in messages] == [ids[0], ids[1], ids[1], ids[3]]
    assert [trace_of(each)[1] for each in broker.queue("reader").peek()] == [ids[2], ids[4]]
    assert messages[1].headers["all"] == "y"
    assert messages[2].headers["own"] == "x"


def test_headers_that_are_passed_on_name_no_older_span(broker, spans) -> None:
    queue = broker.queue("q")
    queue.publish(b"first")
    queue.publish(b"second", headers=queue.receive().headers)
    (second,) = queue.peek()
    assert trace_of(second)[1] == span_id(spans.all[1])


def test_a_publish_that_is_refused_is_an_error_of_its_span(broker, spans) -> None:
    with pytest.raises(mq.UsageError):
        broker.queue("q").publish(b"", priority=-1)
    assert spans.one("send q").status.status_code is StatusCode.ERROR
    with pytest.raises(mq.UsageError, match="headers"):
        broker.queue("q").publish(b"", headers=3)


def test_without_an_sdk_nothing_is_added() -> None:
    with mq.open(":memory:") as broker:
        mq.otel.instrument(broker)
        queue = broker.queue("q")
        queue.publish(b"x")
        (message,) = queue.peek()
        assert not message.headers


# ── handlers ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_goes_on_with_the_trace(broker, spans, is_async) -> None:
    seen: list[trace.Span] = []

    def bill(order: dict[str, int]) -> None:
        seen.append(trace.get_current_span())

    async def bill_async(order: dict[str, int]) -> None:
        await asyncio.sleep(0)
        bill(order)

    broker.consumer("orders")(bill_async if is_async else bill)
    id = broker.queue("orders").publish({"id": 1})
    broker.run(until_empty=True)
    sent, done = spans.one("send orders"), spans.one("process orders")
    assert done.kind is SpanKind.CONSUMER
    assert (done.context.trace_id, done.parent.span_id) == (sent.context.trace_id, span_id(sent))
    assert seen[0].get_span_context() == done.context
    assert done.attributes["messaging.message.id"] == str(id)
    assert done.attributes["messaging.operation.type"] == "process"
    assert done.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("is_async", [False, True])
def test_an_exception_of_a_handler_is_noted_and_has_its_effect(broker, spans, is_async) -> None:
    def bill(order: str) -> None:
        raise mq.Reject("never")

    async def bill_async(order: str) -> None:
        bill(order)

    broker.consumer("orders")(bill_async if is_async else bill)
    broker.queue("orders").publish("one")
    broker.run(until_empty=True)
    (dead,) = broker.queue("orders.dead").peek()
    assert dead.failures[0].reason == "never"
    span = spans.one("process orders")
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "Reject")
    assert [event.name for event in span.events] == ["exception"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_raises_no_exception_of_a_fault_has_failed_too(broker, spans, is_async, kind) -> None:
    def bill(order: str) -> None:
        raise kind("enough")

    async def bill_async(order: str) -> None:
        bill(order)

    queue = broker.queue("orders", max_attempts=1)
    broker.consumer(queue)(bill_async if is_async else bill)
    queue.publish("one")
    broker.run(until_empty=True)
    assert queue.stats().failed == 1
    span = spans.one("process orders")
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, kind.__name__)
    assert [event.name for event in span.events] == ["exception"]


def test_a_batch_has_a_link_to_each_of_its_messages(broker, spans) -> None:
    queue = broker.queue("orders")
    queue.publish("one")
    queue.publish("two")
    broker.consumer(queue, batch=10)(lambda orders: None)
    broker.run(until_empty=True)
    one, two, done = spans.all
    assert [link.context.span_id for link in done.links] == [span_id(one), span_id(two)]
    assert done.parent is None
    assert done.attributes["messaging.batch.message_count"] == 2


def test_a_message_without_a_context_begins_a_trace(broker, spans) -> None:
    mq.Queue(broker._store, broker._store.channel("orders"))._send("one", {}, {})  # as from an older program
    broker.consumer("orders")(lambda order: None)
    broker.run(until_empty=True)
    assert spans.one("process orders").parent is None


def test_what_a_handler_publishes_is_in_the_same_trace(broker, spans) -> None:
    @broker.consumer("orders")
    def bill(order: str) -> None:
        broker.queue("bills").publish("bill of " + order)

    broker.queue("orders").publish("one")
    broker.run(until_empty=True)
    names = ["send orders", "process orders", "send bills"]
    sent, done, billed = (spans.one(name) for name in names)
    assert [span.parent.span_id for span in (done, billed)] == [span_id(sent), span_id(done)]


def test_a_message_that_is_received_by_hand_has_its_context(broker, spans, provider) -> None:
    queue = broker.queue("q")
    queue.publish(b"x")
    message, tracer = queue.receive(), provider.get_tracer("test")
    with tracer.start_as_current_span("by hand", context=mq.otel.context_of(message)):
        pass
    assert spans.one("by hand").parent.span_id == span_id(spans.one("send q"))


# ── tasks ──────────────────────────────────────────────────────────────────────────


def test_it_is_the_same_for_tasks(spans, provider, tmp_path) -> None:
    async def main() -> None:
        tracer = provider.get_tracer("test")
        async with mq.aopen(tmp_path / "data") as broker:
            mq.otel.instrument(broker, tracer_provider=provider)
            orders = broker.queue("orders")

            @broker.consumer(orders)
            async def bill(delivery: mq.AsyncDelivery[str]) -> None:
                await broker.queue("bills").publish("bill of " + delivery.body, priority=1)

            @broker.consumer("bills")
            def send(body: str) -> None:
                pass

            with tracer.start_as_current_span("checkout"):
                await orders.publish(bytes(1 << 20))  # a thread publishes it
                await orders.purge()
                await orders.publish("one")
            async with broker.transaction() as tx:
                tx.publish(broker.topic("t"), "x")
            await broker.run(until_empty=True)

    asyncio.run(asyncio.wait_for(main(), 30))
    large, sent = (span for span in spans.all if span.name == "send orders")
    checkout, done, billed = map(spans.one, ("checkout", "process orders", "send bills"))
    parents = [span.parent.span_id for span in (large, sent, done, billed, spans.one("process bills"))]
    assert parents == [span_id(each) for each in (checkout, checkout, sent, done, billed)]


# ── asking for it ──────────────────────────────────────────────────────────────────


def test_it_is_asked_for_once(broker) -> None:
    with pytest.raises(mq.UsageError, match="already"):
        mq.otel.instrument(broker)
    with pytest.raises(mq.UsageError, match="not str"):
        mq.otel.instrument("data")  # type: ignore[arg-type]


def test_metrics_and_traces_go_together(broker, spans) -> None:
    prometheus_client = pytest.importorskip("prometheus_client")
    from mq.metrics import Collector

    registry = prometheus_client.CollectorRegistry()
    registry.register(Collector(broker))
    queue = broker.queue("q")
    queue.publish(b"x")
    (message,) = queue.peek()
    assert trace_of(message)[1] == span_id(spans.one("send q"))
    labels = {"store": ":memory:"}
    assert registry.get_sample_value("mq_publish_duration_seconds_count", labels) == 1
