"""Traces across a queue, with OpenTelemetry: `pip install "mq[otel]"`, which is its API alone.

    import mq, mq.otel

    broker = mq.open("data")
    mq.otel.instrument(broker)

    publish ──► a producer span; its context goes into the headers, as the propagator writes it (traceparent)
                    ┊
    handler ◄── a consumer span around each call: a child of the publish; of a batch, with links to all

Without an SDK of OpenTelemetry in the process nothing is recorded, and no header is added.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from mq import exact
from mq.api.around import add_around
from mq.api.broker import Broker
from mq.engine.store import Store
from mq.errors import UsageError

try:
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
except ImportError as error:
    raise ImportError('mq.otel needs opentelemetry-api: pip install "mq[otel]"') from error

if TYPE_CHECKING:
    from mq.aio.broker import AsyncBroker
    from mq.api.message import Message

_traced: Final[WeakSet[Store]] = WeakSet()


def instrument(broker: Broker | AsyncBroker, *, tracer_provider: trace.TracerProvider | None = None) -> None:
    """Trace what is published through *broker*, and its consumers' functions.  Once for each broker.

    *tracer_provider*: of OpenTelemetry; None (the default): the global one.

    Each `publish` and `publish_many` of a queue or a topic is a span "send <name>", and each publish in a
    transaction a span "create <name>", of kind PRODUCER.  Its context goes into the headers of the messages,
    in the place of one that is there.  Each call of a consumer's function is a span "process <queue>", of
    kind CONSUMER: it goes on with the trace of its message, and one of a batch has links to all its messages.
    An exception that leaves the function is recorded.  What `broker.schedule` publishes has no context.

    A message that is received by hand has its context by `mq.otel.context_of`.

    Raises UsageError (it is no broker, or traced already).
    """
    inner: Any = getattr(broker, "_broker", broker)
    if not exact.is_a(inner, Broker):
        raise UsageError(f"what is instrumented is a broker, not {exact.kind(broker)}")
    if inner._store in _traced:
        raise UsageError("the broker is traced already")
    _traced.add(inner._store)
    tracing = _Tracing(trace.get_tracer("mq", tracer_provider=tracer_provider))
    add_around(inner._store, tracing.publishing)
    broker.middleware(tracing.processing)


def context_of(message: Message[Any]) -> Context:
    """The context that *message* was published in: what is current, if it was published without one.

    with tracer.start_as_current_span("bill", context=mq.otel.context_of(message)): ...
    """
    return propagate.extract(message.headers)


class _Tracing:
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def publishing(self, operation: str, destination: str) -> Iterator[Mapping[str, str]]:
        with self._tracer.start_as_current_span(
            f"{operation} {destination}", kind=trace.SpanKind.PRODUCER,
            attributes=_attributes(operation, destination),
        ):  # fmt: skip
            headers: dict[str, str] = {}
            propagate.inject(headers)
            yield headers

    def processing(self, given: Any, call_next: Callable[[], object]) -> object:
        """A middleware: see `mq.Broker.middleware`."""
        span = self._span_of_batch(given) if isinstance(given, list) else self._span_of(given)
        goes_on = False
        try:
            with _current(span):
                result = call_next()
                goes_on = inspect.isawaitable(result)
        finally:
            if not goes_on:
                span.end()
        return _awaited(span, result) if goes_on else result

    def _span_of(self, delivery: Message[Any]) -> trace.Span:
        queue = delivery.queue
        return self._tracer.start_span(
            f"process {queue}", context_of(delivery), trace.SpanKind.CONSUMER,
            {**_attributes("process", queue), "messaging.message.id": str(delivery.id)},
        )  # fmt: skip

    def _span_of_batch(self, deliveries: list[Message[Any]]) -> trace.Span:
        queue = deliveries[0].queue
        contexts = [
            trace.get_current_span(propagate.extract(each.headers, Context())).get_span_context()
            for each in deliveries
        ]
        return self._tracer.start_span(
            f"process {queue}", None, trace.SpanKind.CONSUMER,
            {**_attributes("process", queue), "messaging.batch.message_count": len(deliveries)},
            links=[trace.Link(each) for each in contexts if each.is_valid],
        )  # fmt: skip


async def _awaited(span: trace.Span, result: Any) -> object:
    try:
        with _current(span):
            return await result
    finally:
        span.end()


@contextmanager
def _current(span: trace.Span) -> Iterator[None]:
    """Have *span* be the current one, and note an exception."""
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as error:  # SystemExit, too, is a failed attempt
            span.record_exception(error)
            span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
            span.set_attribute("error.type", type(error).__qualname__)
            raise


def _attributes(operation: str, destination: str) -> dict[str, str | int]:
    """As the semantic conventions of OpenTelemetry for messaging name them."""
    return {
        "messaging.system": "mq",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": destination,
    }
