"""An answer is lost, late, or to another process: what was asked for happens once, or its outcome is open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import Cluster
from servers.node import until

import mq
from mq.nats.direct import Direct
from mq.nats.sending import Sending

LATE_SECONDS = 3.0  # more than the time after which a request is made again, less than an election takes
PARTS = 3 << 20  # bytes of a body that takes several messages of the stream
STORED = b'{"stream":"mq_s"'  # the answer to an append


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One server, with a door that can be shut."""
    with Cluster(tmp_path, 1, links=True) as cluster:
        yield cluster


@pytest.fixture
def broker(cluster: Cluster) -> Iterator[mq.Broker]:
    """Its connection goes through the door."""
    with mq.open(cluster.url("s")) as broker:
        yield broker


@pytest.fixture
def beside(cluster: Cluster) -> Iterator[mq.Broker]:
    """Another process, as far as the store can tell; its connection goes around the door."""
    with mq.open(f"nats://127.0.0.1:{cluster['n1'].port}/s") as broker:
        yield broker


@contextmanager
def meanwhile(do: Callable[[], object]) -> Iterator[Future[object]]:
    """*do* in another thread; it has ended behind the block."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(do)


def lose_the_answer(cluster: Cluster, do: Callable[[], object]) -> object:
    """What *do* returns, though the server's answer to its first append does not arrive."""
    door = cluster.door(cluster["n1"])
    door.hold_before(STORED)
    with meanwhile(do) as done:
        until(lambda: not door.is_open(), "nothing is stored")
        door.reset()
        return done.result()


@pytest.mark.parametrize("size", [100, PARTS], ids=["message", "batch"])
def test_a_publish_whose_answer_is_lost_is_there_once(cluster: Cluster, broker: mq.Broker, size: int) -> None:
    """P6."""
    queue = broker.queue("mail", max_attempts=3)
    id = lose_the_answer(cluster, lambda: queue.publish(b"x" * size))
    assert [(each.id, len(each.raw)) for each in queue.peek()] == [(id, size)]


@pytest.mark.parametrize("options", [{}, {"priority": 1}], ids=["plain", "planned"])
def test_a_publish_whose_outcome_is_open_is_not_decided_again(
    broker: mq.Broker, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """P6: no server has told, and then one is there again, and has it."""
    queue, send = broker.queue("mail"), Sending.send
    queue.publish_many([b"0", b"1"])

    def open_outcome(self: Sending, *what: Any) -> None:
        assert send(self, *what)
        raise mq.StoreFailed(broker.path, "the outcome is unknown")

    monkeypatch.setattr(Direct, "ask", lambda *args: None)
    monkeypatch.setattr(Sending, "send", open_outcome)
    with pytest.raises(mq.StoreFailed):
        queue.publish(b"2", **options)
    monkeypatch.undo()
    assert sorted(each.raw for each in queue.peek()) == [b"0", b"1", b"2"]


def test_a_receive_whose_answer_is_lost_takes_one(cluster: Cluster, broker: mq.Broker) -> None:
    queue = broker.queue("mail", visibility_timeout=3600)
    ids = queue.publish_many([b"1", b"2", b"3"])
    delivery = lose_the_answer(cluster, lambda: queue.receive(timeout=0))
    assert isinstance(delivery, mq.Delivery)
    assert delivery.id == ids[0]
    assert queue.stats().in_flight == 1
    lose_the_answer(cluster, delivery.ack)
    assert [each.id for each in queue.peek()] == ids[1:]


def test_what_another_process_decided_alike_is_its_own(cluster: Cluster, tmp_path: Path) -> None:
    """P12: both decide the same at the same time, in the same bytes; one of them was first."""
    now = 1_700_000_000.0
    door = cluster.door(cluster["n1"])
    with (
        mq.open(cluster.url("s"), clock=lambda: now) as slow,
        mq.open(f"nats://127.0.0.1:{cluster['n1'].port}/s", clock=lambda: now) as quick,
    ):
        slow.queue("mail", visibility_timeout=3600).publish(b"one")
        assert slow.queue("mail").peek() and quick.queue("mail").peek()
        door.hold("up")
        with meanwhile(lambda: slow.queue("mail").receive(timeout=0)) as taken:
            first = quick.queue("mail").receive(timeout=0)
            door.reset()
            second = taken.result()
        assert first is not None
        assert second is None


def test_a_late_request_changes_nothing(cluster: Cluster, broker: mq.Broker, beside: mq.Broker) -> None:
    """P6: what was held on its way arrives when another process has gone on."""
    queue = broker.queue("mail")
    queue.publish(b"0")
    door = cluster.door(cluster["n1"])
    door.hold("up")
    with meanwhile(lambda: queue.publish(b"late")) as done:
        for number in range(5):
            beside.queue("mail").publish(b"%d" % number)
        door.let_through()
        done.result()
    assert sorted(each.raw for each in beside.queue("mail").peek(100)) == [
        b"0", b"0", b"1", b"2", b"3", b"4", b"late"
    ]  # fmt: skip


def test_many_threads_and_a_lost_answer(cluster: Cluster, broker: mq.Broker) -> None:
    """P6: each publish that waits meanwhile is there once."""
    queue = broker.queue("mail")
    queue.publish(b"")
    threads = [threading.Thread(target=queue.publish, args=[b"%d" % number]) for number in range(8)]

    def publish_all() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    lose_the_answer(cluster, publish_all)
    assert sorted(each.raw for each in queue.peek(100)) == [b"", *(b"%d" % number for number in range(8))]


@pytest.mark.parametrize("size", [100, PARTS], ids=["message", "batch"])
def test_what_a_majority_has_late_is_there_once(tmp_path: Path, size: int) -> None:
    """P6: the leader has it, and the others are paused for longer than one attempt lasts."""
    with Cluster(tmp_path) as cluster, mq.open(cluster.url("s")) as broker:
        queue = broker.queue("mail")
        first = queue.publish(b"0")
        followers = cluster.followers("mq_s")
        for node in followers:
            node.pause()
        with meanwhile(lambda: queue.publish(b"x" * size)) as done:
            time.sleep(LATE_SECONDS)  # how long they are paused
            for node in followers:
                node.resume()
            id = done.result()
        assert [(each.id, len(each.raw)) for each in queue.peek()] == [(first, 1), (id, size)]


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
@pytest.mark.parametrize("size", [100, PARTS], ids=["message", "batch"])
def test_a_refusal_by_a_server_that_leads_no_more_is_not_believed(
    broker: mq.Broker, monkeypatch: pytest.MonkeyPatch, size: int, stored: bool
) -> None:
    """P6: for a moment two servers take a message; the one that does not lead any more answers first."""
    queue, attempt, refused = broker.queue("mail"), Sending._try, []
    first = queue.publish(b"0")

    async def answered_by_another(self: Sending, *group: Any) -> dict[str, Any]:
        if refused:
            return await attempt(self, *group)
        refused.append(group)
        if stored:
            await attempt(self, *group)
        return {"error": {"code": 400, "err_code": 10071, "description": "wrong last sequence: 0"}}

    monkeypatch.setattr(Direct, "ask", lambda *args: None)
    monkeypatch.setattr(Sending, "_try", answered_by_another)
    id = queue.publish(b"x" * size)
    assert [(each.id, len(each.raw)) for each in queue.peek()] == [(first, 1), (id, size)]


@pytest.mark.parametrize("options", [{}, {"priority": 1}], ids=["shared", "compared"])
@pytest.mark.parametrize("fate", ["lost", "refused", "refused, and not stored"])
def test_what_becomes_of_an_append_over_its_own_connection(
    broker: mq.Broker, monkeypatch: pytest.MonkeyPatch, fate: str, options: dict[str, Any]
) -> None:
    """P6: no answer, or that of a server which leads no more.

    What is compared is sent again over the other connection; what is shared is not, and a fence is appended.
    """
    queue, ask, asked = broker.queue("mail"), Direct.ask, []
    first = queue.publish(b"0")

    def mistreated(self: Direct, *what: Any) -> dict[str, Any] | None:
        asked.append(what)
        if fate != "refused, and not stored":
            assert ask(self, *what)
        if fate == "lost":
            raise TimeoutError
        return {"error": {"code": 400, "err_code": 10071, "description": "wrong last sequence: 0"}}

    monkeypatch.setattr(Direct, "ask", mistreated)
    id = queue.publish(b"x", **options)
    assert len(asked) == (1 if options else 3 if fate == "refused, and not stored" else 2)
    assert sorted((each.id, each.raw) for each in queue.peek()) == [(first, b"0"), (id, b"x")]
