"""The servers of a cluster die, stop, lose each other and fill up under traffic: no promise breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scene import STORE, Scene
from servers import Cluster
from strikes import STREAM, STRIKES

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


@pytest.mark.parametrize("strike", STRIKES, ids=lambda strike: strike.__name__)
def test_no_promise_breaks(scene: Scene, strike: Callable[[Scene], None]) -> None:
    """P1-P6, P12."""
    strike(scene)
    scene.goes_on()
    told = scene.end()
    assert len(told.told) > 40


def test_without_a_majority_calls_raise_and_then_go_on(cluster: Cluster, impatient: None) -> None:
    with mq.open(cluster.url(STORE)) as broker:
        queue = broker.queue("mail")
        first = queue.publish(b"one")
        down = cluster.followers(STREAM)
        for node in down:
            node.kill()
        for call in (lambda: queue.publish(b"two"), lambda: queue.receive(timeout=0), broker.stats):
            begin = time.monotonic()
            with pytest.raises(mq.StorageError):
                call()
            assert time.monotonic() - begin < 60
        for node in down:
            node.start()
        cluster.wait_ready()
        cluster.leader(STREAM)
        last = queue.publish(b"three")
        there = [message.id for message in queue.peek(10)]
        assert there[0] == first
        assert there[-1] == last
        assert queue.receive(timeout=0) is not None
