"""The servers of a cluster die, stop, lose each other and fill up under traffic: no promise breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
from scene import STORE, Scene
from servers import Cluster
from servers.node import until
from strikes import STREAM, STRIKES, isolate_the_leader, kill_the_leader, kill_workers, lose_answers

import mq


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "servers", links=True) as cluster:
        yield cluster


@pytest.fixture
def scene(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    notes = tmp_path / "notes"
    notes.mkdir()
    with Scene(cluster, notes, request.node.name) as scene:
        yield scene


# Each of the others takes 20 seconds more: `scripts/test tests/jetstream --thorough`.
FIRST = (kill_the_leader, isolate_the_leader, lose_answers, kill_workers)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "strike" in metafunc.fixturenames:
        strikes = STRIKES if metafunc.config.getoption("thorough") else FIRST
        metafunc.parametrize("strike", strikes, ids=lambda strike: strike.__name__)


def test_no_promise_breaks(scene: Scene, strike: Callable[[Scene], None]) -> None:
    """P1-P6, P12."""
    strike(scene)
    scene.goes_on()
    told = scene.end()
    assert len(told.told) > 40


def test_without_a_majority_calls_raise_and_then_go_on(
    cluster: Cluster, impatient: Callable[[], AbstractContextManager[None]]
) -> None:
    with mq.open(cluster.url(STORE)) as broker:
        queue = broker.queue("mail", visibility_timeout=5.0)
        first = queue.publish(b"one")
        down = cluster.followers(STREAM)
        for node in down:
            node.kill()
        for call in (lambda: queue.publish(b"two"), lambda: queue.receive(timeout=0)):
            begin = time.monotonic()
            with impatient(), pytest.raises(mq.StorageError) as caught:
                call()
            assert time.monotonic() - begin < 60
        for node in down:
            node.start()
        cluster.wait_ready()
        cluster.leader(STREAM)
        give_up, last = time.monotonic() + 60, None
        while last is None:  # what the members know of each other may take longer than a store's patience
            assert time.monotonic() < give_up
            with suppress(mq.StorageError):
                last = queue.publish(b"three")
        if isinstance(caught.value, mq.StoreFailed):  # it is open whether the message was taken
            until(lambda: next(iter(queue.peek(1))).id == first, "what was taken does not come back")
        there = [message.id for message in queue.peek(10)]
        assert there[0] == first
        assert there[-1] == last
        assert queue.receive(timeout=0) is not None
