"""Slots: each calls a handler with one message, or one batch, at a time.

    ThreadSlot    a thread of its own, for `def`
    TaskSlot      a task of the event loop that all of them share, for `async def`: task.py

`begin` returns at once.  When the call is over, the slot puts itself into `done`.
"""

from __future__ import annotations

import inspect
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

from mq.errors import BadBody

from .asked import Held, Wrap
from .handler import Handler
from .outcome import AGAIN_SECONDS, give_back, settle

Call = list[Held]
"""What one call of a handler is about: one delivery, or a batch."""


class Slot(ABC):
    """Its call and its backlog are the run's alone to look at and to change."""

    def __init__(self, handler: Handler, wraps: Sequence[Wrap], done: Callable[[Slot], None]) -> None:
        self.handler: Final = handler
        self.call: Call | None = None  # in work
        self.backlog: Final[deque[Call]] = deque()  # taken, and not begun
        self.failed = 0  # messages of the call that was the last to end
        self.gone: Call | None = None  # the call that this is about was given up: it is not to be settled
        self.takes = False  # the next message with the ack of this one; the run says so
        self._taken: Final[deque[Held]] = deque()  # so, and not known to the run yet
        self._unfit: Final[dict[int, BadBody]] = {}  # in the call in work, by id
        self._wraps, self._done = wraps, done

    @property
    def load(self) -> int:
        """How many calls it has, begun or not."""
        return len(self.backlog) + (self.call is not None)

    @property
    def held(self) -> int:
        """How many messages it has.  For any thread."""
        return sum(map(len, [self.call or (), *self.backlog.copy()]))

    @property
    def has_room(self) -> bool:
        return self.load < self.handler.depth

    def taken_ahead(self) -> list[Held]:
        """What was taken with an ack: the caller's now."""
        found = []
        with suppress(IndexError):
            while True:
                found.append(self._taken.popleft())
        return found

    def _call(self, call: Call) -> object:
        """Call the handler."""
        return self.handler.call(call, self._wraps, self._unfit)

    def _outcomes(self, call: Call, error: BaseException | None) -> list[tuple[Call, BaseException | None]]:
        """What is to be settled, and what it failed with; *error*: of the handler."""
        rest = [each for each in call if each.id not in self._unfit]
        self.failed = len(self._unfit) + (len(rest) if error else 0)
        alone: list[tuple[Call, BaseException | None]] = [
            ([each], self._unfit[each.id]) for each in call if each.id in self._unfit
        ]
        self._unfit.clear()  # an error keeps what its frames refer to
        return [(rest, error), *alone]

    def _try_to_settle(self, call: Call, error: BaseException | None) -> bool:
        """Whether that was done.  What is taken behind the end of the run is given back."""
        done = settle(self.handler, call, error, self._taken if self.takes else None)
        if self._taken and not self.takes:
            give_back(self.handler.source, self.taken_ahead())
        return done

    def give(self, call: Call) -> None:
        self.backlog.append(call)
        self.go_on()

    def go_on(self) -> None:
        """Begin the next call, if there is one, and none is in work."""
        if self.call is None and self.backlog:
            self.call = self.backlog.popleft()
            self.begin(self.call)

    def give_up(self) -> Call:
        """Have nothing to do with the call in work any more; what it was about."""
        call, self.call = self.call or [], None
        self.gone = call
        return call

    @abstractmethod
    def begin(self, call: Call) -> None: ...
    @abstractmethod
    def end(self) -> None:
        """No call comes any more."""


class ThreadSlot(Slot):
    def __init__(self, handler: Handler, wraps: Sequence[Wrap], done: Callable[[Slot], None]) -> None:
        super().__init__(handler, wraps, done)
        self._inbox: Final[SimpleQueue[Call | None]] = SimpleQueue()
        threading.Thread(target=self._live, name=f"mq {handler.name}", daemon=True).start()

    def begin(self, call: Call) -> None:
        self._inbox.put(call)

    def end(self) -> None:
        self._inbox.put(None)

    def _live(self) -> None:
        while (call := self._inbox.get()) is not None:
            if self.gone is call:  # given up before it began
                continue
            outcomes = self._outcomes(call, self._try(call))
            try:
                for part, error in outcomes:
                    self._settle(call, part, error)
            finally:
                self._done(self)

    def _settle(self, call: Call, part: Call, error: BaseException | None) -> None:
        while self.gone is not call and not self._try_to_settle(part, error):
            time.sleep(AGAIN_SECONDS)

    def _try(self, call: Call) -> BaseException | None:
        try:
            result = self._call(call)
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise TypeError(f"{self.handler.name} returned an awaitable: make it `async def`")
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises, its thread goes on
            return error
        return None
