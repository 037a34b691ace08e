"""A thread that has a turn reads what the stream delivers, and the loop does while no thread comes by."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from engines import PATIENCE
from logs import log_of
from servers.node import until

import mq
from mq.nats import arrivals as module
from mq.nats.arrivals import Arrivals
from mq.nats.log import StreamLog
from mq.nats.wire import READ_BYTES, Frame, Wire

Opens = Callable[..., mq.Broker]
# A wire that nobody reads hears no heartbeat either, and would be left.
pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture
def broker(opens: Opens) -> mq.Broker:
    """Its loop reads nothing."""
    broker = opens()
    broker.queue("q").publish("first")
    arrivals = log_of(broker).arrivals
    arrivals._is_read_by_others = lambda: True  # type: ignore[method-assign]
    until(lambda: arrivals._rest is not None, "the loop reads", PATIENCE)
    return broker


def publish(opens: Opens, broker: mq.Broker, *bodies: str) -> None:
    """By another process; the first one, at least, has come to this one, and nothing is read."""
    beside = opens()
    for body in bodies:
        beside.queue("q").publish(body)
    wire = log_of(broker).arrivals._wire
    assert wire

    def has_come() -> bool:
        """There may be a heartbeat in front."""
        with suppress(BlockingIOError):
            return bodies[0].encode() in wire.socket.recv(READ_BYTES, socket.MSG_PEEK)
        return False

    until(has_come, "it has not come", PATIENCE)


def test_a_turn_begins_with_what_has_come(
    opens: Opens, broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its append would meet a Conflict."""
    publish(opens, broker, "second")
    conflicts: list[StreamLog] = []
    monkeypatch.setattr(StreamLog, "_stand_back", conflicts.append)
    broker.queue("q").publish("third")
    assert not conflicts
    assert [each.body for each in broker.queue("q").peek(9)] == ["first", "second", "third"]


def test_a_thread_reads_what_it_waits_for(
    opens: Opens, broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Arrivals, "look", lambda self: None)
    publish(opens, broker, "second")
    broker.queue("q").publish("third")  # a Conflict: what is there is waited for
    assert [each.body for each in broker.queue("q").peek(9)] == ["first", "second", "third"]


def test_the_loop_reads_again_before_a_receiver_sleeps(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_AGAIN_SECONDS", 10 * PATIENCE)
    broker, beside = opens(), opens()
    queue = broker.queue("q")
    queue.publish("mine")
    until(lambda: log_of(broker).arrivals._rest is not None, "the loop reads", PATIENCE)
    first = queue.receive()
    assert first
    first.ack()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(queue.receive, PATIENCE)
        until(lambda: log_of(broker).arrivals._rest is None, "the loop does not read", PATIENCE)
        beside.queue("q").publish("theirs")
        found = second.result(PATIENCE)
    assert found
    assert found.body == "theirs"


def test_the_loop_reads_again_when_no_thread_does(opens: Opens) -> None:
    broker, beside = opens(), opens()
    broker.queue("q").publish("mine")
    beside.queue("q").publish("theirs")
    until(lambda: log_of(broker).seq == log_of(beside).seq, "it is not followed", PATIENCE)


@pytest.mark.parametrize("nth", [0, 2])  # the third one is the second part of a group
@pytest.mark.parametrize("behind", [False, True])
def test_a_thread_that_is_interrupted_as_it_reads_loses_nothing(
    opens: Opens, broker: mq.Broker, monkeypatch: pytest.MonkeyPatch, behind: bool, nth: int
) -> None:
    """Nor is anything there twice."""
    hear, heard = Arrivals._hear, []

    def interrupted(self: Arrivals, reply: str, *rest: Any) -> None:
        if self is not log_of(broker).arrivals or not reply:
            return hear(self, reply, *rest)
        heard.append(reply)
        if len(heard) != nth + 1:
            return hear(self, reply, *rest)
        if behind:
            last = self.last
            hear(self, reply, *rest)
            self.last = last
        raise KeyboardInterrupt

    publish(opens, broker, "second", "x" * 1_500_000, "fourth")
    monkeypatch.setattr(Arrivals, "_hear", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look(broker)
    read_on(broker, "second", "x" * 1_500_000, "fourth")


def test_bytes_that_an_interruption_loses_are_not_taken_for_damage(
    opens: Opens, broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came between the system's call and the next line: what follows does not begin where it seems to."""
    read, reads = Wire.read, []

    def interrupted(self: Wire) -> None:
        if self is not wire:
            return read(self)
        reads.append(self)
        if len(reads) == 1:
            self._read += self.socket.recv(200)
        elif len(reads) == 2:
            self.socket.recv(50)
            raise KeyboardInterrupt
        else:
            read(self)

    wire = log_of(broker).arrivals._wire
    publish(opens, broker, "x" * 1000, "third", "fourth")
    monkeypatch.setattr(Wire, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look(broker)
    read_on(broker, "x" * 1000, "third", "fourth")


def test_a_thread_that_reads_a_wire_as_the_loop_leaves_it_answers_nothing(
    opens: Opens, broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no loop in this thread that could."""
    publish(opens, broker, "second")
    arrivals, frame = log_of(broker).arrivals, Wire.frame
    wire, asked = arrivals._wire, [Frame(b"", b"how.far", b"", b"")]

    def leaving(self: Wire) -> Frame | None:
        if self is not wire or not asked:
            return frame(self)
        arrivals._wire = None  # as the loop does, before it waits for this thread
        return asked.pop()

    monkeypatch.setattr(Wire, "frame", leaving)
    arrivals.look()
    arrivals._wire = wire
    assert not asked and arrivals._telling is None
    read_on(broker, "second")


def test_without_another_thread_arrivals_come_over_the_loops_connection(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refused)
    broker, beside = opens(), opens()
    beside.queue("q").publish("theirs")
    assert [each.body for each in broker.queue("q").peek()] == ["theirs"]
    assert log_of(broker).arrivals._wire is None


def look(broker: mq.Broker) -> None:
    """Have this thread read, until it is interrupted."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        log_of(broker).arrivals.look()


def read_on(broker: mq.Broker, *bodies: object) -> None:
    """What is there in the end, with the loop."""
    del log_of(broker).arrivals._is_read_by_others  # type: ignore[method-assign]
    assert [each.body for each in broker.queue("q").peek(9)] == ["first", *bodies]
