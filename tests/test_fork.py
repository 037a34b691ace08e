"""A store does not cross a fork: the child's copy would write over what the parent writes."""

import os
from pathlib import Path

import pytest

import mq

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_child(work: object) -> int:
    """The exit status of a child that runs *work*: 0 if it raised Closed naming the fork."""
    pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
        except mq.Closed as error:
            os._exit(0 if "fork" in str(error) else 2)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_child_is_refused_and_the_parent_goes_on(tmp_path: Path) -> None:
    """P12: what a child would have published over is not lost."""
    with mq.open(tmp_path) as broker:
        queue = broker.queue("mail")
        queue.publish("before")
        assert in_child(lambda: queue.publish("in the child")) == 0
        assert in_child(lambda: queue.receive(timeout=0)) == 0
        queue.publish("after")
        assert [message.body for message in queue.peek()] == ["before", "after"]


def test_a_fork_while_the_lock_is_held_does_not_hang_the_child(tmp_path: Path) -> None:
    with mq.open(tmp_path) as broker:
        queue = broker.queue("mail")
        with broker._store.mutex:
            status = in_child(lambda: queue.publish("in the child"))
        assert status == 0


def test_a_child_that_lives_on_does_not_keep_the_store_locked(tmp_path: Path) -> None:
    broker = mq.open(tmp_path)
    broker.queue("mail").publish("one")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent is done
        os._exit(0)
    os.close(reader)
    broker.close()
    with mq.open(tmp_path) as again:
        assert again.queue("mail").stats().ready == 1
    os.close(writer)
    os.waitpid(pid, 0)


def test_closing_in_the_child_leaves_the_parent_alone(tmp_path: Path) -> None:
    with mq.open(tmp_path) as broker:
        queue = broker.queue("mail")

        def close_then_use() -> None:
            broker.close()
            queue.publish("in the child")

        assert in_child(close_then_use) == 0
        queue.publish("after")
        assert queue.stats().ready == 1
