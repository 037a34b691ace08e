"""The servers of a cluster die, stop, lose each other and fill up under traffic: no promise breaks."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scene import STORE, Scene
from servers import Cluster
from servers.node import until

import mq

STREAM = f"mq_{STORE}"


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


def kill_the_leader(scene: Scene) -> None:
    leader = scene.cluster.leader(STREAM)
    leader.kill()
    scene.goes_on()
    leader.start()


def kill_a_follower(scene: Scene) -> None:
    follower = scene.cluster.followers(STREAM)[0]
    follower.kill()
    scene.goes_on()
    follower.start()


def kill_all(scene: Scene) -> None:
    scene.cluster.kill_all()
    scene.cluster.start_all()


def pause_the_leader(scene: Scene) -> None:
    leader = scene.cluster.leader(STREAM)
    leader.pause()
    scene.goes_on()
    leader.resume()


def pause_the_followers(scene: Scene) -> None:
    """What is published meanwhile is with the leader alone, for longer than a request waits."""
    followers = scene.cluster.followers(STREAM)
    for follower in followers:
        follower.pause()
    scene.lasts(3.0)
    for follower in followers:
        follower.resume()


def isolate_the_leader(scene: Scene) -> None:
    """Its clients still reach it, and it answers them as if it were the leader."""
    scene.cluster.isolate(scene.cluster.leader(STREAM))
    scene.goes_on()
    scene.cluster.heal()


def restart_one_after_the_other(scene: Scene) -> None:
    for _ in scene.cluster.roll():
        scene.goes_on()


def lose_answers(scene: Scene) -> None:
    """What a client sent has come, and it is not told so: the answer is held, and its connection ends."""
    for _ in range(3):
        for node in scene.cluster:
            door = scene.cluster.door(node)
            door.hold("down")
            scene.lasts(0.05)
            door.reset()
        scene.goes_on(10)


def kill_workers(scene: Scene) -> None:
    for _ in range(8):
        scene.kill_one()
        scene.goes_on(scene.chance.choice([3, 10, 20]))


def replace_a_member(scene: Scene) -> None:
    """A fourth server takes the place of the leader, which leaves for good."""
    cluster = scene.cluster
    leader, new = cluster.leader(STREAM), cluster.add()
    cluster.wait_ready()
    cluster.ask(f"STREAM.PEER.REMOVE.{STREAM}", {"peer": leader.name})
    until(lambda: cluster.holders(STREAM) == {*cluster.nodes} - {leader.name}, "the stream does not move")
    scene.goes_on()
    leader.stop()
    cluster.forget(leader)
    assert new.running


STRIKES: list[Callable[[Scene], None]] = [
    kill_the_leader, kill_a_follower, kill_all, pause_the_leader, pause_the_followers, isolate_the_leader,
    restart_one_after_the_other, lose_answers, kill_workers, replace_a_member,
]  # fmt: skip


@pytest.mark.parametrize("strike", STRIKES, ids=lambda strike: strike.__name__)
def test_no_promise_breaks(scene: Scene, strike: Callable[[Scene], None]) -> None:
    """P1-P6, P12."""
    strike(scene)
    scene.goes_on()
    told = scene.end()
    assert len(told.told) > 40


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds until the store gives up on servers that do not answer."""
    seconds = 1.0
    importlib.import_module("mq.nats.store")
    for name, module in list(sys.modules.items()):
        if name.startswith("mq.nats.") and hasattr(module, "PATIENCE_SECONDS"):
            monkeypatch.setattr(module, "PATIENCE_SECONDS", seconds)
    return seconds


def test_without_a_majority_calls_raise_and_then_go_on(cluster: Cluster, impatient: float) -> None:
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
