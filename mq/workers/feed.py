"""Feed: what is taken from one queue, for all slots of all handlers on it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from .asked import Held, Source, Strategy
from .handler import Handler
from .outcome import give_back, is_kept
from .slot import Slot
from .strategy import STRATEGIES


class Feed:
    def __init__(self, handlers: list[Handler], strategy: Strategy, keep: Callable[[Held], None]) -> None:
        self.handlers: Final = handlers
        self.source: Final[Source] = handlers[0].source
        self.slots: Final[list[Slot]] = []
        self._pick, self._keep = STRATEGIES[strategy], keep
        self._last = -1  # the slot that was given the last message

    @property
    def takes_ahead(self) -> bool:
        """Whether a slot takes its next message with the ack of this one: nothing else is to be weighed."""
        (first, *others) = self.handlers
        return not others and first.batch is None and first.depth == 1 and self.source._takes_ahead()

    @property
    def is_hungry(self) -> bool:
        return any(slot.has_room for slot in self.slots)

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was taken is still here."""
        return not any(slot.load for slot in self.slots) and not any(each.waiting for each in self.handlers)

    def take(self) -> bool:
        """Take what the slots have room for, and give it to them; whether there was anything."""
        found = False
        while (at := self._pick(self.slots, self._last)) is not None:
            handler = self.slots[at].handler
            if handler.batch is not None:
                if not self._fill(handler):
                    break
                self._give(at, handler.waiting)
                handler.waiting = []
            else:
                # One after the other, if several handlers are to have their turns.
                room = sum(slot.handler.depth - slot.load for slot in self.slots)
                taken = self._take(handler, room if len(self.handlers) == 1 else 1)
                if not taken:
                    break
                for each in taken:
                    self._give(at, [each])
                    at = self._pick(self.slots, self._last)
                    at = -1 if at is None else at  # all are given: there was room for as many
            found = True
        return found

    def _take(self, handler: Handler, limit: int) -> list[Held]:
        taken: list[Held] = handler.source.receive_many(limit, 0)
        try:
            if handler.extend:
                for each in taken:
                    self._keep(each)
        except BaseException:
            give_back(handler.source, taken)
            raise
        return taken

    def _fill(self, handler: Handler) -> bool:
        """Take more for a batch; whether it is full, or has waited for long enough."""
        assert handler.batch is not None
        waiting, now = handler.waiting, time.monotonic()
        taken = self._take(handler, handler.batch - len(waiting)) if len(waiting) < handler.batch else []
        if taken and not waiting:
            handler.full_at = now + handler.linger
        waiting += taken
        return len(waiting) == handler.batch or bool(waiting and now >= handler.full_at)

    def take_in(self, slot: Slot) -> None:
        """What *slot* took with an ack is next there."""
        for each in slot.taken_ahead():
            if not slot.handler.extend or is_kept(self.source, each, self._keep):
                slot.backlog.append([each])

    def _give(self, at: int, held: list[Held]) -> None:
        self._last = at
        self.slots[at].give(held)

    def seconds_to_next_batch(self) -> float:
        """How long until a batch goes though it is not full."""
        times = [each.full_at for each in self.handlers if each.waiting]
        return max(0.0, min(times) - time.monotonic()) if times else math.inf

    def is_empty(self) -> bool:
        """Whether the queue holds nothing that will ever come here."""
        counts = self.source.stats()
        return counts.paused or not (counts.ready or counts.in_flight or counts.delayed)

    def give_back(self) -> None:
        """What was taken and is not in work."""
        for slot in self.slots:
            for call in slot.backlog:
                give_back(slot.handler.source, call)
            slot.backlog.clear()
        for handler in self.handlers:
            give_back(handler.source, handler.waiting)
            handler.waiting = []
