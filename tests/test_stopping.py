"""A signal at every moment of a worker's run: nothing is held afterwards, and nothing is counted or lost.

The signal is raised wherever CPython may notice one in `mq/workers` and `mq/api`, in the thread that runs:
where a function begins, where a call returns, where a loop jumps back.  Before the run hears signals, and
behind it, they are the program's, which raises an exception: there, too, nothing may be left behind.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest
from bytecodes import HERE, at_each_bytecode, by_code
from test_interruptions import between_calls

import mq
from mq.cli import parent
from mq.workers.counts import Counts
from mq.workers.mailbox import Mailbox

PATIENCE = 120.0
ROOMS = tuple(os.path.join(HERE, room) for room in ("workers", "api", "cli"))


class Struck(BaseException):
    """What the program's own handler of the signal raises."""


@by_code
def moments(code: Any) -> frozenset[int]:
    if code.co_filename.startswith(ROOMS) and code.co_name != "__del__":  # CPython drops what is raised there
        return between_calls(code)
    return frozenset()


@contextmanager
def signals_at(number: int, at: int, again: int) -> Iterator[list[int]]:
    """The signal comes at moment number *at*, and once more *again* moments later; those that came."""
    left, came = at, []

    def look(frame: FrameType, _before: str) -> None:
        nonlocal left
        if frame.f_lasti in moments(frame.f_code):
            left -= 1
            if left in (0, -again):
                came.append(left)
                signal.raise_signal(number)

    def handle(number: int, _frame: FrameType | None) -> None:
        raise Struck

    before = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        with suppress(Struck), at_each_bytecode(look):
            yield came
        assert [signal.getsignal(each) for each in before] == [handle, handle]
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class Scene:
    """A queue of four messages, and a handler, which waits on and on for those in `stuck`."""

    def __init__(self, kind: str) -> None:
        self.broker = mq.open(":memory:")
        self.queue = self.broker.queue("q", visibility_timeout=3600)
        self.calls: Counter[int] = Counter()  # of each message
        self.stuck: set[int] = set()
        self.go = threading.Event()
        options: Any = {"concurrency": 2, "prefetch": 4}
        if kind == "async def":
            self.broker.consumer(self.queue, **options)(self.handle_in_task)
        elif kind == "batch":
            self.broker.consumer(self.queue, batch=2, linger=0.001)(self.handle_batch)
        else:
            self.broker.consumer(self.queue, **options)(self.handle)

    def fill(self) -> list[int]:
        self.calls.clear()
        self.go = threading.Event()
        return self.queue.publish_many(["a", "b", "c", "d"])

    def handle(self, delivery: mq.Delivery[str]) -> None:
        self.calls[delivery.id] += 1
        if delivery.body in self.stuck:
            assert self.go.wait(PATIENCE)

    def handle_batch(self, deliveries: list[mq.Delivery[str]]) -> None:
        for each in deliveries:
            self.handle(each)

    async def handle_in_task(self, delivery: mq.Delivery[str]) -> None:
        self.calls[delivery.id] += 1
        while delivery.body in self.stuck and not self.go.is_set():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("kind", "stuck", "again", "stride"),
    [
        ("def", "", 0, 4),
        ("async def", "", 0, 4),
        ("batch", "", 0, 4),
        ("def", "b", 0, 5),
        ("async def", "b", 0, 5),
        ("def", "b", 5, 5),
    ],
)
def test_a_signal_at_every_moment_of_a_run(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: str, stuck: str, again: int, stride: int
) -> None:
    """What was called is acked, unless it was given up; all else waits as if it had not been taken."""
    scene = Scene(kind)
    scene.stuck = set(stuck)
    take = Mailbox.take

    def take_or_end(mailbox: Mailbox[Any], seconds: float) -> list[Any]:
        """The last moment: it would wait for ever, or for the end of `grace`."""
        if scene.stuck and seconds > 1 and not mailbox._letters:
            signal.raise_signal(number)
        return take(mailbox, seconds)

    monkeypatch.setattr(Mailbox, "take", take_or_end)
    queue = scene.queue
    for at in itertools.count(1 + number % stride, stride):
        ids, run = scene.fill(), {"grace": 3600.0 if again else 0.0 if stuck else PATIENCE}
        with signals_at(number, at, again) as came:
            scene.broker.run(until_empty=not stuck, **run)
        assert queue.stats().in_flight == 0, at
        waiting = {each.id: each.attempts for each in queue.peek()}
        assert set(waiting.values()) <= {0}, at
        given_up = {each for each in ids if scene.calls[each] and each in waiting}
        assert not given_up or stuck
        assert {each for each in ids if scene.calls[each]} | set(waiting) == set(ids), at
        assert set(scene.calls.values()) <= {1}, at
        scene.go.set()
        # The broker goes on.
        scene.stuck, calls = set(), scene.calls.copy()
        scene.broker.run(until_empty=True)
        assert queue.stats()[:3] == (0, 0, 0), at
        # A call that was given up as it began may be counted behind the first run.
        assert Counter(list(waiting)) <= scene.calls - calls, at
        assert stuck or scene.calls == Counter(ids), at
        scene.stuck = set(stuck)
        if not came:
            break
    scene.broker.close()
    assert at > 100, "nothing was struck"


class FakeChild:
    """A process of `mq worker`: ready at once, and ended by a signal."""

    begun, pid = 0.0, 1

    def __init__(self, given: list[str], told: Mailbox[Any]) -> None:
        self.counts = Counts()
        self.process, self._told, self.signals = self, told, 0
        told.put(parent.Told(self, Counts()))  # type: ignore[arg-type]

    def send_signal(self, number: int) -> None:
        self.signals += 1
        if self.signals == 1:
            self._told.put(parent.Told(self, code=-number))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_every_moment_of_the_parent_of_workers(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It ends once each process that it began was told to end, and has ended."""
    children: list[FakeChild] = []

    def begin(given: list[str], told: Mailbox[Any], *, on_terminal: bool) -> FakeChild:
        children.append(FakeChild(given, told))
        return children[-1]

    take = Mailbox.take

    def take_or_end(mailbox: Mailbox[Any], seconds: float) -> list[Any]:
        if seconds > 1 and not mailbox._letters:
            signal.raise_signal(number)
        return take(mailbox, seconds)

    monkeypatch.setattr(Mailbox, "take", take_or_end)
    monkeypatch.setattr(parent, "Child", begin)
    for at in itertools.count(1):
        children.clear()
        with signals_at(number, at, 0) as came:
            assert parent.Parent([], 3).run() == 0
        assert all(each.signals for each in children), at
        if not came:
            break
    assert len(children) == 3
    assert at > 30, "nothing was struck"
