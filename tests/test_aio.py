"""The asyncio face: the same names, awaited; no thread for each task, no message lost by a cancellation."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from companions import until as until_here
from fakes import open_on
from test_damaged_bodies import damage

import mq
from mq.aio.lane import THREADS
from mq.engine import looking
from mq.engine.at_once import at_once
from mq.engine.channel import Channel
from mq.storage.real_disk import RealDisk

T = TypeVar("T")
PATIENCE = 120.0


def run(
    main: Callable[[mq.AsyncBroker], Coroutine[Any, Any, T]], path: str | Path = ":memory:", **options: Any
) -> T:
    """What *main* returns, given an open broker."""

    async def opened() -> T:
        async with mq.aopen(path, **options) as broker:
            return await main(broker)

    return asyncio.run(asyncio.wait_for(opened(), PATIENCE))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0)


class Order(msgspec.Struct):
    id: int


# ── the same names ─────────────────────────────────────────────────────────────────

NOT_AWAITED = {"queue", "topic", "consumer", "subscriber", "middleware", "keep", "transaction", "history"}
ABSENT = {"watch"}  # it is what this face stands on


@pytest.mark.parametrize(
    ("sync", "face"),
    [
        (mq.Broker, mq.AsyncBroker),
        (mq.Queue, mq.AsyncQueue),
        (mq.Delivery, mq.AsyncDelivery),
        (mq.Topic, mq.AsyncTopic),
        (mq.Transaction, mq.AsyncTransaction),
    ],
)
def test_every_name_is_there_with_the_same_arguments(sync: type, face: type) -> None:
    names = {name for name in dir(sync) if not name.startswith("_")} - ABSENT
    assert names <= {name for name in dir(face) if not name.startswith("_")}
    for name in names:
        one, other = inspect.getattr_static(sync, name), inspect.getattr_static(face, name)
        if not inspect.isfunction(one) or one is other:
            continue
        assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters), name
        buffers = sync is mq.Transaction
        awaited = inspect.iscoroutinefunction(other) or inspect.isasyncgenfunction(other)
        assert awaited != (name in NOT_AWAITED or buffers), name


def test_publish_receive_ack(tmp_path: Path) -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        orders = broker.queue("orders", type=Order)
        id = await orders.publish(Order(1), priority=3)
        delivery = await orders.receive()
        assert (delivery.id, delivery.body, delivery.priority) == (id, Order(1), 3)
        assert isinstance(delivery, mq.AsyncDelivery)
        await delivery.ack()
        with pytest.raises(mq.StaleReceipt):
            await delivery.ack()
        assert await orders.receive(timeout=0) is None
        assert (await orders.stats()).acked == 1
        assert await broker.queues() == ["orders"]

    run(main, tmp_path)


def test_a_block_acks_nacks_or_releases() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q", max_attempts=1)
        await q.publish_many(["ack", "nack", "release"])
        async with await q.receive():
            pass
        with pytest.raises(ValueError, match="no"):
            async with await q.receive():
                raise ValueError("no")
        with suppress(asyncio.CancelledError):
            async with await q.receive():
                raise asyncio.CancelledError
        (left,) = await q.peek()
        assert (left.body, left.attempts) == ("release", 0)
        (dead,) = await broker.queue("q.dead").peek()
        assert dead.failures[0].reason == "ValueError: no"

    run(main)


def test_many_at_once() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        await q.publish_many(list(range(300)))
        taken = await q.receive_many(300)
        await q.ack_many(taken[:200])
        await q.nack_many(taken[200:210], delay=3600)
        await q.release_many(taken[210:220])
        await q.reject_many(taken[220:230], "never")
        await q.extend_many(taken[230:], 60)
        stats = await q.stats()
        assert (stats.acked, stats.delayed, stats.ready, stats.in_flight) == (200, 10, 10, 70)

    run(main)


def test_a_transaction_commits_at_the_end_of_the_block() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        await q.publish("in")
        message = await q.receive()
        async with broker.transaction() as tx:
            tx.publish(q, "a")
            tx.publish("other", "b")
            tx.ack(message)
            assert (await q.stats()).acked == 0
        assert len(tx.ids) == 2
        assert (await q.stats()).acked == 1
        with pytest.raises(KeyError):
            async with broker.transaction() as tx:
                tx.publish(q, "never")
                raise KeyError
        assert [each.body for each in await q.peek()] == ["a"]

    run(main)


def test_a_block_inside_a_transaction_leaves_its_message_to_it() -> None:
    """An ack at the end of the inner block would lose the message if the transaction fails behind it."""

    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        await q.publish("in")
        with pytest.raises(KeyError):
            async with broker.transaction() as tx:
                async with await q.receive() as message:
                    tx.ack(message)
                raise KeyError
        assert (await q.stats()).acked == 0
        async with broker.transaction() as tx, message:
            tx.ack(message)
        assert (await q.stats()).acked == 1

    run(main)


def test_a_publish_is_told_that_it_is_stored_although_the_broker_was_closed_behind_it(tmp_path: Path) -> None:
    """It had its turn, in a thread; before its task goes on, the broker is closed."""
    is_held, go_on = threading.Event(), threading.Event()

    async def publish() -> int:
        broker = await mq.aopen(tmp_path / "s")
        queue, lane, store = broker.queue("q"), broker._lane, broker._broker._store
        await queue.publish("first")

        def hold() -> None:
            with store.turn.mutex:
                is_held.set()
                assert go_on.wait(PATIENCE)

        holder = threading.Thread(target=hold)
        holder.start()
        assert is_held.wait(PATIENCE)
        task = asyncio.create_task(queue.publish("second"))
        await asyncio.sleep(0)
        assert lane._turns._is_running
        go_on.set()
        holder.join()
        until_here(lambda: not lane._turns._is_running)
        lane._close(broker._broker.close)  # here: a loop that is busy with something else comes back late
        return await task

    id = asyncio.run(publish())
    with mq.open(tmp_path / "s") as broker:
        assert [each.id for each in broker.queue("q").peek() if each.body == "second"] == [id]


def test_iteration_ends_when_the_broker_is_closed() -> None:
    async def main(broker: mq.AsyncBroker) -> list[int]:
        q = broker.queue("q")
        await q.publish_many([1, 2, 3])
        seen = []
        async for message in q:
            async with message:
                seen.append(message.body)
            if len(seen) == 3:
                await broker.close()
        return seen

    assert run(main) == [1, 2, 3]


def test_it_is_not_open_before_it_is_entered() -> None:
    broker = mq.aopen(":memory:")
    with pytest.raises(mq.UsageError, match="async with"):
        broker.queue("q")


def test_errors_are_those_of_the_store(tmp_path: Path) -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q", max_length=1)
        await q.publish(1)
        with pytest.raises(mq.QueueFull):
            await q.publish(2)
        with pytest.raises(mq.UsageError):
            await q.publish(2, priority=1000)

    run(main, tmp_path)


# ── waiting ────────────────────────────────────────────────────────────────────────


def test_a_task_that_waits_is_woken_by_another(tmp_path: Path) -> None:
    async def main(broker: mq.AsyncBroker) -> str:
        q = broker.queue("q")
        waits = asyncio.create_task(q.receive())
        await asyncio.sleep(0)
        await q.publish("hello")
        return str((await waits).body)

    assert run(main, tmp_path) == "hello"


def test_a_task_waits_for_what_is_delayed() -> None:
    async def main(broker: mq.AsyncBroker) -> str:
        q = broker.queue("q")
        await q.publish("later", delay=0.05)
        return str((await q.receive()).body)

    assert run(main) == "later"


def test_a_timeout_returns_none() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        assert await q.receive(timeout=0.01) is None
        assert await q.receive_many(5, timeout=0.01) == []
        assert await broker.receive([q], timeout=0.01) is None

    run(main)


def test_a_publish_waits_for_room_without_a_thread() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q", max_length=1)
        await q.publish(0)
        before = threading.active_count()
        waits = [asyncio.create_task(q.publish(n, timeout=PATIENCE)) for n in range(1, 50)]
        for _ in range(50):
            async with await q.receive():
                pass
        await asyncio.gather(*waits)
        assert threading.active_count() <= before + 18  # those of the lane, however many tasks

    run(main)


def test_thousands_of_tasks_wait_without_threads() -> None:
    before = set(threading.enumerate())  # some may be of other tests

    async def main(broker: mq.AsyncBroker) -> None:
        queues = [broker.queue(f"q{n}") for n in range(100)]
        tasks = [asyncio.create_task(queues[n % 100].receive()) for n in range(2000)]
        await asyncio.sleep(0)
        assert len(set(threading.enumerate()) - before) < 9
        for n in range(2000):
            await queues[n % 100].publish(n)
        found = await asyncio.gather(*tasks)
        assert sorted(each.body for each in found) == list(range(2000))

    run(main)


def test_while_all_wait_no_empty_queue_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the listener, each second: only what may hold a message, and by then has none."""

    async def main(broker: mq.AsyncBroker) -> None:
        queues, store = [broker.queue(f"q{n}") for n in range(20)], broker._broker._store
        for q in queues:
            await q.publish(b"x")
            await (await q.receive()).ack()
        tasks = [asyncio.create_task(q.receive()) for q in queues]
        while len(store.waiters.asleep) < len(tasks):
            await asyncio.sleep(0)
        looked: list[Channel] = []
        monkeypatch.setattr(Channel, "wake_next", lambda channel, now: looked.append(channel))
        store.hear()
        assert not looked
        monkeypatch.undo()
        for q in queues:
            await q.publish(b"y")
        assert len(await asyncio.gather(*tasks)) == 20

    run(main, tmp_path, sync="never")


def test_receive_over_several_queues() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        a, b = broker.queue("a"), broker.queue("b")
        waits = asyncio.create_task(broker.receive([a, b]))
        await asyncio.sleep(0)
        await b.publish("b")
        found = await waits
        assert found
        assert found.queue == "b"
        await found.ack()

    run(main)


def test_linger_waits_for_a_fuller_batch() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        await q.publish(1)
        waits = asyncio.create_task(q.receive_many(2, linger=PATIENCE))
        await asyncio.sleep(0)
        await q.publish(2)
        assert [each.body for each in await waits] == [1, 2]

    run(main)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda broker: broker.path, id="path"),
        pytest.param(lambda broker: broker.queue("q"), id="queue"),
        pytest.param(lambda broker: broker.topic("t"), id="topic"),
        pytest.param(lambda broker: broker.consumer("q")(print), id="consumer"),
        pytest.param(lambda broker: broker.subscriber("t")(print), id="subscriber"),
        pytest.param(lambda broker: broker.middleware(print), id="middleware"),
    ],
)
def test_a_broker_that_is_not_open_yet_says_so(use: Callable[[mq.AsyncBroker], object]) -> None:
    broker = mq.aopen(":memory:")
    with pytest.raises(mq.UsageError, match="not open yet"):
        use(broker)


ONE_THING: dict[str, Any] = {
    "a mapping": {"a": 1}, "text": "ab", "bytes": b"ab", "a bytearray": bytearray(b"ab"),
    "a memoryview": memoryview(b"ab"), "a number": 5, "None": None,
}  # fmt: skip


@pytest.mark.parametrize("one", [pytest.param(each, id=name) for name, each in ONE_THING.items()])
def test_one_thing_is_not_taken_apart_into_several(one: Any) -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        for call in (q.publish_many, q.ack_many, q.release_many):
            with pytest.raises(mq.UsageError, match="is a list or another iterable, not"):
                await call(one)
        assert await q.peek() == []

    run(main)


def test_a_queue_is_not_several_bodies_nor_several_messages() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q: Any = broker.queue("q")
        await q.publish("a")
        for endless in (q, q._queue):
            for call in (q.publish_many, q.ack_many):
                with pytest.raises(mq.UsageError, match="never ends"):
                    await call(endless)
        assert (await q.stats()).ready == 1

    run(main)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What those that linger have found when they looked."""
    found: list[int] = []

    def look(*given: Any) -> int:
        found.append(takable(*given))
        return found[-1]

    takable = looking.takable
    monkeypatch.setattr(looking, "takable", look)
    return found


def test_one_that_lingers_takes_nothing_before_its_time_is_over(looks: list[int]) -> None:
    """No visibility timeout begins, and another receiver may take the message first."""

    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        await q.publish(1)
        waits = asyncio.create_task(q.receive_many(2, linger=PATIENCE))
        while len(looks) < 3:
            await asyncio.sleep(0)
        assert (await q.stats())[:2] == (1, 0)
        other = await q.receive(timeout=0)
        assert other
        assert other.body == 1
        await q.publish_many([2, 3])
        assert [each.body for each in await waits] == [2, 3]

    run(main)


def test_one_that_lingers_takes_what_is_there_when_the_time_is_over() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        await q.publish_many([1, 2])
        assert [each.body for each in await q.receive_many(9, timeout=0, linger=0.001)] == [1, 2]
        assert await q.receive_many(9, timeout=0, linger=PATIENCE) == []

    run(main)


def test_one_that_is_cancelled_while_it_lingers_loses_nothing_of_at_most_once(
    looks: list[int], tmp_path: Path
) -> None:
    """What is settled before the task has it would be gone."""

    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q", delivery="at_most_once")
        await q.publish(1)
        waits = asyncio.create_task(q.receive_many(2, linger=PATIENCE))
        while len(looks) < 3:
            await asyncio.sleep(0)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert [each.body for each in await q.peek()] == [1]

    run(main, tmp_path)


# ── cancelled ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", range(8))
def test_a_cancelled_receive_never_holds_a_message(steps: int, tmp_path: Path) -> None:
    """Cancelled after each number of turns of the loop, beside a publish."""

    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        waits = asyncio.create_task(q.receive())
        if steps % 2:
            await asyncio.sleep(0)
        published = asyncio.create_task(q.publish(1))
        for _ in range(steps):
            await asyncio.sleep(0)
        waits.cancel()
        await published
        try:
            delivery = await waits
        except asyncio.CancelledError:
            await until(lambda: is_ready(q))
            assert [each.attempts for each in await q.peek()] == [0]
        else:
            await delivery.ack()

    run(main, tmp_path)


async def is_ready(q: mq.AsyncQueue[Any]) -> bool:
    return (await q.stats()).ready == 1


@pytest.mark.parametrize("struck", ["pop", "unlock"])
def test_a_signal_on_the_way_out_of_a_turn_in_the_loop_leaves_the_mutex_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, struck: str
) -> None:
    def strike(*_: object) -> None:
        raise ZeroDivisionError

    with mq.open(tmp_path, sync="never") as broker:
        store, free = broker._store, []
        if struck == "pop":
            monkeypatch.setattr(store, "owing", type("Owing", (dict,), {"pop": strike})())
        else:
            monkeypatch.setattr(store.turn, "unlock", lambda: strike)
        with pytest.raises(ZeroDivisionError):
            at_once(store, lambda: None)

        def take() -> None:
            free.append(store.turn.mutex.acquire(blocking=False))
            if free[0]:
                store.turn.mutex.release()

        other = threading.Thread(target=take)
        other.start()
        other.join()
        assert free == [True]
        monkeypatch.undo()


@contextmanager
def turn_taken(broker: mq.AsyncBroker) -> Iterator[Callable[[], None]]:
    """While another thread has the turn; until what is given is called, or the end of the block."""
    mutex = broker._broker._store.turn.mutex
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with mutex:
            held.set()
            assert go.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE)
    try:
        yield go.set
    finally:
        go.set()
        holder.join()


def test_tasks_that_wait_for_their_turn_share_a_thread(tmp_path: Path) -> None:
    """A thread for each would keep the loop out of its turn, and each would sync by itself."""

    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q", ttl=60)
        await q.publish(-1)
        with turn_taken(broker) as let_go:
            before = threading.active_count()
            tasks = [asyncio.create_task(q.publish(n)) for n in range(50)]
            tasks += [asyncio.create_task(q.publish_many([n, n])) for n in range(50)]  # type: ignore[misc]
            await asyncio.sleep(0)
            assert threading.active_count() <= before + 1
            let_go()
            await asyncio.gather(*tasks)
        assert (await q.stats()).ready == 151

    run(main, tmp_path)


def test_a_receive_that_a_thread_does_gives_back_when_it_is_cancelled(tmp_path: Path) -> None:
    """While another thread has the store, the loop's thread does not wait, and one of the lane does."""

    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        await q.publish(1)
        with turn_taken(broker):
            waits = asyncio.create_task(q.receive())
            for _ in range(10):
                await asyncio.sleep(0)  # the loop goes on
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
        await until(lambda: is_ready(q))
        assert [each.attempts for each in await q.peek()] == [0]

    run(main, tmp_path)


def test_a_batch_of_a_group_is_given_back_whole() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        await q.publish_many(list(range(5)), group="g")
        with turn_taken(broker):
            waits = asyncio.create_task(q.receive_many(10, per_group=None))
            await asyncio.sleep(0)
        until_here(lambda: not broker._lane._turns._is_running)  # a thread took the batch
        assert broker._broker.queue("q").stats().in_flight == 5
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        while (await q.stats()).in_flight:
            await asyncio.sleep(0)
        assert [(each.body, each.attempts) for each in await q.receive_many(10, per_group=None)] == [
            (n, 1) for n in range(5)
        ]

    run(main)


def test_many_that_wait_for_an_empty_queue_do_not_keep_it_from_closing() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        await q.publish(1)
        waits = [asyncio.create_task(q.join()) for _ in range(50)]
        assert not await q.join(timeout=0.01)
        await (await q.receive()).ack()
        assert all(await asyncio.gather(*waits))

    run(main)


def test_cancelled_at_any_moment_nothing_is_lost_or_held(tmp_path: Path) -> None:
    """A hundred tasks, cancelled all the time; at the end every message was acked once."""

    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q", visibility_timeout=3600)
        seen: list[int] = []

        async def work() -> None:
            message = await q.receive()
            async with message:
                seen.append(message.body)

        await q.publish_many(list(range(200)))
        tasks: set[asyncio.Task[None]] = set()
        n = 0
        while (await q.stats()).acked < 200:
            tasks |= {asyncio.create_task(work()) for _ in range(10)}
            await asyncio.sleep(0)
            n += 1
            for task in list(tasks)[::3]:
                task.cancel()
            done = {task for task in tasks if task.done()}
            tasks -= done
        for task in tasks:
            task.cancel()
        assert sorted(set(seen)) == list(range(200))
        assert (await q.stats()).in_flight == 0

    run(main, tmp_path)


# ── the disk ───────────────────────────────────────────────────────────────────────


def test_tasks_share_their_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(broker: mq.AsyncBroker) -> int:
        q = broker.queue("q")
        await q.publish(0)
        store = broker._broker._store
        count = 0
        sync = store.replica.log.sync

        def counted(*given: Any, **named: Any) -> None:
            nonlocal count
            count += 1
            sync(*given, **named)

        monkeypatch.setattr(store.replica.log, "sync", counted)
        await asyncio.gather(*[q.publish(n) for n in range(200)])
        return count

    assert run(main, tmp_path) < 100


def test_a_publish_returns_once_the_disk_has_it(tmp_path: Path) -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        for n in range(20):
            await q.publish(n)
            log = broker._broker._store.replica.log
            assert log.synced >= log.end

    run(main, tmp_path)


class Gate(RealDisk):
    """Syncs wait while the gate is shut; the thread of the event loop makes none at all."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.opened.set()
        self.of_loop = 0

    def sync(self, fd: int) -> None:
        assert threading.get_ident() != self.of_loop, "the event loop waits for the disk"
        assert self.opened.wait(PATIENCE)
        super().sync(fd)


def run_on(disk: Gate, path: Path, main: Callable[[mq.AsyncBroker], Coroutine[Any, Any, T]]) -> T:
    async def opened() -> T:
        async with mq.AsyncBroker(lambda: open_on(disk, path)) as broker:
            disk.of_loop = threading.get_ident()
            return await main(broker)

    return asyncio.run(asyncio.wait_for(opened(), PATIENCE))


async def held_back(disk: Gate, first: Awaitable[T]) -> T:
    """What *first* returns, which waits for the disk while the loop goes on."""
    waits = asyncio.ensure_future(first)
    await asyncio.wait([waits], timeout=0.01)
    assert not waits.done()
    disk.opened.set()
    return await waits


def test_what_names_a_queue_or_a_topic_does_not_keep_the_loop_waiting_for_the_disk(tmp_path: Path) -> None:
    disk = Gate()

    async def main(broker: mq.AsyncBroker) -> None:
        disk.opened.clear()
        q = broker.queue("q", max_attempts=3)
        assert (await held_back(disk, q.options()))["max_attempts"] == 3
        disk.opened.clear()
        topic = broker.topic("t", retain_count=5)
        await held_back(disk, topic.publish("kept"))
        assert [each.body async for each in topic.history()] == ["kept"]
        seen: list[str] = []
        for group in ("group", None):
            disk.opened.clear()
            broker.subscriber("news", group=group)(seen.append)
            await held_back(disk, broker.topic("news").publish("hello"))
        await broker.run(until_empty=True)
        assert seen == ["hello"] * 3

    run_on(disk, tmp_path, main)


@pytest.mark.parametrize("use", ["publish", "receive", "transaction", "stats", "close"])
def test_what_is_awaited_waits_for_what_was_declared(tmp_path: Path, use: str) -> None:
    """In the order in which it was declared."""
    disk = Gate()

    async def main(broker: mq.AsyncBroker) -> None:
        disk.opened.clear()
        for ttl in range(1, 20):
            q = broker.queue("q", ttl=float(ttl), delivery="at_most_once")

        async def commit() -> None:
            async with broker.transaction() as tx:
                tx.publish(q, b"x")

        uses: dict[str, Callable[[], Awaitable[object]]] = {
            "publish": lambda: q.publish(b"x"), "receive": lambda: q.receive(timeout=0),
            "transaction": commit, "stats": broker.stats, "close": broker.close,
        }  # fmt: skip
        await held_back(disk, uses[use]())
        assert all(each.done() for each in broker._lane._declarations)
        if use != "close":
            assert (await q.options())["ttl"] == 19

    run_on(disk, tmp_path, main)
    with mq.open(tmp_path) as broker:
        assert broker.queue("q").options()["ttl"] == 19


def test_run_begins_once_all_is_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Gate()

    async def main(broker: mq.AsyncBroker) -> None:
        broker.consumer("q")(print)
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(
            broker._consumers, "run", lambda *_, **__: loop.call_soon_threadsafe(begun.set)
        )  # fmt: skip
        disk.opened.clear()
        broker.queue("q", ttl=5)
        runs = asyncio.create_task(broker.run())
        await asyncio.wait([runs], timeout=0.01)
        assert not begun.is_set()
        disk.opened.set()
        await asyncio.gather(runs, begun.wait())

    run_on(disk, tmp_path, main)


def test_what_could_not_be_declared_is_raised_by_what_is_awaited_next(tmp_path: Path) -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        with pytest.raises(mq.UsageError, match="ttl"):
            broker.queue("q", ttl=-1)
        with pytest.raises(mq.UsageError, match="#"):
            broker.subscriber("a#b")
        q = broker.queue("q", dead_letter="q")
        with pytest.raises(mq.UsageError, match="dead letters"):
            await q.publish(b"x")
        await q.publish(b"y")
        assert [each.body for each in await q.peek()] == [b"y"]

    run(main, tmp_path)


def test_without_an_event_loop_a_queue_is_declared_at_once(tmp_path: Path) -> None:
    async def opened() -> mq.AsyncBroker:
        return await mq.aopen(tmp_path)

    broker = asyncio.run(opened())
    broker.queue("q", ttl=5)
    asyncio.run(broker.close())
    with mq.open(tmp_path, read_only=True) as reader:
        assert reader.queue("q").options()["ttl"] == 5


@pytest.mark.parametrize("publishes", [True, False])
def test_what_the_end_of_a_loop_cut_off_is_not_waited_for_in_the_next(
    tmp_path: Path, publishes: bool
) -> None:
    disk = Gate()
    broker = mq.AsyncBroker(lambda: open_on(disk, tmp_path))

    async def declare() -> None:
        await broker
        disk.opened.clear()
        broker.queue("q", ttl=1)
        broker.queue("q", ttl=2)
        await asyncio.sleep(0)
        disk.opened.set()

    async def use() -> None:
        if publishes:
            await broker.queue("other").publish(b"x")
        await broker.close()

    asyncio.run(declare())
    asyncio.run(asyncio.wait_for(use(), PATIENCE))


# ── bodies ─────────────────────────────────────────────────────────────────────────

LONG = bytes(1 << 20)


class Reads:
    """By which threads bodies are read from the disk; a long one is not read with the mutex held."""

    def __init__(self, broker: mq.AsyncBroker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        self.opened = threading.Event()
        self.opened.set()
        self.began = threading.Event()
        store = broker._broker._store
        self._mutex, log = store.turn.mutex, store.replica.log
        monkeypatch.setattr(log, "read", self._noted(log.read))
        monkeypatch.setattr(log.reader, "read_run", self._noted(log.reader.read_run))

    def _noted(self, read: Callable[..., T]) -> Callable[..., T]:
        def noted(*given: Any) -> T:
            self.threads.append(threading.get_ident())
            if self.threads[-1] != threading.main_thread().ident:
                assert not self._mutex._is_owned()  # type: ignore[attr-defined]
                self.began.set()
                assert self.opened.wait(PATIENCE)
            return read(*given)

        return noted

    def are_the_loops(self) -> bool:
        return threading.main_thread().ident in self.threads


async def one(q: mq.AsyncQueue[Any]) -> list[mq.AsyncDelivery[Any]]:
    return [await q.receive()]


async def many(q: mq.AsyncQueue[Any]) -> list[mq.AsyncDelivery[Any]]:
    return await q.receive_many(5)


def with_long_body(path: Path, **options: Any) -> None:
    with mq.open(path) as broker:
        broker.queue("q", visibility_timeout=3600.0).publish(LONG, **options)
        broker.queue("q").publish(b"small")


@pytest.mark.parametrize("receive", [one, many])
@pytest.mark.parametrize("sync", ["always", "never"])  # read from the file, or where it is mapped
@pytest.mark.parametrize("options", [{}, {"headers": {"a": "b"}}])
def test_a_long_body_is_read_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receive: Any, sync: Any, options: dict[str, Any]
) -> None:
    with_long_body(tmp_path, **options)

    async def main(broker: mq.AsyncBroker) -> None:
        reads, q = Reads(broker, monkeypatch), broker.queue("q")
        first, *others = await receive(q)
        assert (first.body, first.attempts, dict(first.headers)) == (LONG, 1, options.get("headers", {}))
        assert not reads.are_the_loops()
        assert reads.threads
        small = others[0] if others else await q.receive()
        assert small.body == b"small"
        await q.ack_many([first, small])
        assert (await q.stats()).acked == 2

    run(main, tmp_path, sync=sync)


def test_short_bodies_are_read_by_the_loop_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mq.open(tmp_path) as broker:
        broker.queue("q").publish_many([b"one", b"two"])

    async def main(broker: mq.AsyncBroker) -> None:
        reads, q = Reads(broker, monkeypatch), broker.queue("q")
        assert (await q.receive()).body == b"one"
        assert reads.are_the_loops()

    run(main, tmp_path)


@pytest.mark.parametrize("receive", [one, many])
def test_a_task_that_is_cancelled_while_a_body_is_read_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receive: Any
) -> None:
    with_long_body(tmp_path)

    async def main(broker: mq.AsyncBroker) -> None:
        reads, q = Reads(broker, monkeypatch), broker.queue("q")
        reads.opened.clear()
        waits = asyncio.create_task(receive(q))
        await asyncio.to_thread(reads.began.wait, PATIENCE)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        reads.opened.set()
        while (await q.stats()).ready < 2:
            await asyncio.sleep(0)
        assert [each.attempts for each in await q.peek()] == [0, 0]

    run(main, tmp_path)


def test_a_task_that_is_cancelled_before_a_body_is_read_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads of the lane are in use, so that the reading waits for one."""
    with_long_body(tmp_path)

    async def main(broker: mq.AsyncBroker) -> None:
        q, free = broker.queue("q"), threading.Event()
        busy = [asyncio.create_task(broker._lane.in_thread(free.wait)) for _ in range(THREADS)]
        await asyncio.sleep(0)
        waits = asyncio.create_task(q.receive())
        for _ in range(5):
            await asyncio.sleep(0)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        free.set()
        await asyncio.gather(*busy)
        while (await q.stats()).ready < 2:
            await asyncio.sleep(0)
        assert [each.attempts for each in await q.peek()] == [0, 0]

    run(main, tmp_path)


def test_a_long_body_that_is_damaged_is_set_aside(tmp_path: Path) -> None:
    with_long_body(tmp_path)
    with mq.open(tmp_path, read_only=True) as reader:
        (message, _) = reader.queue("q").peek()
    damage(tmp_path, message.id)

    async def main(broker: mq.AsyncBroker) -> None:
        q = broker.queue("q")
        with pytest.raises(mq.CorruptStore) as caught:
            await q.receive()
        assert caught.value.ids == (message.id,)
        assert "Unread" not in "".join(traceback.format_exception(caught.value))
        assert (await q.receive()).body == b"small"
        assert (await q.stats()).failed == 1

    run(main, tmp_path)


# ── workers ────────────────────────────────────────────────────────────────────────


def test_handlers_run_as_tasks_of_the_same_loop() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        loop = asyncio.get_running_loop()
        seen: list[int] = []

        @broker.consumer("orders", concurrency=10)
        async def bill(delivery: mq.AsyncDelivery[Order]) -> None:
            assert asyncio.get_running_loop() is loop
            seen.append(delivery.body.id)
            if delivery.body.id == 3 and delivery.attempts == 1:
                raise mq.Retry(0)

        @broker.consumer("plain")
        def plain(body: int) -> None:
            assert threading.current_thread() is not threading.main_thread()
            seen.append(body)

        await broker.queue("orders").publish_many([Order(n) for n in range(10)])
        await broker.queue("plain").publish(100)
        await broker.run(until_empty=True)
        assert sorted(seen) == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 100]
        assert (await broker.queue("orders").stats()).acked == 10

    run(main)


def test_run_stops_when_its_task_is_cancelled() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        begun = asyncio.Event()
        orders = broker.queue("orders")

        @broker.consumer(orders)
        async def bill(order: int) -> None:
            begun.set()
            await asyncio.Event().wait()

        await orders.publish(1)
        work = asyncio.create_task(broker.run(grace=0))
        await begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert [each.attempts for each in await orders.peek()] == [0]

    run(main)


def test_run_stops_by_a_signal() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        orders = broker.queue("orders")

        @broker.consumer(orders)
        async def bill(order: int) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0)

        await orders.publish(1)
        await broker.run()
        assert (await orders.stats()).acked == 1

    run(main)


def test_a_consumer_that_asks_for_the_delivery_of_threads_is_refused() -> None:
    async def bill(delivery: mq.Delivery[Order]) -> None: ...

    async def main(broker: mq.AsyncBroker) -> None:
        for queue in ("orders", broker.queue("orders")):
            with pytest.raises(mq.UsageError, match=r"gets a body, or an mq\.AsyncDelivery"):
                broker.consumer(queue)(bill)  # type: ignore[arg-type]

    run(main)


def test_run_without_a_consumer_is_refused() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        with pytest.raises(mq.UsageError, match="consumer"):
            await broker.run()

    run(main)


def test_topics() -> None:
    async def main(broker: mq.AsyncBroker) -> None:
        seen: list[str] = []
        broker.subscriber("orders.*", group="mail")(seen.append)
        await broker.topic("orders.created").publish("one")
        async with broker.transaction() as tx:
            tx.publish(broker.topic("orders.paid"), "two")
        await broker.run(until_empty=True)
        assert sorted(seen) == ["one", "two"]
        assert await broker.subscriptions("orders.x") == [("orders.*", "mail")]
        assert await broker.queue("mail").unsubscribe("orders.*")
        kept = broker.topic("kept", retain_count=1000)
        for n in range(600):
            await kept.publish(n)
        assert [each.body async for each in kept.history()] == list(range(600))
        await broker.queue("late").subscribe("kept", since=0)
        assert (await broker.queue("late").stats()).ready == 600

    run(main)


def test_a_history_is_read_with_async_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with mq.aopen(tmp_path / "s", sync="never") as broker:
            topic = broker.topic("t", retain_count=1000)
            for number in range(600):
                await topic.publish(number)
            assert [message.body async for message in topic.history(limit=500)] == list(range(100, 600))
            await broker.queue("q").subscribe("t", since=0)
            assert (await broker.queue("q").stats()).ready == 600

    asyncio.run(main())


@pytest.mark.parametrize("named", [False, True], ids=["a body", "an Outgoing"])
@pytest.mark.parametrize(("size", "in_loop"), [(100, True), (1 << 20, False)])
def test_a_large_body_is_written_by_a_thread(
    monkeypatch: pytest.MonkeyPatch, size: int, in_loop: bool, named: bool
) -> None:
    threads: list[threading.Thread] = []
    send = mq.Queue._send_many

    def noted(*given: Any) -> list[int]:
        threads.append(threading.current_thread())
        return send(*given)

    monkeypatch.setattr(mq.Queue, "_send_many", noted)

    async def publish(broker: mq.AsyncBroker) -> None:
        body = "x" * size
        await broker.queue("q").publish_many([mq.Outgoing(body, {"headers": {"a": "b"}}) if named else body])

    run(publish)
    assert threads and (threads[0] is threading.main_thread()) == in_loop
