"""Four processes share a store; each of them is killed, wherever it is, and replaced; the others go on.

    publish   publishes, one message or a batch
    consume   receives, and acks, nacks, releases, or keeps
    tend      does both, and compacts
    visit     opens the store, does both for a moment, and closes it

Every so often all four are killed at once, and what is left is held against what they
noted.  Notes of several processes are in no order that means anything; so what is checked
needs none.  A visibility timeout outlives every run: a message that was received again
was given back before, by its holder, or it was held twice.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import noted

import mq
from mq.storage import locks

from .ledger import Found
from .processes import Child, Nursery
from .rounds import Broken
from .traffic import QUEUES, SEGMENT_BYTES, Notes, be_busy, body, number_of

NUMBERS = 1_000_000  # for each process: what it publishes is numbered from its own multiple of this
NEVER = 3600.0
ROLES = ("publish", "consume", "tend", "visit")
KILLS_BETWEEN_LOOKS = 8


# ── what they do ───────────────────────────────────────────────────────────────────


class Worker:
    def __init__(self, notes: str, chance: random.Random, first: int) -> None:
        self._notes, self._chance, self._number = Notes(notes), chance, first
        self._queues: list[mq.Queue[Any]] = []

    def use(self, broker: mq.Broker) -> None:
        self._queues = [broker.queue(name, visibility_timeout=NEVER) for name in QUEUES]

    def publish(self) -> None:
        queue, count = self._chance.choice(self._queues), self._chance.choice([1, 1, 1, 2, 5])
        numbers = range(self._number, self._number + count)
        self._number += count
        bodies = [body(queue.name, each) for each in numbers]
        self._notes.write("try", queue.name, *numbers)
        if count > 1:
            queue.publish_many(bodies)
        else:
            queue.publish(bodies[0])
        self._notes.write("told", queue.name, *numbers)

    def consume(self) -> None:
        queue = self._chance.choice(self._queues)
        for message in queue.receive_many(
            self._chance.choice([1, 1, 3]), timeout=self._chance.choice([0, 0, 0.01])
        ):
            number = number_of(message.raw)
            whole = message.raw == body(queue.name, number)
            self._notes.write("got" if whole else "altered", queue.name, number)
            fate = self._chance.random()
            if fate < 0.85:
                self._notes.write("ack", queue.name, number)
                message.ack()
                self._notes.write("acked", queue.name, number)
            elif fate < 0.97:
                self._notes.write("back", queue.name, number)
                if fate < 0.91:
                    message.nack(delay=0)
                else:
                    message.release()
            # else: it is held until the end


def work(path: str, notes: str, seed: str, role: str, first: int) -> None:
    """Without end."""
    be_busy()
    locks.LOCK_SECONDS = NEVER  # type: ignore[misc]  # there are too many of us for this machine, perhaps
    chance = random.Random(seed)
    worker = Worker(notes, chance, first)
    while True:
        sync = chance.choice(["always", "never", "never", 0.005])
        with mq.open(path, sync=sync, segment_bytes=SEGMENT_BYTES) as broker:
            worker.use(broker)
            steps: list[Callable[[], None]] = {
                "publish": [worker.publish],
                "consume": [worker.consume],
                "tend": [worker.publish, worker.consume, worker.consume] * 10
                + [broker._store.maintenance.compact],
                "visit": [worker.publish, worker.consume, worker.consume],
            }[role]
            for _ in range(chance.choice([1, 5, 20]) if role == "visit" else 10**9):
                chance.choice(steps)()


# ── what they were told, and what is there ─────────────────────────────────────────


class Accounts:
    """What each process was told; the order does not matter."""

    def __init__(self, notes: str) -> None:
        self.groups: list[tuple[int, ...]] = []
        self.told: set[int] = set()
        self.times: dict[str, Counter[int]] = {
            verb: Counter() for verb in ("got", "back", "ack", "acked", "altered")
        }
        self.queues: dict[int, str] = {}
        for verb, *words in noted.read(notes)[0]:
            self._take(verb, *words)

    def _take(self, verb: str, queue: str, *words: str) -> None:
        numbers = tuple(map(int, words))
        if verb == "try":
            self.groups.append(numbers)
            self.queues.update(dict.fromkeys(numbers, queue))
        elif verb == "told":
            self.told.update(numbers)
        else:
            self.times[verb].update(numbers)

    def complaints(self, found: Found) -> list[str]:
        got, back, ack = self.times["got"], self.times["back"], self.times["ack"]
        rows = [(queue, *row) for queue, held in found["queues"].items() for row in held["messages"]]
        here = Counter(number for _, number, *_ in rows)
        wrong = [f"P3: {number} is not as it was published" for number in self.times["altered"]]
        wrong += [
            f"P3: {number} in {queue!r} is not as it was published, or never was"
            for queue, number, _, _, whole in rows
            if not whole or self.queues.get(number) != queue
        ]
        if lost := self.told - here.keys() - ack.keys():
            wrong.append(f"P1: {sorted(lost)} returned from publish and are gone")
        if undone := self.times["acked"].keys() & here.keys():
            wrong.append(f"P2: {sorted(undone)} were acked and are there")
        if doubled := [number for number, count in here.items() if count > 1]:
            wrong.append(f"P6: {doubled} are there twice")
        if held := [number for number, count in got.items() if count > 1 + back[number]]:
            wrong.append(f"P12: {held} were held twice at once")
        if twice := [number for number, count in self.times["acked"].items() if count > 1]:
            wrong.append(f"P12: {twice} were acked twice")
        for group in self.groups:
            parts = [number in here or number in ack for number in group]
            if any(parts) and not all(parts):
                wrong.append(f"P4: of {group} only a part is there")
        return wrong


# ── life and death ─────────────────────────────────────────────────────────────────


class Company:
    roles: tuple[str, ...] = ROLES
    job = "crash.real.company:work"

    def __init__(self, nursery: Nursery, store: str, notes: str, seed: str) -> None:
        self._nursery, self.store, self.notes, self.seed = nursery, store, notes, seed
        self._chance = random.Random(seed)
        self._started = 0
        self.kills = self.cuts = self.looks = 0
        self.verdicts: Counter[str] = Counter()

    def round(self) -> None:
        """Some die alone, then all at once; what is left is what they were told."""
        living = [self._start(role) for role in self.roles]
        for _ in range(KILLS_BETWEEN_LOOKS):
            place = self._chance.randrange(len(living))
            self._until_noted(living)
            self._kill(living[place])
            living[place] = self._start(self.roles[place])
        self._until_noted(living)
        for child in self._chance.sample(living, len(living)):
            self._kill(child)
        self._look()

    def _start(self, role: str) -> Child:
        self._started += 1
        args = self.store, self.notes, f"{self.seed}/{self._started}", role, self._started * NUMBERS
        return self._nursery.start(self.job, *args)

    def _until_noted(self, living: list[Child]) -> None:
        """Some more was done, by any process; all live."""
        goal = self._size() + self._chance.choice([20, 200, 2000])
        living[0].until(lambda: self._size() >= goal or not all(child.running() for child in living))
        for child in living:
            if not child.running():
                child.result()  # why it did not

    def _size(self) -> int:
        return os.path.getsize(self.notes) if os.path.exists(self.notes) else 0

    def _kill(self, child: Child) -> None:
        child.kill()
        child.killed_or_done()
        self.kills += 1

    def _look(self) -> None:
        seen = self._nursery.run("crash.real.traffic:look", self.store, True, True)
        found = self._nursery.run("crash.real.traffic:look", self.store, False, True)
        wrong = Accounts(self.notes).complaints(found)
        if {name: held["messages"] for name, held in seen["queues"].items()} != {
            name: held["messages"] for name, held in found["queues"].items()
        }:
            wrong.append("P8: a reader and the next opening see different messages")
        self._judge(found["verdict"], wrong)

    def _judge(self, verdict: str, wrong: list[str]) -> None:
        self.looks += 1
        self.verdicts[verdict] += 1
        if verdict not in ("open", "clean", "torn"):
            wrong.append(f"P9: the verdict is {verdict}, and only processes were killed")
        if wrong:
            raise Broken(f"seed {self.seed!r}, the store is {self.store}\n" + "\n".join(wrong))
