"""Textbook classes on mq, in a few lines each: SimpleQueue, TaskQueue and PriorityScheduler.

They are durable, and any number of processes may share them.  `get` and `dequeue` ack before the caller has
done anything, as in the textbooks: an item is lost if the caller dies with it.  `with queue.receive() as
message:` acks when the work is done.

Prints:

    SimpleQueue: first second, empty: True
    TaskQueue: 2 a b None 0
    PriorityScheduler: urgent normal low
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import mq


class SimpleQueue:
    def __init__(self, broker: mq.Broker, name: str) -> None:
        self._queue = broker.queue(name, type=str)

    def put(self, item: str) -> None:
        self._queue.publish(item)

    def get(self) -> str:
        with self._queue.receive() as message:  # waits until there is one
            return message.body

    def empty(self) -> bool:
        return self._queue.join(timeout=0)


class TaskQueue:
    def __init__(self, broker: mq.Broker, name: str) -> None:
        self._queue = broker.queue(name, type=str)

    def enqueue(self, task: str) -> int:
        return self._queue.publish(task)

    def dequeue(self, timeout: float = 0) -> str | None:
        if message := self._queue.receive(timeout):
            with message:
                return message.body
        return None

    def __len__(self) -> int:
        return self._queue.stats().ready


class PriorityScheduler:
    def __init__(self, broker: mq.Broker, name: str) -> None:
        self._queue = broker.queue(name, type=str, max_attempts=3)

    def schedule(self, task: str, priority: int = 0, delay: float = 0) -> int:
        return self._queue.publish(task, priority=priority, delay=delay)

    def run_pending(self, execute: Callable[[str], object]) -> None:
        while task := self._queue.receive(timeout=0):
            with task:
                execute(task.body)


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:
        queue = SimpleQueue(broker, "simple")
        for item in ("first", "second"):
            queue.put(item)
        print(f"SimpleQueue: {queue.get()} {queue.get()}, empty: {queue.empty()}")

        tasks = TaskQueue(broker, "tasks")
        for task in "ab":
            tasks.enqueue(task)
        print("TaskQueue:", len(tasks), tasks.dequeue(), tasks.dequeue(), tasks.dequeue(), len(tasks))

        scheduler, done = PriorityScheduler(broker, "scheduled"), list[str]()
        for priority, task in enumerate(["low", "normal", "urgent"]):
            scheduler.schedule(task, priority)
        scheduler.run_pending(done.append)
        print("PriorityScheduler:", *done)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
