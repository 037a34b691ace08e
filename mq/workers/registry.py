"""The handlers of one broker: which function is called with what comes into which queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final

from mq.errors import MqError, UsageError

from .asked import Keeper, Source, Strategy, Wrap
from .counts import Counts
from .feed import Feed
from .handler import Handler, Wanted
from .mailbox import Mailbox
from .run import Run
from .signals import Signals


class Registry:
    def __init__(self) -> None:
        self.wraps: Final[list[Wrap]] = []
        self._handlers: dict[str, list[Handler]] = {}  # by the name of their queue
        self._strategies: dict[str, Strategy] = {}
        self._own: list[tuple[Callable[[], object], Callable[[], object]]] = []
        self._running = threading.Lock()
        self._last: Run | None = None  # it runs, or was the last

    def add(
        self, function: Callable[..., object], wanted: Wanted, source: Source, *, concurrency: int,
        batch: int | None, linger: float, prefetch: int | None, strategy: Strategy, extend: bool,
    ) -> None:  # fmt: skip
        """Have *function* called with what comes into *source*."""
        if self._strategies.setdefault(source.name, strategy) != strategy:
            raise UsageError(
                f"the handlers of queue {source.name!r} share what is taken by one strategy:"
                f" {self._strategies[source.name]!r} was chosen before, and now {strategy!r}"
            )
        handler = Handler(
            function, wanted, source, concurrency=concurrency, batch=batch, linger=linger, prefetch=prefetch,
            extend=extend,
        )  # fmt: skip
        self._handlers.setdefault(source.name, []).append(handler)

    def queues(self) -> list[str]:
        """The names of the queues that have a handler."""
        return sorted(self._handlers)

    def counts(self) -> Counts:
        """Of the run, or of the last one.  For any thread."""
        return self._last.counts() if self._last else Counts()

    def own(self, make: Callable[[], object], delete: Callable[[], object]) -> None:
        """There is a queue that is this process's own: made before each run, and deleted behind it."""
        self._own.append((make, delete))

    def run(
        self, broker: Keeper, grace: float, *, until_empty: bool, only: Collection[str] | None,
        threads: int | None, loop: Any, events: Mailbox[Any] | None,
    ) -> None:  # fmt: skip
        """Call the handlers until a signal comes or the broker is closed.

        *only*: of these queues.  *threads*: so many calls at once, at most; each handler keeps one.  *loop*:
        the event loop for `async def`; None: one in a thread of its own.  *events*: where signals are told to
        the run, by a loop that hears them; the numbers of signals.
        """
        if not self._handlers:
            raise UsageError("there is no handler to run: add one with @broker.consumer(queue)")
        events = events or Mailbox()
        with Signals(events):  # first: from here on no signal interrupts what is to be put right again
            if not self._running.acquire(blocking=False):
                raise UsageError("the broker's handlers are running already")
            try:
                self._run(broker, grace, until_empty, only, threads, loop, events)
            finally:
                self._running.release()

    def _run(
        self, broker: Keeper, grace: float, until_empty: bool, only: Collection[str] | None,
        threads: int | None, loop: Any, events: Mailbox[Any],
    ) -> None:  # fmt: skip
        chosen = {name: each for name, each in self._handlers.items() if only is None or name in only}
        if threads is not None:
            _cap([handler for each in chosen.values() for handler in each], threads)
        try:
            for make, _ in self._own:
                make()
            feeds = [Feed(each, self._strategies[name], broker.keep) for name, each in chosen.items()]
            self._last = Run(broker, feeds, self.wraps, loop, events)
            self._last.go(grace, until_empty=until_empty)
        finally:
            for _, delete in self._own:
                with suppress(MqError):  # closed: it goes by itself
                    delete()


def _cap(handlers: list[Handler], threads: int) -> None:
    """Take slots from the handlers that have most, until there are *threads* at most; each keeps one."""
    while sum(each.concurrency for each in handlers) > max(threads, len(handlers)):
        largest: Any = max(handlers, key=lambda each: each.concurrency)
        largest.concurrency -= 1
