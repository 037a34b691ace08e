"""What happens to a cluster and its crowd, each in a function, which returns once the crowd goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable

from crowd import SHORT
from scene import STORE, Scene
from servers.node import until

STREAM = f"mq_{STORE}"


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


def pause_workers(scene: Scene) -> None:
    """For longer than the visibility timeout of "lines": what they held is taken by others meanwhile."""
    paused = scene.chance.sample(list(scene.crowd), 2)
    for process in paused:
        process.send_signal(signal.SIGSTOP)
    scene.lasts(SHORT * 1.5)
    for process in paused:
        process.send_signal(signal.SIGCONT)


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
    restart_one_after_the_other, lose_answers, kill_workers, pause_workers, replace_a_member,
]  # fmt: skip
