"""How many messages of a queue may be in flight, and how soon it may be purged again."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")

from served import sqs_client
from sites import PATIENCE, Running, running, wait_until
from test_sqs_server import is_read, poll_of

from mq.serve.sqs import queues, receiving

LIMIT = 3


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(receiving, "ROOM_SECONDS", 0.01)
    with running(tmp_path / "store", sync="never", in_flight_max=LIMIT, purge_seconds=60) as found:
        yield found


@pytest.fixture
def sqs(server: Running) -> Any:
    return sqs_client(f"http://127.0.0.1:{server.port}")


def filled(server: Running, sqs: Any, name: str, **attributes: str) -> str:
    """The URL of a queue with more messages than may be in flight, each of another group."""
    url: str = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    for number in range(LIMIT + 2):
        server.broker.queue(name).publish(str(number), group=str(number) if attributes else None)
    return url


def received(sqs: Any, url: str, **options: Any) -> list[Any]:
    found: list[Any] = sqs.receive_message(QueueUrl=url, **options).get("Messages", [])
    return found


def answered(connection: socket.socket) -> list[Any]:
    """The messages that a long poll is answered with."""
    with connection.makefile("rb") as file:
        lengths = [line for line in iter(file.readline, b"\r\n") if line.startswith(b"content-length")]
        found: list[Any] = json.loads(file.read(int(lengths[0].split()[1]))).get("Messages", [])
    return found


def test_a_short_poll_beyond_the_limit_is_over_limit(server: Running, sqs: Any) -> None:
    """It gets what there is room for, and then the error; a delete makes room."""
    url = filled(server, sqs, "q")
    taken = received(sqs, url, MaxNumberOfMessages=10)
    assert len(taken) == LIMIT
    with pytest.raises(sqs.exceptions.OverLimit) as error:
        received(sqs, url)
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert server.broker.queue("q").stats().in_flight == LIMIT
    sqs.delete_message(QueueUrl=url, ReceiptHandle=taken[0]["ReceiptHandle"])
    assert [each["Body"] for each in received(sqs, url, MaxNumberOfMessages=10)] == ["3"]


def test_a_long_poll_beyond_the_limit_waits_for_room(server: Running, sqs: Any) -> None:
    url = filled(server, sqs, "q")
    taken = received(sqs, url, MaxNumberOfMessages=10)
    assert received(sqs, url, WaitTimeSeconds=1) == []
    with server.connect() as poll:
        poll.sendall(poll_of(url))
        wait_until(lambda: is_read(poll))
        sqs.delete_message(QueueUrl=url, ReceiptHandle=taken[0]["ReceiptHandle"])
        [message] = answered(poll)
    assert message["Body"] == "3"


def test_a_fifo_queue_beyond_the_limit_gives_nothing(server: Running, sqs: Any) -> None:
    url = filled(server, sqs, "q.fifo", FifoQueue="true")
    assert len(received(sqs, url, MaxNumberOfMessages=10)) == LIMIT
    assert received(sqs, url) == []
    assert server.broker.queue("q.fifo").stats().in_flight == LIMIT


def test_what_a_long_poll_takes_counts(
    server: Running, sqs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Also if the queue was looked up anew while it waited."""
    monkeypatch.setattr(queues, "META_SECONDS", 0.0)
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    assert received(sqs, url) == []  # what is in flight is counted, and there is room
    polls = [server.connect() for _ in range(LIMIT)]
    for poll in polls:
        poll.sendall(poll_of(url))
        wait_until(lambda: is_read(poll))  # noqa: B023
    assert received(sqs, url) == []
    server.broker.queue("q").publish_many(map(str, range(LIMIT + 2)))
    for poll in polls:
        assert len(answered(poll)) == 1
        poll.close()
    with pytest.raises(sqs.exceptions.OverLimit):
        received(sqs, url)
    assert server.broker.queue("q").stats().in_flight == LIMIT


def test_what_is_taken_at_once_for_a_client_that_has_hung_up_goes_back(
    server: Running, sqs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    server.broker.queue("q").publish("x")
    looks, gone, took = threading.Event(), threading.Event(), threading.Event()
    receive = queues.SqsQueue.receive

    async def receive_late(queue: queues.SqsQueue, *given: Any) -> Any:
        looks.set()
        await asyncio.to_thread(gone.wait, PATIENCE)
        [taken] = await receive(queue, *given)
        took.set()
        return [taken]

    monkeypatch.setattr(queues.SqsQueue, "receive", receive_late)
    with server.connect() as poll:
        poll.sendall(poll_of(url))
        assert looks.wait(PATIENCE)
        others = len(server.connections) - 1  # boto3's
    wait_until(lambda: len(server.connections) == others)
    gone.set()
    assert took.wait(PATIENCE)
    wait_until(lambda: server.broker.queue("q").stats().ready == 1)
    monkeypatch.undo()
    [message] = received(sqs, url, AttributeNames=["ApproximateReceiveCount"])
    assert message["Attributes"] == {"ApproximateReceiveCount": "1"}, "it was not tried"


def test_a_purge_is_remembered_whatever_is_declared_meanwhile(server: Running, sqs: Any) -> None:
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    sqs.purge_queue(QueueUrl=url)
    for _ in range(2):
        server.broker.queue("another", max_attempts=server.broker.generation + 1)
        with pytest.raises(sqs.exceptions.PurgeQueueInProgress):
            sqs.purge_queue(QueueUrl=url)
    sqs.delete_queue(QueueUrl=url)
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    sqs.purge_queue(QueueUrl=url)  # of another queue with that name
