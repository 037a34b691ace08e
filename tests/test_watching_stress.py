"""Event loops that only ever receive when their watch was notified: no message may lie.

The listener's look, each second, would make up for a lost wake-up: it is put off, so that one shows.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import mq
import mq.engine.listener
from mq.engine.watching import Watcher

pytestmark = pytest.mark.file_store

PATIENCE = 240.0  # seconds after which a test that hangs has failed
LIES_SECONDS = 60.0  # then a message that nobody has taken lies, and has failed the test
LOOPS = 6


@pytest.fixture(autouse=True)
def nothing_makes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mq.engine.listener, "HEARTBEAT_SECONDS", 10 * PATIENCE)


class Fickle:
    """A watch whose program goes away when it is notified, and takes nothing."""

    def __init__(self, broker: mq.Broker, queues: list[mq.Queue[Any]], how: int) -> None:
        self._elsewhere, self._how = broker.queue("elsewhere"), how
        self.watch = broker.watch(self._leave)
        self.watch.arm(queues)

    def _leave(self) -> None:
        with suppress(mq.Closed):
            if self._how == 0:
                self.watch.close()
            else:
                self.watch.arm([self._elsewhere])


class Loop(threading.Thread):
    """An event loop of its own, which looks when it is notified, or when something falls due.

    Beside it, and before it in the line, there are always some that take nothing.
    """

    def __init__(self, broker: mq.Broker, queues: list[mq.Queue[Any]], seed: int) -> None:
        super().__init__(daemon=True)
        self._broker, self._queues, self._chance = broker, queues, random.Random(seed)
        self._awake, self.ids, self.ends, self.error = threading.Event(), [], False, None
        self.start()

    def run(self) -> None:
        watch, held = self._broker.watch(self._awake.set), []
        try:
            while not self.ends:
                self._awake.clear()
                fickle = [Fickle(self._broker, self._queues, n) for n in range(2)]
                held += fickle
                seconds = watch.arm(self._queues)
                if seconds:
                    self._awake.wait(None if seconds == math.inf else seconds)
                how = self._chance.random()
                if how < 0.2:
                    watch.close()
                elif how < 0.3:
                    watch = self._broker.watch(self._awake.set)  # the other one is forgotten
                elif how < 0.5:
                    continue  # it does not take what it was notified of: it may have been in vain
                self._take(self._chance.choice([1, 3, 100]))
        except mq.Closed:
            pass
        except BaseException as error:
            self.error = error
            raise

    def _take(self, limit: int) -> None:
        for queue in self._queues:
            for message in queue.receive_many(limit, timeout=0):
                if self._chance.random() < 0.1:
                    message.release()
                else:
                    message.ack()
                    self.ids.append(message.id)

    def end(self) -> None:
        self.ends = True
        self._awake.set()


def publish(queues: list[mq.Queue[Any]], count: int, seed: int) -> list[int]:
    """So many messages; now and then it waits until all are taken, so that the loops go to sleep."""
    chance, ids = random.Random(seed), []
    while len(ids) < count:
        queue = chance.choice(queues)
        how = chance.random()
        if how < 0.1:
            ids += queue.publish_many([b"x"] * chance.randrange(1, 5))
        elif how < 0.2:
            ids.append(queue.publish(b"x", delay=0.001))
        else:
            ids.append(queue.publish(b"x"))
        if chance.random() < 0.2 and not queue.join(timeout=LIES_SECONDS):
            break
    return ids


def empty(queues: list[mq.Queue[Any]]) -> bool:
    return all(queue.join(timeout=LIES_SECONDS) for queue in queues)


def loops_take_all(broker: mq.Broker, count: int) -> bool:
    queues = [broker.queue(name) for name in ("a", "b", "c")]
    loops = [Loop(broker, queues if n % 2 else queues[n % 3 :], n) for n in range(LOOPS)]
    ids: list[int] = []
    threads = [
        threading.Thread(target=lambda seed=seed: ids.extend(publish(queues, count, seed)))
        for seed in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    is_empty = empty(queues)
    for loop in loops:
        loop.end()
    for loop in loops:
        loop.join(PATIENCE)
    assert not any(loop.error for loop in loops)
    return is_empty and sorted(id for loop in loops for id in loop.ids) == sorted(ids)


@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "shared"])
def test_loops_of_one_process_take_all_that_its_threads_publish(tmp_path: Path, exclusive: bool) -> None:
    with mq.open(tmp_path / "s", sync="never", exclusive=exclusive) as broker:
        assert loops_take_all(broker, 1000)


def test_a_wake_up_that_is_not_handed_on_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above is worth."""
    monkeypatch.setattr(Watcher, "pass_on", lambda *args: None)
    monkeypatch.setattr("test_watching_stress.LIES_SECONDS", 2.0)
    with mq.open(tmp_path / "s", sync="never") as broker:
        assert not all(loops_take_all(broker, 300) for _ in range(20))


def worker(path: Path, seed: int, pipe: Connection) -> None:
    mq.engine.listener.HEARTBEAT_SECONDS = 10 * PATIENCE
    with mq.open(path, sync="never") as broker:
        queues = [broker.queue(name) for name in ("a", "b", "c")]
        loops = [Loop(broker, queues, 10 * seed + n) for n in range(3)]
        pipe.send("ready")
        pipe.recv()
        pipe.send(publish(queues, 300, seed))
        pipe.recv()
        for loop in loops:
            loop.end()
            loop.join(PATIENCE)
        assert not any(loop.error for loop in loops)
        pipe.send([id for loop in loops for id in loop.ids])


def test_loops_of_several_processes_take_all_that_any_of_them_publishes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    with mq.open(tmp_path / "s", sync="never") as broker:
        queues = [broker.queue(name) for name in ("a", "b", "c")]
        for seed in range(3):
            here, there = context.Pipe()
            process = context.Process(target=worker, args=(tmp_path / "s", seed, there), daemon=True)
            process.start()
            pipes.append(here)
            processes.append(process)
        assert [pipe.recv() for pipe in pipes] == ["ready"] * 3
        for pipe in pipes:
            pipe.send("go")
        ids = publish(queues, 300, 99)
        for pipe in pipes:
            ids += pipe.recv()
        assert empty(queues)
        for pipe in pipes:
            pipe.send("end")
        assert sorted(id for pipe in pipes for id in pipe.recv()) == sorted(ids)
        for process in processes:
            process.join(PATIENCE)
            assert process.exitcode == 0
