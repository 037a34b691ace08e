"""Processes that share a topic, a schedule and a counter; each is killed, wherever it is, and replaced.

    publish   publishes to the topic, each message in a small group
    consume   receives from one of two queues that subscribe, and acks, nacks, releases or keeps
    start     makes a queue that starts in the past, with all that the topic retains
    idle      has the store open, and does nothing: only ticks come by it
    tend      publishes, consumes, counts by compare-and-set, and compacts

As in company.py, all are killed at once every so often, and what is left is held against what they noted.
The notes are one file: a line stands behind another one that it follows from.  So the order in each group
can be told: a message is received behind the try to ack the one before it.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import noted

import mq
from mq.storage import locks

from .company import NEVER, NUMBERS, Company
from .processes import Nursery
from .rounds import Broken, draw_fault
from .traffic import SEGMENT_BYTES, Fault, Notes, be_busy, body, meeting, number_of

TOPIC, QUEUES, BEATS = "news.today", ("mail", "jobs"), "beats"
GROUP = 4  # consecutive numbers are a group
EVERY_MS = 50  # between two ticks
RETAINED = 10**6  # more than there ever are
NAP_SECONDS = 0.05
STEPS = 20  # of a process that meets a fault


# ── what they do ───────────────────────────────────────────────────────────────────


def prepare(path: str) -> None:
    """What all rely on."""
    with mq.open(path, segment_bytes=SEGMENT_BYTES) as broker:
        broker.topic(TOPIC, retain_count=RETAINED)
        for name in QUEUES:
            broker.queue(name, visibility_timeout=NEVER).subscribe("news.*")
        broker.schedule("beat", BEATS, b"beat", every=EVERY_MS / 1000, missed="all")


class Worker:
    def __init__(self, notes: str, chance: random.Random, first: int) -> None:
        self._notes, self._chance, self._numbers = Notes(notes), chance, count(first)

    def use(self, broker: mq.Broker) -> None:
        self._broker, self._topic = broker, broker.topic(TOPIC)
        self._queues = [broker.queue(name) for name in QUEUES]

    def publish(self) -> None:
        number = next(self._numbers)
        self._notes.write("try", number)
        id = self._topic.publish(body(TOPIC, number), group=str(number // GROUP))
        self._notes.write("told", f"{number}:{id}")

    def consume(self) -> None:
        queue = self._chance.choice(self._queues)
        batch = queue.receive_many(
            self._chance.choice([1, 3, 8]), timeout=self._chance.choice([0, 0.01]),
            per_group=self._chance.choice([1, None]),
        )  # fmt: skip
        if batch:
            whole = all(each.raw == body(TOPIC, number_of(each.raw)) for each in batch)
            said = (f"{number_of(each.raw)}:{each.id}" for each in batch)
            self._notes.write("got" if whole else "altered", queue.name, *said)
        while batch:
            message, *batch = batch
            batch = self._settle(queue.name, message, batch)

    def _settle(
        self, queue: str, message: mq.Delivery[Any], others: list[mq.Delivery[Any]]
    ) -> list[mq.Delivery[Any]]:  # fmt: skip
        """Those of the *others* that are still held."""
        fate, number = self._chance.random(), number_of(message.raw)
        if fate < 0.8:
            self._notes.write("ack", queue, number)
            message.ack()
            self._notes.write("acked", queue, number)
        elif fate < 0.95:
            behind = [each for each in others if each.group == message.group]
            self._notes.write("back", queue, number, *(number_of(each.raw) for each in behind))
            message.nack(delay=0) if fate < 0.9 else message.release()
            return [each for each in others if each not in behind]
        return others  # it is held until the end

    def start(self) -> None:
        name = f"late-{next(self._numbers)}"
        self._notes.write("start", name)
        self._broker.queue(name).subscribe("news.#", since=0)
        self._notes.write("started", name)
        time.sleep(NAP_SECONDS)  # not for time to pass: such a queue takes room, and a few are enough

    def count(self) -> None:
        queue = self._queues[0]
        before = queue.meta().get("count")
        after = str(int(before or 0) + 1)
        self._notes.write("set", after)
        if queue.update_meta({"count": after}, expect={"count": before}):
            self._notes.write("won", after)

    def idle(self) -> None:
        time.sleep(NAP_SECONDS)  # not for time to pass, but for ticks


def work(path: str, notes: str, seed: str, role: str, first: int) -> None:
    """Without end."""
    be_busy()
    locks.LOCK_SECONDS = NEVER  # type: ignore[misc]  # there are too many of us for this machine, perhaps
    chance = random.Random(seed)
    worker = Worker(notes, chance, first)
    while True:
        spell(path, worker, chance, role, chance.choice([1, 5, 20, 10**9]))


def meet(path: str, notes: str, seed: str, role: str, first: int, fault: Fault) -> None:
    """A few steps, and a *fault* among them."""
    be_busy()
    chance = random.Random(seed)
    with suppress(mq.MqError), meeting(fault):
        spell(path, Worker(notes, chance, first), chance, role, STEPS)


def spell(path: str, worker: Worker, chance: random.Random, role: str, count: int) -> None:
    """So many steps, with the store open."""
    sync = chance.choice(["always", "never", "never", 0.005])
    with mq.open(path, sync=sync, segment_bytes=SEGMENT_BYTES) as broker:
        worker.use(broker)
        steps: list[Callable[[], object]] = {
            "publish": [worker.publish],
            "consume": [worker.consume],
            "start": [worker.start],
            "idle": [worker.idle],
            "tend": [worker.publish, worker.consume, worker.count] * 10 + [broker._store.maintenance.compact],
        }[role]
        for _ in range(count):
            chance.choice(steps)()


# ── what is there ──────────────────────────────────────────────────────────────────


def look(path: str, read_only: bool) -> dict[str, Any]:
    """By queue, and of what the topic retains: number, id, and whether the body is whole.

    Also the counter; and how many ticks there were by the schedule, and by the queue.  One that writes
    takes away the queues that started in the past.
    """
    broker = mq.open(path, read_only=read_only, segment_bytes=SEGMENT_BYTES)
    store = broker._store

    def ticks() -> tuple[int, int]:
        schedule = store.replica.state.calendar.get("beat").schedule
        beats = store.replica.state.named(BEATS)
        due = schedule.next - schedule.since
        return due - EVERY_MS, EVERY_MS * beats.totals.published if beats else 0

    names = [name for name in broker.queues() if name != BEATS]
    found = {
        "verdict": store.replica.verdict.value,
        "queues": {name: rows(everything(broker.queue(name))) for name in names},
        "retained": rows(broker.topic(TOPIC).history()),
        "count": int(broker.queue(QUEUES[0]).meta().get("count", 0)),
        "ticks": store.turn.look(ticks),
    }
    for name in names if not read_only else ():
        if name not in QUEUES:
            broker.queue(name).delete()
    broker.close()
    return found


def everything(queue: mq.Queue[Any]) -> Iterator[mq.Message[Any]]:
    for state in ("ready", "in_flight", "delayed"):
        yield from queue.peek(RETAINED, state=state)


def rows(messages: Iterator[mq.Message[Any]]) -> list[tuple[int, int, bool]]:
    return sorted(
        (number_of(each.raw), each.id, each.raw == body(TOPIC, number_of(each.raw))) for each in messages
    )


class Books:
    """What they noted, line by line."""

    def __init__(self, notes: str) -> None:
        self.tried: set[int] = set()
        self.told: set[int] = set()
        self.ids: dict[int, int] = {}
        self.got: list[tuple[int, str, list[int]]] = []  # the line's number, queue, numbers
        self.first_ack: dict[tuple[str, int], int] = {}  # by queue and number: the line's number
        self.times: dict[str, Counter[tuple[str, int]]] = {
            verb: Counter() for verb in ("got", "back", "acked")
        }
        self.started: set[str] = set()
        self.won: Counter[int] = Counter()
        self.set_last = 0
        self.wrong: list[str] = []
        for at, (verb, *words) in enumerate(noted.read(notes)[0]):
            self._take(at, verb, *words)

    def _take(self, at: int, verb: str, *words: str) -> None:
        if verb == "try":
            self.tried.add(int(words[0]))
        elif verb == "told":
            self.told.update(self._learn(words))
        elif verb == "got":
            queue, *pairs = words
            numbers = self._learn(pairs)
            self.got.append((at, queue, numbers))
            self.times["got"].update((queue, number) for number in numbers)
        elif verb == "altered":
            self.wrong.append(f"P3: one of {words} is not as it was published")
        elif verb == "ack":
            self.first_ack.setdefault((words[0], int(words[1])), at)
        elif verb in ("back", "acked"):
            self.times[verb].update((words[0], int(number)) for number in words[1:])
        elif verb == "started":
            self.started.add(words[0])
        elif verb == "set":
            self.set_last = max(self.set_last, int(words[0]))
        elif verb == "won":
            self.won[int(words[0])] += 1

    def _learn(self, pairs: Any) -> list[int]:
        numbers = []
        for pair in pairs:
            number, id = map(int, pair.split(":"))
            if self.ids.setdefault(number, id) != id:
                self.wrong.append(f"P3: {number} has the ids {id} and {self.ids[number]}")
            numbers.append(number)
        return numbers

    # ── the check ──────────────────────────────────────────────────────────────────

    def complaints(self, found: dict[str, Any], gone: set[str]) -> list[str]:
        """*gone*: queues that an earlier look took away."""
        wrong = [*self.wrong]
        retained = {number: id for number, id, _ in found["retained"]}
        for name, held in [("what is retained", found["retained"]), *found["queues"].items()]:
            here = [number for number, *_ in held]
            wrong += [
                f"P3: {number} (id {id}) in {name}" for number, id, whole in held
                if not whole or number not in self.tried or self.ids.get(number, id) != id
                or retained.get(number) != id
            ]  # fmt: skip
            if len(here) != len(set(here)):
                wrong.append(f"P6: a message is twice in {name}")
        if lost := self.told - retained.keys():
            wrong.append(f"P1: {sorted(lost)} are not retained")
        for name, held in found["queues"].items():
            acked = {number for queue, number in self.first_ack if queue == name}
            if missing := retained.keys() - acked - {number for number, *_ in held}:
                wrong.append(f"P4: {sorted(missing)} are retained, and not in {name}")
        if lost_queues := {*QUEUES, *self.started} - gone - found["queues"].keys():
            wrong.append(f"P1: {sorted(lost_queues)} subscribed, and are gone")
        wrong += self._settled(found)
        wrong += self._in_groups()
        by_schedule, by_queue = found["ticks"]
        if by_schedule != by_queue:
            wrong.append(f"ticks: of {by_schedule / EVERY_MS} there are {by_queue / EVERY_MS}")
        if twice := [number for number, times in self.won.items() if times > 1]:
            wrong.append(f"P12: {twice} won twice")
        if not max(self.won, default=0) <= found["count"] <= self.set_last:
            wrong.append(f"P1: {max(self.won)} won, {self.set_last} was tried, and {found['count']} is there")
        return wrong

    def _settled(self, found: dict[str, Any]) -> Iterator[str]:
        got, back, acked = self.times["got"], self.times["back"], self.times["acked"]
        if held := [each for each, times in got.items() if times > 1 + back[each]]:
            yield f"P12: {held} were held twice at once"
        if twice := [each for each, times in acked.items() if times > 1]:
            yield f"P12: {twice} were acked twice"
        there = {(name, number) for name in QUEUES for number, *_ in found["queues"].get(name, ())}
        if undone := acked.keys() & there:
            yield f"P2: {sorted(undone)} were acked and are there"

    def _in_groups(self) -> Iterator[str]:
        groups: dict[int, list[int]] = {}
        for number in self.ids:
            groups.setdefault(number // GROUP, []).append(number)
        for at, queue, numbers in self.got:
            for number in numbers:
                for other in groups[number // GROUP]:
                    older = self.ids[other] < self.ids[number] and other not in numbers
                    if older and self.first_ack.get((queue, other), at) >= at:
                        yield f"P5: in {queue!r}, {number} overtook {other} of its group"


# ── life and death ─────────────────────────────────────────────────────────────────


class Audience(Company):
    roles = ("publish", "consume", "start", "idle", "tend")
    job = "crash.real.audience:work"

    def __init__(self, nursery: Nursery, store: str, notes: str, seed: str) -> None:
        super().__init__(nursery, store, notes, seed)
        self._gone: set[str] = set()
        nursery.run("crash.real.audience:prepare", store)

    def fault_round(self) -> None:
        """One process meets a fault, and what it was told holds."""
        fault, role = draw_fault(self._chance), self._chance.choice(["publish", "start", "tend", "tend"])
        self._started += 1
        args = self.store, self.notes, f"{self.seed}/{self._started}", role, self._started * NUMBERS, fault
        self._nursery.start("crash.real.audience:meet", *args).killed_or_done()
        try:
            self._look()
        except Broken as error:
            raise Broken(f"{role}, {fault}\n{error}") from None

    def _look(self) -> None:
        seen = self._nursery.run("crash.real.audience:look", self.store, True)
        found = self._nursery.run("crash.real.audience:look", self.store, False)
        books = Books(self.notes)
        wrong = books.complaints(seen, self._gone) + books.complaints(found, self._gone)
        if any(seen[part] != found[part] for part in ("queues", "retained", "count")):
            wrong.append("P8: a reader and the next opening see different things")
        self._gone |= found["queues"].keys() - set(QUEUES)
        self._judge(found["verdict"], wrong)
