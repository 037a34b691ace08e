"""The two processes that test_kill.py kills: each notes in a side file what the store told it.

    python killed.py publish STORE NOTES SEED FIRST
    python killed.py consume STORE NOTES SEED

Before a call goes the intention, after it the answer:

    open
    try mail 12 13                      told mail 12:9071 13:9153        number:id
    got mail 9071 12 1                  id, number, attempt
    ack 9071                            acked 9071
    idle                                nothing was ready
"""

from __future__ import annotations

import random
import sys

from noted import Notes

import mq

QUEUES = ("mail", "jobs")


def body(queue: str, number: int) -> bytes:
    """Follows from queue and number, so that an altered or misplaced one is told apart."""
    return f"{number}:{queue}:".encode() + random.Random(number).randbytes(number * 7919 % 700)


def open_store(path: str, chance: random.Random) -> mq.Broker:
    return mq.open(path, sync=chance.choice(["always", 0.005, "never"]), segment_bytes=16 << 10)


def publish(path: str, notes: Notes, chance: random.Random, number: int) -> None:
    with open_store(path, chance) as broker:
        notes.write("open")
        queues = [broker.queue(name, visibility_timeout=0.05) for name in QUEUES]
        while True:
            queue, count = chance.choice(queues), chance.choice([1, 1, 1, 2, 5])
            numbers = range(number, number + count)
            number += count
            bodies = [body(queue.name, each) for each in numbers]
            notes.write("try", queue.name, *numbers)
            ids = queue.publish_many(bodies) if count > 1 else [queue.publish(bodies[0])]
            told = (f"{number}:{id}" for number, id in zip(numbers, ids, strict=True))
            notes.write("told", queue.name, *told)


def consume(path: str, notes: Notes, chance: random.Random) -> None:
    with open_store(path, chance) as broker:
        notes.write("open")
        queues = [broker.queue(name) for name in QUEUES]
        while True:
            queue = chance.choice(queues)
            messages = queue.receive_many(chance.choice([1, 1, 3]), timeout=0.005)
            if not messages:
                notes.write("idle")
            for message in messages:
                number = int(message.raw.partition(b":")[0])
                verb = "got" if message.raw == body(queue.name, number) else "altered"
                notes.write(verb, queue.name, message.id, number, message.attempts)
                try:
                    settle(message, notes, chance.random())
                except mq.StaleReceipt:
                    notes.write("stale", message.id)


def settle(message: mq.Delivery[object], notes: Notes, fate: float) -> None:
    if fate < 0.7:
        notes.write("ack", message.id)
        message.ack()
        notes.write("acked", message.id)
    elif fate < 0.8:
        message.release()
    elif fate < 0.9:
        message.nack(delay=0.01)
    # else: its visibility timeout will pass


if __name__ == "__main__":
    job, path, notes, seed, *rest = sys.argv[1:]
    if job == "publish":
        publish(path, Notes(notes), random.Random(seed), int(rest[0]))
    else:
        consume(path, Notes(notes), random.Random(seed))
