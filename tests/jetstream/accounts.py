"""What each process of the crowd was told, against what the store holds when all is over: by promise.

The notes of several processes are in no order that means anything, so what is checked needs none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import noted
from crowd import body, number_of

import mq

Held = dict[str, list[tuple[int, bool]]]
"""By queue: the number of each message, and whether it is as it was published."""

EVERYTHING = 10**6


def look(broker: mq.Broker) -> Held:
    """All that the store holds, in whatever state."""
    found: Held = {}
    for name in broker.queues():
        queue = broker.queue(name)
        states: tuple[mq.State, ...] = ("ready", "delayed", "in_flight")
        messages = [message for state in states for message in queue.peek(EVERYTHING, state=state)]
        numbers = [(number_of(each.raw), each.raw) for each in messages]
        found[name] = sorted((number, raw == body(number)) for number, raw in numbers)
    return found


class Accounts:
    def __init__(self, notes: Iterable[Path]) -> None:
        self.queues: dict[int, str] = {}
        self.groups: list[tuple[int, ...]] = []
        self.told: set[int] = set()
        self.times: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
        self.attempts: Counter[tuple[str, int, int]] = Counter()
        self.failures: Counter[str] = Counter()
        self.refused: set[int] = set()  # the call failed, and the outcome was not said to be open
        self._trying: tuple[int, ...] = ()
        self.slowest = 0.0
        self.ended = 0
        for path in notes:
            for verb, *words in noted.read(path)[0]:
                self._take(verb, *words)

    def _take(self, verb: str, *words: str) -> None:
        if verb == "failed":
            self.failures[f"{words[0]} {words[1]}"] += 1
            if words[0] in ("StorageError", "DiskFull") and words[1] == "publish":
                self.refused.update(self._trying)
        elif verb == "took":
            self.slowest = max(self.slowest, float(words[0]))
        elif verb == "end":
            self.ended += 1
        elif verb in ("try", "told"):
            self._publish(verb, words[0], tuple(map(int, words[1:])))
        elif verb not in ("open", "stale"):
            self.times[verb][words[0], int(words[1])] += 1
            if verb == "got":
                self.attempts[words[0], int(words[2]), int(words[3])] += 1

    def _publish(self, verb: str, queue: str, numbers: tuple[int, ...]) -> None:
        if verb == "told":
            self.told.update(numbers)
        else:
            self.groups.append(numbers)
            self._trying = numbers
            self.queues.update(dict.fromkeys(numbers, queue))

    def complaints(self, held: Held) -> list[str]:
        """The promises that are broken if the store *held* this in the end."""
        return [*self._bodies(held), *self._counts(held), *self._transactions(held), *self._holders()]

    def _bodies(self, held: Held) -> list[str]:
        wrong = [f"P7: nothing is damaged, and yet: {what}" for what in self.failures if "Corrupt" in what]
        wrong += [f"P3: {number} in {queue!r} was altered" for queue, number in self.times["altered"]]
        origin = {"done": "jobs"}
        return wrong + [
            f"P3: {number} in {queue!r} is not as it was published, or never was"
            for queue, messages in held.items()
            for number, whole in messages
            if not whole or self.queues.get(number) != origin.get(queue, queue)
        ]

    def _counts(self, held: Held) -> list[str]:
        wrong = []
        here = Counter(number for messages in held.values() for number, _ in messages)
        gone = {number for _, number in self.times["ack"]}
        if lost := self.told - here.keys() - gone:
            wrong.append(f"P1: {sorted(lost)} returned from publish and are gone")
        acked = {number for queue, number in self.times["acked"]}
        if undone := acked & here.keys():
            wrong.append(f"P2: {sorted(undone)} were acked and are there")
        if doubled := sorted(number for number, count in here.items() if count > 1):
            wrong.append(f"P6: {doubled} are there twice")
        if there := self.refused & (here.keys() | gone):
            wrong.append(f"P6: {sorted(there)} were refused, and are there")
        for group in self.groups:
            parts = [number in here or number in gone for number in group]
            if any(parts) and not all(parts):
                wrong.append(f"P4: of {group} only a part is there")
        return wrong

    def _transactions(self, held: Held) -> list[str]:
        """A job is done, or it is there, and never both."""
        jobs, done = ({number for number, _ in held.get(name, ())} for name in ("jobs", "done"))
        wrong = [f"P4: {number} was carried and is not done" for _, number in self.times["carried"]
                 if number not in done]  # fmt: skip
        return wrong + [f"P4: {number} is done, and not acked" for number in sorted(jobs & done)]

    def _holders(self) -> list[str]:
        got, back = self.times["got"], self.times["back"]
        wrong = [
            f"P12: {number} in {queue!r} was held twice at once"
            for (queue, number), count in got.items()
            if queue != "lines" and count > 1 + back[queue, number]
        ]
        # Nothing is released to "lines", so each delivery there is another attempt.
        wrong += [
            f"P12: attempt {attempt} at message {id} in {queue!r} was given to two"
            for (queue, id, attempt), count in self.attempts.items()
            if queue == "lines" and count > 1
        ]
        return wrong + [
            f"P12: {number} in {queue!r} was acked twice"
            for (queue, number), count in self.times["acked"].items()
            if count > 1
        ]
