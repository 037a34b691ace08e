"""Threads and tasks that wait for a turn have their publishes and acks appended together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from engines import PATIENCE
from fakes import QuickDisk, open_on

import mq
from mq.aio.broker import AsyncBroker
from mq.engine import together as module
from mq.engine.log import Conflict
from mq.engine.phase import Phase
from mq.engine.together import Together

COUNT = 8


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[mq.Broker]:
    with open_on(QuickDisk(), tmp_path / "s", background=False) as broker:
        store = broker._store
        store.together = Together(store, store.turn, store.replica, store.clock, store.committer)
        yield broker


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue[Any]:
    return broker.queue("q", visibility_timeout=3600)


@pytest.fixture
def groups(broker: mq.Broker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each append had since."""
    log, found = broker._store.replica.log, []
    append = log.append_group

    def noted(ms: int, drafts: Any, **options: Any) -> list[int]:
        found.append(len(drafts))
        return append(ms, drafts, **options)

    monkeypatch.setattr(log, "append_group", noted)
    return found


def run(do: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """*do* in a thread; in the end what it returned, or raised, is in the list."""
    found: list[object] = []

    def live() -> None:
        try:
            found.append(do())
        except mq.MqError as error:
            found.append(error)

    thread = threading.Thread(target=live)
    thread.start()
    return thread, found


@contextmanager
def held_up(broker: mq.Broker, *work: Callable[[], object]) -> Iterator[list[list[object]]]:
    """This thread is in its turn until all *work*, each in a thread, waits for it, in this order."""
    store, together = broker._store, broker._store.together
    assert together
    busy, threads = len(store.busy), []
    with store.turn.mutex:
        store.busy.add(-1)  # another thread that is inside
        for number, do in enumerate(work, 1):
            threads.append(run(do))
            give_up = time.monotonic() + PATIENCE
            while len(together._waiting) < number:
                assert time.monotonic() < give_up
                time.sleep(0)
        store.busy.discard(-1)
        yield [found for _, found in threads]
    for thread, _ in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert len(store.busy) == busy


def publishing(queue: mq.Queue[Any]) -> list[Callable[[], object]]:
    return [partial(queue.publish, b"%d" % number) for number in range(COUNT)]


def test_what_waits_goes_in_one_append(broker: mq.Broker, queue: mq.Queue[Any], groups: list[int]) -> None:
    """P5: in the order in which it came."""
    with held_up(broker, *publishing(queue)) as found:
        pass
    assert groups == [COUNT]
    there = queue.peek(99)
    assert [each.raw for each in there] == [b"%d" % number for number in range(COUNT)]
    assert [each.id for each in there] == [id for (id,) in found]


def test_a_handler_publishes_while_a_task_of_its_thread_gets_in_line(
    broker: mq.Broker, queue: mq.Queue[Any]
) -> None:
    """A thread that runs tasks is in no operation, so what its signals' handlers publish is not refused."""
    together = broker._store.together
    assert together

    def publish() -> int:
        assert together
        with together._gate:
            return queue.publish(b"of a handler")

    broker._store.busy.add(-1)  # another thread that is inside
    thread, found = run(publish)
    thread.join(PATIENCE)
    broker._store.busy.discard(-1)
    assert not thread.is_alive()
    assert found == [each.id for each in queue.peek()]


def test_a_part_has_no_more_than_one_append_takes(
    broker: mq.Broker, queue: mq.Queue[Any], groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_MAX", 3)
    with held_up(broker, *publishing(queue)):
        pass
    assert groups == [3, 3, 2]
    assert queue.stats().ready == COUNT


def test_a_thread_that_has_the_turn_waits_for_none(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    """An event loop's thread has it while it publishes: the leader waits for that."""
    with held_up(broker, *publishing(queue)):
        first = queue.publish(b"mine")
        (message,) = queue.receive_many(1)
        message.ack()
    assert message.id == first
    assert queue.stats().ready == COUNT


def test_what_needs_a_plan_goes_its_own_way(
    broker: mq.Broker, queue: mq.Queue[Any], groups: list[int]
) -> None:
    """The queue gets a limit while they wait: it is not exceeded."""
    with held_up(broker, *publishing(queue)) as found:
        broker._store.busy.discard(threading.get_ident())
        broker.queue("q", max_length=2)
    results = sorted((each for (each,) in found), key=lambda each: not isinstance(each, int))
    assert [type(each) for each in results] == [int, int, *[mq.QueueFull] * (COUNT - 2)]
    assert queue.stats().ready == 2


def test_two_acks_of_one_delivery_at_once_are_one(
    broker: mq.Broker, queue: mq.Queue[Any], groups: list[int]
) -> None:
    queue.publish_many([b"a", b"b"])
    first, second = queue.receive_many(2)
    again = mq.Delivery(queue, first.id, first._flight, first._flags, 0, first.raw, None)  # a second object
    groups.clear()
    with held_up(broker, first.ack, again.ack, second.ack) as found:
        pass
    assert groups[0] == 2
    assert [each for (each,) in found][::2] == [None, None]
    assert isinstance(found[1][0], mq.StaleReceipt)
    assert queue.stats().acked == 2


def test_a_conflict_is_decided_again_with_what_came_meanwhile(
    broker: mq.Broker, queue: mq.Queue[Any], groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, conflicts = broker._store.replica.log, [True]
    append = log.append_group

    def beaten(ms: int, drafts: Any, **options: Any) -> list[int]:
        if conflicts:
            conflicts.pop()
            raise Conflict
        return append(ms, drafts, **options)

    monkeypatch.setattr(log, "append_group", beaten)
    with held_up(broker, *publishing(queue)):
        pass
    assert groups == [COUNT]
    assert queue.stats().ready == COUNT


@pytest.mark.parametrize("error", [mq.StoreFailed("s", "no answer"), mq.StorageError("s", "no server")])
def test_each_is_told_of_an_error_and_the_next_go_on(
    broker: mq.Broker, queue: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch, error: mq.StorageError
) -> None:
    def fails(*args: Any, **options: Any) -> list[int]:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(broker._store.replica.log, "append_group", fails)
        with held_up(broker, *publishing(queue)) as found:
            pass
    assert [str(each) for (each,) in found] == [str(error)] * COUNT
    assert {type(each) for (each,) in found} == {type(error)}
    with held_up(broker, *publishing(queue)):
        pass
    assert queue.stats().ready == COUNT


def test_a_leader_that_is_interrupted_hands_on(
    broker: mq.Broker, queue: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome is open for those in its append; what comes later is done."""
    log, interrupts = broker._store.replica.log, [True]
    append = log.append_group

    def interrupted(ms: int, drafts: Any, **options: Any) -> list[int]:
        if interrupts:
            interrupts.pop()
            raise KeyboardInterrupt
        return append(ms, drafts, **options)

    monkeypatch.setattr(log, "append_group", interrupted)
    monkeypatch.setattr(module, "PART_MAX", 3)

    def leader() -> object:
        with pytest.raises(KeyboardInterrupt):
            queue.publish(b"first")
        return None

    with held_up(broker, leader, *publishing(queue)) as found:
        pass
    assert [type(each) for (each,) in found] == [type(None), *[mq.StoreFailed] * 2, *[int] * (COUNT - 2)]
    assert queue.stats().ready == COUNT - 2


def test_a_closed_store_refuses_all_that_wait(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    with held_up(broker, *publishing(queue)) as found:
        broker._store.closed = True
        broker._store.become(Phase.CLOSED)
    assert {type(each) for (each,) in found} == {mq.Closed}


def test_tasks_are_appended_together_by_one_thread(
    broker: mq.Broker, queue: mq.Queue[Any], groups: list[int]
) -> None:
    def threads() -> set[threading.Thread]:
        return {each for each in threading.enumerate() if each.name.startswith("mq aio_")}

    before = threads()  # of other tests' brokers, which nobody has collected yet

    async def work() -> None:
        face = AsyncBroker(lambda: broker)
        queue = (await face).queue("q")
        ids = await asyncio.gather(*[queue.publish(b"%d" % number) for number in range(500)])
        assert ids == sorted(ids)
        got = await queue.receive_many(500)
        assert [each.id for each in got] == ids
        groups.append(0)
        await asyncio.gather(*[each.ack() for each in got])
        assert (await queue.stats())[:3] == (0, 0, 0)

    asyncio.run(work())
    publishes, acks = groups[: groups.index(0)], groups[groups.index(0) + 1 :]
    assert sum(publishes) == sum(acks) == 500
    assert len(publishes) < 50 and len(acks) < 50
    # The pool may begin a thread for each of the four things that were done one after the other.
    assert len(threads() - before) <= 4


def test_a_task_that_is_cancelled_leaves_the_others_alone(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    async def work() -> None:
        queue = (await AsyncBroker(lambda: broker)).queue("q")
        tasks = [asyncio.ensure_future(queue.publish(b"%d" % number)) for number in range(20)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[3], asyncio.CancelledError)
        there = [each.id for each in await queue.peek(99)]
        assert set(there) >= {each for each in results if isinstance(each, int)}
        assert 19 <= len(there) <= 20

    asyncio.run(work())
