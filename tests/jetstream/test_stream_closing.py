"""A store is closed soon, though its servers are gone, and loses nothing by that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engines import PATIENCE
from servers import Cluster
from servers.node import Node, until

import mq
from mq.engine import ahead
from mq.nats.connection import PATIENCE_SECONDS, Connection
from mq.nats.sending import Sending


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 1, sync="2m") as cluster:
        yield cluster


@pytest.fixture
def broker(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> mq.Broker:
    """On a machine that may be slow, each loop comes soon."""
    monkeypatch.setattr(ahead, "PROMPT_SECONDS", PATIENCE)
    monkeypatch.setattr(ahead, "GIVE_BACK_SECONDS", PATIENCE)
    return mq.open(cluster.url("s"))


def begin(broker: mq.Broker) -> Iterator[mq.Delivery[Any]]:
    """A loop that has taken a message ahead, the third one."""
    queue: mq.Queue[Any] = broker.queue("q", visibility_timeout=3600)
    queue.publish_many(range(4))
    loop = iter(queue)
    for _ in range(2):
        next(loop).ack()
    return loop


def close(broker: mq.Broker) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    broker.close()
    return time.monotonic() - began


def states(cluster: Cluster) -> tuple[list[int], list[int]]:
    """What is ready, and what is in flight, once the server is there again."""
    with mq.open(cluster.url("s")) as broker:
        queue: mq.Queue[Any] = broker.queue("q")
        return [each.body for each in queue.peek(9)], [each.body for each in queue.peek(9, state="in_flight")]


@pytest.mark.parametrize("end, back", [(Node.kill, Node.start), (Node.pause, Node.resume)])
def test_closing_does_not_wait_for_servers_that_are_gone(
    cluster: Cluster, broker: mq.Broker, end: Callable[[Node], None], back: Callable[[Node], None]
) -> None:
    loop = begin(broker)
    node = cluster["n1"]
    end(node)
    assert close(broker) < PATIENCE_SECONDS / 2
    back(node)
    cluster.wait_ready()
    assert states(cluster) == ([3], [2])  # its visibility timeout is what is left to it
    assert loop


def test_closing_does_not_wait_for_what_is_being_given_back(
    cluster: Cluster, broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that gives back has the turn, and no server answers it."""
    sent = threading.Event()
    send = Sending._send

    async def noted(self: Sending, *given: Any, **options: Any) -> int | None:
        sent.set()
        return await send(self, *given, **options)

    monkeypatch.setattr(Sending, "_send", noted)
    loop = begin(broker)
    cluster["n1"].kill()
    monkeypatch.setattr(ahead, "GIVE_BACK_SECONDS", 0.0)
    assert broker._store.ahead
    broker._store.ahead.worker.ring()
    assert sent.wait(PATIENCE)
    assert close(broker) < PATIENCE_SECONDS / 2
    assert loop


def test_closing_gives_back_what_a_loop_has(cluster: Cluster, broker: mq.Broker) -> None:
    loop = begin(broker)
    broker.close()
    assert states(cluster) == ([2, 3], [])
    assert loop


def test_what_the_program_waits_for_is_not_cut_off(cluster: Cluster, broker: mq.Broker) -> None:
    """Its outcome is known, if the server comes back in time."""
    queue = broker.queue("q")
    queue.publish("first")
    connection: Connection = broker._store.replica.connection  # type: ignore[attr-defined]
    cluster["n1"].pause()
    with ThreadPoolExecutor(2) as pool:
        published = pool.submit(queue.publish, "second")
        until(lambda: bool(broker._store.busy), "nothing is published")
        closed = pool.submit(broker.close)
        until(lambda: connection._until < time.monotonic(), "it is not in a hurry")
        cluster["n1"].resume()
        assert published.result(PATIENCE)
        closed.result(PATIENCE)
    with mq.open(cluster.url("s")) as again:
        assert [each.body for each in again.queue("q").peek(9)] == ["first", "second"]
