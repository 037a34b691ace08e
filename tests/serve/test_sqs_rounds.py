"""Rounds: requests at the same time share a write, and none fails for what another one wants."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from weakref import ref

import pytest

import mq
from mq.engine.commands import NoQueue
from mq.errors import Closed, QueueFull, StoreFailed
from mq.serve.face import Site
from mq.serve.settings import Settings
from mq.serve.sqs import attributes
from mq.serve.sqs.fault import Fault
from mq.serve.sqs.queues import RECEIVES_MAX, Queues
from mq.serve.sqs.rounds import COUNT_MAX, Rounds

PATIENCE_SECONDS: Final = 120


class Store:
    """Takes lists of numbers, and says what it was given; no list with a number that is bad."""

    def __init__(self, error: Exception | None = None) -> None:
        self.given: list[list[int]] = []
        self.error = error

    async def take(self, wanted: list[int]) -> list[str]:
        self.given.append(list(wanted))
        if self.error and -1 in wanted:
            raise self.error
        return [str(each) for each in wanted]


def asked(store: Store, *requests: list[int], size: int = 0) -> list[Any]:
    """The results of requests at the same time, or what they raised."""

    async def ask() -> list[Any]:
        rounds = Rounds(store.take)
        return await asyncio.gather(
            *(rounds.ask(list(each), size) for each in requests), return_exceptions=True
        )

    return asyncio.run(ask())


def test_requests_at_the_same_time_are_one_round_and_each_has_its_part() -> None:
    store = Store()
    assert asked(store, [1], [2, 3], [4]) == [["1"], ["2", "3"], ["4"]]
    assert store.given == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("count", "size", "lists"),
    [
        pytest.param(COUNT_MAX, 0, 1, id="as many as fit"),
        pytest.param(COUNT_MAX + 1, 0, 2, id="one more"),
        pytest.param(3, 300 << 10, 3, id="long ones"),
    ],
)
def test_a_round_has_a_limit(count: int, size: int, lists: int) -> None:
    store = Store()
    assert asked(store, *([each] for each in range(count)), size=size) == [[str(n)] for n in range(count)]
    assert len(store.given) == lists


def test_after_a_refusal_each_request_is_done_by_itself() -> None:
    full = QueueFull("full")
    store = Store(full)
    assert asked(store, [1], [-1], [2, 3]) == [["1"], full, ["2", "3"]]
    assert store.given == [[1, -1, 2, 3], [1], [-1], [2, 3]]


def test_one_request_alone_is_not_tried_again() -> None:
    full = QueueFull("full")
    store = Store(full)
    assert asked(store, [-1, 1]) == [full] and store.given == [[-1, 1]]


def test_what_may_have_been_done_is_not_done_again() -> None:
    failed = StoreFailed("/store", "a sync failed")
    store = Store(failed)
    assert asked(store, [1], [-1]) == [failed, failed] and store.given == [[1, -1]]


def test_a_request_that_is_cancelled_takes_no_other_one_along() -> None:
    async def cancelled() -> list[Any]:
        rounds = Rounds(Store().take)
        tasks = [asyncio.create_task(rounds.ask([each], 0)) for each in (1, 2, 3)]
        while rounds._open is None or len(rounds._open.wanted) < len(tasks):
            await asyncio.sleep(0)
        tasks[0].cancel()
        return [*await asyncio.gather(*tasks, return_exceptions=True), await rounds.ask([4], 0)]

    first, *others = asyncio.run(asyncio.wait_for(cancelled(), PATIENCE_SECONDS))
    assert isinstance(first, asyncio.CancelledError) and others == [["2"], ["3"], ["4"]]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a mistake"), Closed("closed")], ids=repr)
def test_an_unexpected_error_is_each_requests(error: Exception) -> None:
    async def failing() -> tuple[list[Any], list[str]]:
        rounds = Rounds(Store(error).take)
        asks = [rounds.ask([each], 0) for each in (1, -1, 2)]
        return await asyncio.gather(*asks, return_exceptions=True), await rounds.ask([3], 0)

    found, later = asyncio.run(asyncio.wait_for(failing(), PATIENCE_SECONDS))
    assert found == [error, error, error] and later == ["3"]


def test_a_queue_keeps_nothing_of_a_round_that_is_over() -> None:
    class Body:
        pass

    async def done() -> Body | None:
        rounds: Rounds[Body, Body] = Rounds(echo)
        body = ref((await rounds.ask([Body()], 0))[0])
        for _ in range(5):  # callbacks of what is over
            await asyncio.sleep(0)
        return body()

    async def echo(wanted: list[Body]) -> list[Body]:
        return list(wanted)

    assert asyncio.run(done()) is None


def test_of_equal_dedup_ids_in_a_round_one_is_stored(tmp_path: Path) -> None:
    async def send() -> tuple[list[int], list[str]]:
        async with mq.aopen(tmp_path / "store") as broker:
            queue = broker.queue("orders")
            rounds = Rounds(queue.publish_many)
            twice = [mq.Outgoing(body, {"group": "g", "dedup_id": id}) for body, id in ("a1", "b2", "c1")]
            asks = await asyncio.gather(*(rounds.ask([each], 0) for each in twice))
            return [id for (id,) in asks], [each.body for each in await queue.peek(10)]

    ids, bodies = asyncio.run(send())
    assert bodies == ["a", "b"] and ids[0] == ids[2] < ids[1]


def test_a_broker_that_is_closed_during_a_round_answers_all(tmp_path: Path) -> None:
    """Stored or refused, and the sender knows which."""

    async def close() -> list[Any]:
        async with mq.aopen(tmp_path / "store") as broker:
            rounds = Rounds(broker.queue("orders").publish_many)
            tasks = [asyncio.create_task(rounds.ask([str(each)], 0)) for each in range(300)]
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(asyncio.wait_for(close(), PATIENCE_SECONDS))
    stored = [str(number) for number, each in enumerate(found) if isinstance(each, list)]
    assert all(isinstance(each, (list, Closed)) for each in found)
    with mq.open(tmp_path / "store") as broker:
        assert [each.body for each in broker.queue("orders").peek(1000)] == stored


def test_few_visibility_timeouts_are_remembered(tmp_path: Path) -> None:
    async def receive() -> tuple[int, list[str]]:
        async with mq.aopen(tmp_path / "store") as broker:
            await broker.queue("orders").publish_many(map(str, range(2 * RECEIVES_MAX)))
            site = Site(broker, Settings(str(tmp_path)), None, 0.0)
            queue = await Queues(site).find("orders")
            seconds = range(2 * RECEIVES_MAX)
            taken = await asyncio.gather(*(queue.receive(1, 60.0 + each) for each in seconds))
            return len(queue._receives), [each.body for (each,) in taken]

    kept, bodies = asyncio.run(asyncio.wait_for(receive(), PATIENCE_SECONDS))
    assert kept == RECEIVES_MAX and sorted(map(int, bodies)) == list(range(2 * RECEIVES_MAX))


@pytest.mark.parametrize("change", ["purge", "delete"])
def test_a_look_from_before_a_change_is_not_kept(tmp_path: Path, change: str) -> None:
    """Else a message behind a purge would be taken for a repetition, and a deleted queue come to be again."""
    looked, go_on = threading.Event(), threading.Event()

    async def look() -> None:
        async with mq.aopen(tmp_path / "store") as broker:
            await broker.queue("q").publish("x")
            queues = Queues(Site(broker, Settings(str(tmp_path)), None, 0.0))
            read = queues._read

            def slowly(name: str) -> Any:
                found = read(name)
                looked.set()
                assert go_on.wait(PATIENCE_SECONDS)
                return found

            queues._read = slowly  # type: ignore[method-assign]
            late = asyncio.create_task(queues.find("q"))
            assert await asyncio.to_thread(looked.wait, PATIENCE_SECONDS)
            queues._read = read  # type: ignore[method-assign]
            if change == "purge":
                await queues.change("q", {}, attributes.purged)
            else:
                await broker.queue("q").delete()
                with pytest.raises(Fault, match="does not exist"):
                    await queues.find("q")
            go_on.set()
            await late
            if change == "purge":
                assert (await queues.find("q")).kept == {attributes.PURGES: "1"}
            else:
                with pytest.raises(Fault, match="does not exist"):
                    await queues.find("q")

    asyncio.run(look())


@pytest.mark.parametrize("options", [{}, {"ttl": 60.0}, {"max_length": 9}], ids=str)
@pytest.mark.parametrize("late", ["send", "send with a delay", "change", "change of an option", "tag"])
def test_a_deleted_queue_stays_deleted(tmp_path: Path, options: Any, late: str) -> None:
    """A request that has looked it up before makes it no second time."""

    async def ask() -> None:
        async with mq.aopen(tmp_path / "store") as broker:
            broker.queue("q", **options)
            await broker.queue("q").publish("before")
            queues = Queues(Site(broker, Settings(str(tmp_path)), None, 0.0))
            found = await queues.find("q")
            with mq.open(tmp_path / "store") as other:
                other.queue("q").delete()
            with pytest.raises(NoQueue, match="deleted"):
                if late == "send":
                    await found.sends.ask(["late"])
                elif late == "send with a delay":
                    await found.sends.ask([mq.Outgoing("late", {"delay": 5.0})])
                elif late == "tag":
                    await queues.tag("q", lambda _: {"a": "b"})
                else:
                    changed = {"delay": 5.0} if late == "change of an option" else {}
                    await queues.change("q", changed, attributes.purged)
            assert await broker.queues() == []

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_SECONDS))


def test_a_queue_that_is_deleted_while_it_is_made_is_made(tmp_path: Path) -> None:
    """With all of its options, and not with what was left to do."""

    async def make() -> None:
        async with mq.aopen(tmp_path / "store") as broker:
            queues = Queues(Site(broker, Settings(str(tmp_path)), None, 0.0))
            deletes = [broker._broker.queue("q").delete]

            def edit(_: dict[str, str]) -> dict[str, str]:
                if deletes:
                    deletes.pop()()
                return {"a": "b"}

            await queues.change("q", {"delay": 5.0}, edit, makes=True)
            found = await queues.find("q")
            assert found.options["delay"] == 5.0 and found.kept == {"a": "b"} and not deletes

    asyncio.run(asyncio.wait_for(make(), PATIENCE_SECONDS))


def test_many_clients_send_receive_and_delete_each_message_once(sqs: Any, url: str) -> None:
    bodies = {f"message {number}" for number in range(64)}

    def receive(_: int) -> str:
        (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        body: str = message["Body"]
        return body

    with ThreadPoolExecutor(16) as threads:
        sent = list(threads.map(lambda body: sqs.send_message(QueueUrl=url, MessageBody=body), bodies))
        assert len({each["MessageId"] for each in sent}) == len(bodies)
        assert sorted(threads.map(receive, range(len(bodies)))) == sorted(bodies)
    assert "Messages" not in sqs.receive_message(QueueUrl=url)


def test_a_full_queue_takes_what_fits(sqs: Any, url: str, store: mq.Broker) -> None:
    store.queue(url.rpartition("/")[2], max_length=5)
    refused = []

    def send(number: int) -> None:
        try:
            sqs.send_message(QueueUrl=url, MessageBody=str(number))
        except sqs.exceptions.RequestThrottled:
            refused.append(number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(send, range(20)))
    assert len(refused) == 15
