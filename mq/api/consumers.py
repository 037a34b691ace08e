"""Consumers: what `broker.consumer`, `subscriber`, `middleware` and `run` do, for threads and for tasks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar

from mq import exact
from mq.api.options import check_count, check_seconds
from mq.api.queue import Queue
from mq.errors import UsageError
from mq.workers.asked import Keeper
from mq.workers.handler import Wrap, wanted_by
from mq.workers.registry import Registry
from mq.workers.run import Run
from mq.workers.strategy import STRATEGIES, Strategy

H = TypeVar("H", bound=Callable[..., object])

ABANDONED_SECONDS: Final = 600.0  # a subscriber's own queue goes so long after its process


class Consumers:
    def __init__(
        self, delivery_type: type, source: Callable[[Any, Any], Queue[Any]], declare: Callable[..., Any]
    ) -> None:  # fmt: skip
        """*delivery_type*: what handlers may ask for.  *source*: the queue of that name and type.

        *declare*: makes a queue, with options.
        """
        self.registry: Final = Registry()
        self._delivery_type, self._source, self._declare = delivery_type, source, declare

    def consumer(
        self, queue: Any, *, concurrency: int = 1, batch: int | None = None, linger: float = 0.0,
        prefetch: int | None = None, strategy: Strategy = "round_robin", extend: bool = True,
    ) -> Callable[[H], H]:  # fmt: skip
        concurrency = check_count("concurrency", concurrency, 1)
        batch = None if batch is None else check_count("batch", batch, 1)
        prefetch = None if prefetch is None else check_count("prefetch", prefetch, 1)
        linger = float(check_seconds("linger", linger))
        strategy = exact.one_of("strategy", strategy, tuple(STRATEGIES))  # type: ignore[assignment]
        if linger and batch is None:
            raise UsageError("linger waits for a fuller batch: say how many with batch=")

        def register(function: H) -> H:
            wanted = wanted_by(function, batch, self._delivery_type)
            source = self._source(queue, wanted.body_type)
            self.registry.add(
                function, wanted, source, concurrency=concurrency, batch=batch, linger=linger,
                prefetch=prefetch, strategy=strategy, extend=bool(extend),
            )  # fmt: skip
            return function

        return register

    def subscriber(self, pattern: str, group: str | None) -> Callable[[H], H]:
        name = group
        if name is None:
            name = f"subscriber-{uuid.uuid4().hex}"
            self._declare(name, delete_when_abandoned=ABANDONED_SECONDS)
        source = self._source(name, None)
        source.subscribe(pattern)
        if group is None:

            def subscribe() -> None:
                self._declare(name, delete_when_abandoned=ABANDONED_SECONDS)
                source.subscribe(pattern)

            self.registry.own(subscribe, source.delete)
        return self.consumer(name)

    def middleware(self, wrap: Wrap) -> None:
        if not callable(wrap):
            raise UsageError(f"a middleware is a function, not {exact.kind(wrap)}")
        self.registry.wraps.append(wrap)

    def run(
        self, broker: Keeper, grace: float, *, until_empty: bool, only: Collection[str] | None = None,
        threads: int | None = None, loop: Any = None, begun: Callable[[Run], object] = id,
    ) -> None:  # fmt: skip
        """*only*: of these queues.  *threads*: so many calls at once.  *loop*: where `async def` runs."""
        grace = float(check_seconds("grace", grace))
        self.registry.run(
            broker, grace, until_empty=bool(until_empty), only=only, threads=threads, loop=loop, begun=begun
        )
