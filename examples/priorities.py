"""Priority tasks: what matters most goes first, however long the backlog is.

Within one priority the oldest goes first.  A task that fails keeps its priority and its place.  A stream of
urgent tasks can keep the others waiting for ever; two queues, each with a worker of its own, cannot.

Prints:

    9 put out the fire
    5 call a customer
      no answer: again
    5 call a customer
    5 call another customer
    0 tidy the desk
    0 water the plants
"""

import sys
import tempfile
from pathlib import Path

import mq

LOW, NORMAL, URGENT = 0, 5, 9  # 0 to 255


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:
        tasks = broker.queue("tasks", type=str)
        tasks.publish("tidy the desk", priority=LOW)
        tasks.publish("water the plants", priority=LOW)
        tasks.publish("call a customer", priority=NORMAL)
        tasks.publish("call another customer", priority=NORMAL)
        tasks.publish("put out the fire", priority=URGENT)

        while task := tasks.receive(timeout=0):  # None when nothing is ready
            print(task.priority, task.body)
            if task.body == "call a customer" and task.attempts == 1:
                print("  no answer: again")
                task.nack(delay=0)  # by default after a backoff, during which later tasks overtake it
            else:
                task.ack()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
