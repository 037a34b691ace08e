"""kill -9, many times: a publisher, then a consumer, then again; and what they were told holds.

Which operations they do follows from a seed; where in them the kill strikes, the kernel
decides.  So a failure names what broke, and a second run may strike elsewhere.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import noted
import pytest
from killed import QUEUES, body

import mq

ROUNDS = 10
PATIENCE = 300.0  # seconds in which a killed process must have written its share


class Ledger:
    """All that the killed processes noted, in order."""

    def __init__(self, lines: list[list[str]]) -> None:
        self.tried: list[tuple[str, list[int]]] = []  # queue and numbers of each publish
        self.told: dict[int, int] = {}  # number → id, of publishes that returned
        self.got: list[tuple[str, int, int, int]] = []  # queue, id, number, attempt
        self.acking: set[int] = set()
        self.acked: set[int] = set()
        self.revived: set[int] = set()  # delivered after their ack had returned
        self.altered = [line for line in lines if line[0] == "altered"]
        for verb, *words in lines:
            if verb == "try":
                self.tried.append((words[0], list(map(int, words[1:]))))
            elif verb == "told":
                self.told.update(
                    (int(number), int(id)) for number, id in (each.split(":") for each in words[1:])
                )
            elif verb == "got":
                id, number, attempt = map(int, words[1:])
                self.got.append((words[0], id, number, attempt))
                self.revived |= {id} & self.acked
            elif verb == "ack":
                self.acking.add(int(words[0]))
            elif verb == "acked":
                self.acked.add(int(words[0]))


def run_and_kill(job: str, path: Path, notes: Path, chance: random.Random, *more: object) -> None:
    """Let the process note some more lines, and kill it wherever it is then."""
    more_lines = chance.choice([1, 2, 3, 20, 100, 200])
    notes.touch()
    command = [
        sys.executable,
        Path(__file__).with_name("killed.py"),
        job,
        path,
        notes,
        chance.random(),
        *more,
    ]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    with process, notes.open("rb") as written:
        written.seek(0, os.SEEK_END)
        give_up = time.monotonic() + PATIENCE
        while more_lines > 0 and process.poll() is None and time.monotonic() < give_up:
            more_lines -= written.read().count(b"\n")
            time.sleep(0.0005)  # not for time to pass, but for the other process
        process.kill()
        _, errors = process.communicate()
    assert process.returncode == -9, f"{job} ended by itself:\n{errors}"
    assert more_lines <= 0, "too slow, or stuck"


def drain(path: Path) -> Iterator[tuple[str, mq.Delivery]]:
    """All that is left, at a time when every delay and timeout has passed."""
    with mq.open(path, clock=lambda: time.time() + 3600) as broker:
        for name in QUEUES:
            queue = broker.queue(name)
            for message in queue.receive_many(10**6, timeout=0, visibility_timeout=600):
                yield name, message
            assert queue.stats()[0] == queue.stats()[2] == 0


@pytest.fixture(scope="module")
def after(tmp_path_factory) -> tuple[Ledger, list[tuple[str, mq.Delivery]]]:
    base = tmp_path_factory.mktemp("kill")
    path, notes = base / "data", base / "notes"
    chance = random.Random("kill -9")
    first = 0
    for _ in range(ROUNDS):
        run_and_kill("publish", path, notes, chance, first)
        first = 1 + max(
            (number for _, numbers in Ledger(noted.read(notes)[0]).tried for number in numbers), default=-1
        )
        run_and_kill("consume", path, notes, chance)
    ledger = Ledger(noted.read(notes)[0])
    assert len(ledger.told) > 100
    assert len(ledger.acked) > 50
    return ledger, list(drain(path))


def seen(after: tuple[Ledger, list[tuple[str, mq.Delivery]]]) -> dict[int, set[int]]:
    """Number → the ids under which it was ever delivered."""
    ledger, left = after
    ids: dict[int, set[int]] = {}
    for _, id, number, _ in ledger.got:
        ids.setdefault(number, set()).add(id)
    for _, message in left:
        ids.setdefault(int(message.raw.partition(b":")[0]), set()).add(message.id)
    return ids


def test_what_was_published_is_there_until_it_is_acked(after):
    """P1."""
    ledger, left = after
    remaining = {message.id for _, message in left}
    lost = {number for number, id in ledger.told.items() if id not in remaining | ledger.acking}
    assert lost == set()


def test_what_was_acked_never_comes_back(after):
    """P2."""
    ledger, left = after
    assert ledger.revived == set()
    assert {message.id for _, message in left} & ledger.acked == set()


def test_nothing_is_invented_or_altered(after):
    """P3."""
    ledger, left = after
    assert ledger.altered == []
    tried = {(queue, number) for queue, numbers in ledger.tried for number in numbers}
    assert {(queue, number) for queue, _, number, _ in ledger.got} <= tried
    for queue, message in left:
        number = int(message.raw.partition(b":")[0])
        assert message.raw == body(queue, number)
        assert (queue, number) in tried


def test_a_publish_that_did_not_return_is_there_once_or_not_at_all(after):
    """P4, P6: and a batch whole or not at all."""
    ledger, _ = after
    ids = seen(after)
    assert {number: own for number, own in ids.items() if len(own) > 1} == {}
    assert {number: own for number, own in ids.items() if own != {ledger.told.get(number, *own)}} == {}
    torn = [numbers for _, numbers in ledger.tried if 0 < sum(each in ids for each in numbers) < len(numbers)]
    assert [numbers for numbers in torn if not set(numbers) <= ledger.told.keys()] == []


def test_messages_come_in_the_order_in_which_they_were_published(after):
    """P5."""
    ledger, left = after
    for name in QUEUES:
        ids = [message.id for queue, message in left if queue == name]
        assert ids == sorted(ids)
        numbers = [int(message.raw.partition(b":")[0]) for queue, message in left if queue == name]
        assert numbers == sorted(numbers)
        met: set[int] = set()
        firsts = [
            id
            for queue, id, _, attempt in ledger.got
            if queue == name and attempt == 1 and id not in met and not met.add(id)
        ]
        assert firsts == sorted(firsts)


def test_attempts_count_on(after):
    """A delivery that was told is counted, whatever killed the consumer."""
    ledger, left = after
    last: Counter[int] = Counter()
    for _, id, _, attempt in [*ledger.got, *((name, each.id, 0, each.attempts) for name, each in left)]:
        assert attempt >= max(1, last[id])
        last[id] = attempt
