"""A task that is cancelled at any of its awaits: no message is lost or held, and the broker goes on.

`Cancelled` cancels a task at its nth await: as it begins to wait, or when what it waits for is there, and
it has not run since.  Each operation is done with nothing in its way, where the loop's thread does it at
once, and with the store busy, where a thread of the lane does it.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from companions import until as until_here

import mq
from mq.engine import hot

PATIENCE = 120.0
pytestmark = pytest.mark.usefixtures("no_power_fails")


class Cancelled:
    """Awaits a coroutine, and cancels the task at await number *at*; `struck`: whether there was one."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int, *, late: bool) -> None:
        self._work, self._left, self._late = work, at, late
        self.struck = False

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = lambda: self._work.send(None)  # noqa: E731
        while True:
            try:
                future = step()
            except StopIteration as end:
                return end.value
            self._left -= 1
            if not self._left:
                self._cancel(future)
            try:
                yield future
            except BaseException as error:  # noqa: BLE001  # it is the coroutine's
                step = lambda error=error: self._work.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                step = lambda: self._work.send(None)  # noqa: E731

    def _cancel(self, future: asyncio.Future[Any] | None) -> None:
        task = asyncio.current_task()
        assert task
        self.struck = True
        if self._late and future is not None:
            # Before the task's own callback, which is added when it has the future.
            future.add_done_callback(lambda _: task.cancel())
        else:
            task.cancel()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0)


def at_every_await(
    path: Path, busy: bool, do: Callable[[mq.AsyncBroker], Coroutine[Any, Any, Any]],
    check: Callable[[mq.AsyncBroker, Any], Awaitable[None]], prepare: Callable[[mq.AsyncBroker], Any],
    meanwhile: Callable[[mq.AsyncBroker], Any] | None = None,
) -> int:  # fmt: skip
    """Prepare, do and check until no await is left; how many there were.

    *check* is given what *do* returned; None if it was cancelled.  *meanwhile*: done once the task has begun.
    """
    struck = 0

    async def main() -> None:
        nonlocal struck
        async with mq.aopen(path) as broker:
            if busy:
                broker._broker._store.turn.is_free = lambda: False  # type: ignore[method-assign]
            for late in (False, True):
                at, more = 1, True
                while more:
                    more = await once(broker, at, late)
                    struck += more
                    at += 1

    async def once(broker: mq.AsyncBroker, at: int, late: bool) -> bool:
        broker._lane._stretch = 0  # else it gives way to others now and then
        await prepare(broker)
        strike = Cancelled(do(broker), at, late=late)

        async def work() -> Any:
            return await strike

        task, found = asyncio.create_task(work()), None
        if meanwhile:
            await meanwhile(broker)
        with suppress(asyncio.CancelledError):
            found = await task
        await check(broker, found)
        return strike.struck

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    return struck


async def one_waits(broker: mq.AsyncBroker) -> None:
    await none_waits(broker)
    await broker.queue("q").publish("x")


async def none_waits(broker: mq.AsyncBroker) -> None:
    while (message := await broker.queue("q").receive(timeout=0)) is not None:
        await message.ack()


async def one_comes(broker: mq.AsyncBroker) -> None:
    """Once the task waits, from another thread."""
    for _ in range(3):
        await asyncio.sleep(0)
    await asyncio.to_thread(broker._broker.queue("q").publish, "x")


async def is_not_held(broker: mq.AsyncBroker, found: Any) -> None:
    """What was received is the caller's; all else is ready, and was not tried."""
    q = broker.queue("q")
    for message in found if isinstance(found, list) else [found] if found else []:
        await message.release()
    await until(lambda: _are_ready(q, 1))
    assert [each.attempts for each in await q.peek()] == [0]


async def _are_ready(q: mq.AsyncQueue[Any], count: int) -> bool:
    stats = await q.stats()
    return stats.ready == count and not stats.in_flight


async def first_of(q: mq.AsyncQueue[Any]) -> mq.AsyncDelivery[Any]:
    async for message in q:
        return message
    raise AssertionError("it never ends")


RECEIVES: dict[str, Callable[[mq.AsyncBroker], Coroutine[Any, Any, Any]]] = {
    "receive": lambda broker: broker.queue("q").receive(),
    "receive with a timeout": lambda broker: broker.queue("q").receive(timeout=PATIENCE),
    "receive_many": lambda broker: broker.queue("q").receive_many(5),
    "receive_many that lingers": lambda broker: broker.queue("q").receive_many(5, linger=0.01),
    "of several queues": lambda broker: broker.receive([broker.queue("q"), broker.queue("none")]),
    "async for": lambda broker: first_of(broker.queue("q")),
}


@pytest.mark.parametrize("busy", [False, True], ids=["free", "busy"])
@pytest.mark.parametrize("there", [True, False], ids=["is there", "comes"])
@pytest.mark.parametrize("receive", RECEIVES)
def test_a_receive(tmp_path: Path, busy: bool, there: bool, receive: str) -> None:
    """SEMANTICS 32: it takes nothing."""
    prepare, meanwhile = (one_waits, None) if there else (none_waits, one_comes)
    struck = at_every_await(tmp_path, busy, RECEIVES[receive], is_not_held, prepare, meanwhile)
    assert struck or (there and not busy), "nothing was struck"


@pytest.mark.parametrize("busy", [False, True], ids=["free", "busy"])
def test_an_at_most_once_receive_loses_what_it_took(tmp_path: Path, busy: bool) -> None:
    """It arrives settled: there is nothing to give back, and it comes to no task twice."""

    async def prepare(broker: mq.AsyncBroker) -> None:
        await broker.queue("once", delivery="at_most_once").publish("x")

    async def check(broker: mq.AsyncBroker, found: Any) -> None:
        assert (await broker.queue("once").stats()).in_flight == 0
        left = await broker.queue("once").receive(timeout=0)
        assert not (found and left)

    assert at_every_await(tmp_path, busy, lambda broker: broker.queue("once").receive(), check, prepare)


def test_an_at_most_once_receive_that_found_nothing_loses_nothing(tmp_path: Path) -> None:
    """Neither cancelled as it sleeps, nor once its timeout is over."""

    async def main() -> None:
        async with mq.aopen(tmp_path) as broker:
            once = broker.queue("once", delivery="at_most_once")
            for _ in range(5):
                task = asyncio.create_task(once.receive())
                await until(partial(_sleeps, task))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await once.receive(timeout=0.001) is None
            await once.publish_many(range(100))
            bodies: list[object] = []
            while (message := await once.receive(timeout=0)) is not None:
                bodies.append(message.body)
            assert bodies == list(range(100))

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


async def _sleeps(task: asyncio.Task[Any]) -> bool:
    """Whether it waits for its bell: a thread that takes a message has nothing to do with it."""
    coroutine: Any = task.get_coro()
    while getattr(coroutine, "cr_await", None) is not None:
        if coroutine.cr_code.co_name == "_sleep":
            return True
        coroutine = coroutine.cr_await
    return False


@pytest.mark.parametrize("busy", [False, True], ids=["free", "busy"])
@pytest.mark.parametrize("many", [False, True])
def test_a_publish(tmp_path: Path, busy: bool, many: bool) -> None:
    """SEMANTICS 32: its outcome is open; the messages are there once, or not at all."""

    async def prepare(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        await q.ack_many(await q.receive_many(9, timeout=0))

    def publish(broker: mq.AsyncBroker) -> Any:
        q = broker.queue("q")
        return q.publish_many(["a", "b"]) if many else q.publish("a")

    async def check(broker: mq.AsyncBroker, found: Any) -> None:
        wanted = ["a", "b"] if many else ["a"]
        await asyncio.gather(*[broker.queue("other").publish("later") for _ in range(3)])
        bodies = [each.body for each in await broker.queue("q").peek()]
        assert bodies == wanted or (bodies == [] and found is None)

    assert at_every_await(tmp_path, busy, publish, check, prepare)


@pytest.mark.parametrize("busy", [False, True], ids=["free", "busy"])
def test_a_publish_that_is_made_again_with_the_same_dedup_id_is_there_once(
    tmp_path: Path, busy: bool
) -> None:
    """SEMANTICS 17: a cancelled publish leaves the outcome open."""
    rounds = 0

    def publish(broker: mq.AsyncBroker) -> Any:
        return broker.queue("q").publish("a", dedup_id=str(rounds))

    async def prepare(broker: mq.AsyncBroker) -> None:
        nonlocal rounds
        rounds += 1
        await none_waits(broker)

    async def check(broker: mq.AsyncBroker, found: Any) -> None:
        again = await publish(broker)
        assert found in (None, again)
        await asyncio.gather(*[broker.queue("other").publish("later") for _ in range(3)])
        assert [each.id for each in await broker.queue("q").peek()] == [again]

    assert at_every_await(tmp_path, busy, publish, check, prepare)


@pytest.mark.parametrize("how", ["ack", "nack", "release", "ack_many", "block"])
def test_what_settles_is_done_in_any_case(tmp_path: Path, how: str) -> None:
    """Only a busy store has it wait at all."""
    held: list[mq.AsyncDelivery[Any]] = []

    async def prepare(broker: mq.AsyncBroker) -> None:
        await one_waits(broker)
        held[:] = [await broker.queue("q").receive()]

    async def settle(broker: mq.AsyncBroker) -> None:
        if how == "ack_many":
            await broker.queue("q").ack_many(held)
        elif how == "block":
            async with held[0]:
                pass
        else:
            await getattr(held[0], how)()

    async def check(broker: mq.AsyncBroker, found: Any) -> None:
        await until(is_settled(broker.queue("q")))
        with pytest.raises(mq.StaleReceipt):
            await broker.queue("q").ack_many([held[0].receipt])

    def is_settled(q: mq.AsyncQueue[Any]) -> Callable[[], Awaitable[bool]]:
        async def ask() -> bool:
            return not (await q.stats()).in_flight

        return ask

    assert at_every_await(tmp_path, True, settle, check, prepare)


@pytest.mark.parametrize("busy", [False, True], ids=["free", "busy"])
def test_a_block_that_is_cancelled_releases(tmp_path: Path, busy: bool) -> None:
    """SEMANTICS 1: also if it is cancelled once more, while it releases."""

    async def work(broker: mq.AsyncBroker) -> None:
        async with await broker.queue("q").receive():
            await asyncio.sleep(0)
            raise asyncio.CancelledError

    assert at_every_await(tmp_path, busy, work, is_not_held, one_waits)


@pytest.mark.parametrize("busy", [False, True], ids=["free", "busy"])
def test_a_transaction_is_all_or_nothing(tmp_path: Path, busy: bool) -> None:
    held: list[mq.AsyncDelivery[Any]] = []

    async def prepare(broker: mq.AsyncBroker) -> None:
        await one_waits(broker)
        out = broker.queue("out")
        await out.ack_many(await out.receive_many(9, timeout=0))
        held[:] = [await broker.queue("q").receive()]

    async def work(broker: mq.AsyncBroker) -> bool:
        async with broker.transaction() as tx:
            tx.ack(held[0])
            tx.publish("out", "y")
            await asyncio.sleep(0)
        return True

    async def check(broker: mq.AsyncBroker, found: Any) -> None:
        await broker.flush()
        q = broker.queue("q")
        with suppress(mq.StaleReceipt):
            await held[0].release()
        await until(lambda: is_decided(broker))
        if found:
            assert not (await q.stats()).ready

    async def is_decided(broker: mq.AsyncBroker) -> bool:
        published, waits = (await broker.queue("out").stats()).ready, (await broker.queue("q").stats()).ready
        return published + waits == 1

    assert at_every_await(tmp_path, busy, work, check, prepare)


@pytest.mark.parametrize("late", [False, True])
def test_an_opening_and_a_closing_leave_no_store_open(tmp_path: Path, late: bool) -> None:
    async def main(at: int) -> bool:
        async def work() -> None:
            async with mq.aopen(tmp_path, exclusive=True) as broker:
                await broker.queue("q").publish("x")

        strike = Cancelled(work(), at, late=late)

        async def strike_it() -> None:
            await strike

        with suppress(asyncio.CancelledError):
            await asyncio.create_task(strike_it())
        return strike.struck

    at = 1
    while asyncio.run(main(at)):
        until_here(can_be_opened(tmp_path))
        at += 1
    assert at > 3


def can_be_opened(path: Path) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            mq.open(path, exclusive=True).close()
        except mq.StoreLocked:
            return False
        return True

    return ask


def test_closing_wakes_every_task_that_waits(tmp_path: Path) -> None:
    """SEMANTICS 5."""

    async def main() -> None:
        broker = await mq.aopen(tmp_path)
        q = broker.queue("q")
        waits = [
            asyncio.create_task(work)
            for work in (q.receive(), q.receive_many(3, linger=1), broker.receive([q, broker.queue("r")]))
        ]
        await q.join()
        await broker.close()
        for each in waits:
            with pytest.raises(mq.Closed):
                await each

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


# ── how programs cancel ────────────────────────────────────────────────────────────


def test_a_timeout_around_a_receive(tmp_path: Path) -> None:
    async def main() -> None:
        async with mq.aopen(tmp_path) as broker:
            q = broker.queue("q")
            for how in (asyncio.timeout, lambda seconds: asyncio.timeout_at(0)):
                with pytest.raises(TimeoutError):
                    async with how(0.01):
                        await q.receive()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(q.receive(), 0.01)
            await q.publish("x")
            assert [each.attempts for each in await q.peek()] == [0]

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_an_error_in_a_task_group_releases_what_the_others_work_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with mq.aopen(tmp_path) as broker:
            q = broker.queue("q")
            await q.publish_many([1, 2, 3])
            begun = asyncio.Semaphore(0)

            async def work() -> None:
                async with await q.receive():
                    begun.release()
                    await asyncio.Event().wait()

            async def fail() -> None:
                for _ in range(3):
                    await begun.acquire()
                raise KeyError("why")

            with pytest.raises(ExceptionGroup) as raised:
                async with asyncio.TaskGroup() as group:
                    for do in (work, work, work, q.receive, fail):
                        group.create_task(do())
            assert [type(each) for each in raised.value.exceptions] == [KeyError]
            assert [(each.body, each.attempts) for each in await q.peek()] == [(1, 0), (2, 0), (3, 0)]

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_loop_that_is_closed_with_tasks_that_wait_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One task sleeps; for another one a thread is just taking a message, and has taken one for a third."""
    loop = asyncio.new_event_loop()
    broker = loop.run_until_complete(_open(tmp_path))
    q, slow = broker.queue("q"), broker.queue("slow")
    names, go, taken = ("q", "slow"), threading.Event(), threading.Semaphore(0)

    receive = hot.receive

    def received(queue: Any, *given: Any) -> Any:
        found = receive(queue, *given)
        if found:
            taken.release()
            assert queue.name == "q" or go.wait(PATIENCE)
        return found

    monkeypatch.setattr(hot, "receive", received)

    async def prepare() -> None:
        await q.publish("x")
        await slow.publish("x")

    loop.run_until_complete(prepare())
    tasks = [loop.create_task(broker.queue("empty").receive())]
    loop.run_until_complete(asyncio.sleep(0))
    broker._broker._store.turn.is_free = lambda: False  # type: ignore[method-assign]
    tasks += [loop.create_task(each.receive()) for each in (q, slow)]
    loop.run_until_complete(asyncio.sleep(0))
    assert all(taken.acquire(timeout=PATIENCE) for _ in range(2))
    loop.close()
    go.set()
    for each in tasks:
        each._log_destroy_pending = False  # type: ignore[attr-defined]
    del each, tasks[1]  # of the others the program keeps hold
    with mq.open(tmp_path) as other:
        until_here(lambda: (gc.collect(), [other.queue(name).stats().ready for name in names])[1] == [1, 1])
        assert [other.queue(name).peek()[0].attempts for name in names] == [0, 0]
    asyncio.run(broker.close())


async def _open(path: Path) -> mq.AsyncBroker:
    return await mq.aopen(path)


def test_two_loops_in_two_threads_share_a_store(tmp_path: Path) -> None:
    """Each with a broker of its own; what one publishes wakes a task of the other."""
    seen: list[int] = []

    async def ping(mine: str, theirs: str, first: bool) -> None:
        async with mq.aopen(tmp_path) as broker:
            if first:
                await broker.queue(theirs).publish(0)
            while True:
                async with await broker.queue(mine).receive() as message:
                    if message.body < 50:
                        seen.append(message.body)
                    await broker.queue(theirs).publish(message.body + 1)
                if message.body >= 50:
                    return

    def live(*given: Any) -> None:
        asyncio.run(asyncio.wait_for(ping(*given), PATIENCE))

    threads = [threading.Thread(target=live, args=each) for each in (("a", "b", True), ("b", "a", False))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert seen == list(range(50))
