"""Consumers: what `broker.consumer`, `subscriber`, `middleware` and `run` do, for threads and for tasks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final, TypeVar

from mq import exact
from mq.api.message import Message
from mq.api.options import check_count, check_seconds
from mq.api.queue import Queue
from mq.engine import commands
from mq.engine.names import check_pattern
from mq.errors import UsageError
from mq.workers.asked import Keeper, Strategy, Wrap
from mq.workers.handler import wanted_by
from mq.workers.mailbox import Mailbox
from mq.workers.registry import Registry
from mq.workers.strategy import STRATEGIES

H = TypeVar("H", bound=Callable[..., object])

ABANDONED_SECONDS: Final = 600.0  # a subscriber's own queue goes so long after its process


def _at_once(do: Callable[[], object]) -> None:
    do()


class Consumers:
    """Refers to no broker: one that a program forgets is to go at once, and its store with it."""

    def __init__(self, delivery_type: type) -> None:
        """*delivery_type*: what handlers may ask for in place of the body."""
        self.registry: Final = Registry()
        self._delivery_type = delivery_type

    def consumer(
        self, source: Callable[[Any], Queue[Any]], *, concurrency: int = 1, batch: int | None = None,
        linger: float = 0.0, prefetch: int | None = None, strategy: Strategy = "round_robin",
        extend: bool = True,
    ) -> Callable[[H], H]:  # fmt: skip
        """*source*: the queue, with bodies of that type."""
        concurrency = check_count("concurrency", concurrency, 1)
        batch = None if batch is None else check_count("batch", batch, 1)
        prefetch = None if prefetch is None else check_count("prefetch", prefetch, 1)
        linger = float(check_seconds("linger", linger))
        strategy = exact.one_of("strategy", strategy, tuple(STRATEGIES))  # type: ignore[assignment]
        if linger and batch is None:
            raise UsageError("linger waits for a fuller batch: say how many with batch=")

        def register(function: H) -> H:
            wanted = wanted_by(function, batch, self._delivery_type, Message)
            self.registry.add(
                function, wanted, source(wanted.body_type), concurrency=concurrency, batch=batch,
                linger=linger, prefetch=prefetch, strategy=strategy, extend=bool(extend),
            )  # fmt: skip
            return function

        return register

    def subscriber(
        self, source: Callable[[str, Any], Queue[Any]], pattern: str, group: str | None,
        do: Callable[[Callable[[], object]], object] = _at_once,
    ) -> Callable[[H], H]:  # fmt: skip
        """*source*: the queue of that name, with bodies of that type.  *do*: calls what subscribes it."""
        pattern = check_pattern(pattern)
        name = f"subscriber-{uuid.uuid4().hex}" if group is None else group
        queue = source(name, None)
        if group is None:
            subscribe = partial(_subscribe, queue, pattern)
            do(subscribe)
            self.registry.own(subscribe, queue.delete)
        else:
            do(partial(queue.subscribe, pattern))
        return self.consumer(partial(source, name))

    def middleware(self, wrap: Wrap) -> None:
        if not callable(wrap):
            raise UsageError(f"a middleware is a function, not {exact.kind(wrap)}")
        self.registry.wraps.append(wrap)

    def run(
        self, broker: Keeper, grace: float, *, until_empty: bool, only: Collection[str] | None = None,
        threads: int | None = None, loop: Any = None, events: Mailbox[Any] | None = None,
    ) -> None:  # fmt: skip
        """*only*: of these queues.  *threads*: so many calls at once.  *loop*: where `async def` runs.

        *events*: where that loop tells of signals.
        """
        grace = float(check_seconds("grace", grace))
        self.registry.run(
            broker, grace, until_empty=bool(until_empty), only=only, threads=threads, loop=loop, events=events
        )


def _subscribe(queue: Queue[Any], pattern: str) -> None:
    """Make a queue that goes when its process is gone, and have it get what fits *pattern*."""
    commands.declare(queue._store, queue._channel, {"delete_when_abandoned": ABANDONED_SECONDS})
    queue.subscribe(pattern)
