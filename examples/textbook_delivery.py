"""Textbook classes on mq, in a few lines each: PubSub and DeadLetterQueue.

Subscribers of the textbooks are callbacks in one process.  Here each is a durable queue with a name: it gets
what was published while its program was down, and the callback is called again when it raises.

Prints:

    mailer got order 1
    mailer got order 2
    auditor got order 1
    auditor got order 2
    dead: {'two': "ValueError: invalid literal for int() with base 10: 'two'"}
    tried again: 1
    dead: {}
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import mq


class PubSub:
    def __init__(self, broker: mq.Broker) -> None:
        self._broker = broker

    def subscribe(self, topic: str, subscriber: str) -> None:
        self._broker.queue(subscriber).subscribe(topic)

    def publish(self, topic: str, event: str) -> None:
        self._broker.topic(topic).publish(event)

    def deliver(self, subscriber: str, callback: Callable[[str], object]) -> None:
        while message := self._broker.queue(subscriber, type=str).receive(timeout=0):
            with message:
                callback(message.body)


class DeadLetterQueue:
    def __init__(self, broker: mq.Broker, name: str, attempts: int) -> None:
        self._queue = broker.queue(name, type=str, max_attempts=attempts, backoff=mq.Backoff(initial=0))
        self._dead = broker.queue(f"{name}.dead", type=str)
        self.publish, self.retry_dead = self._queue.publish, self._dead.replay

    def process(self, handle: Callable[[str], object]) -> None:
        while message := self._queue.receive(timeout=0):
            with suppress(Exception), message:  # which nacks, with the exception as its reason
                handle(message.body)

    def dead(self) -> dict[str, str]:
        return {each.body: each.failures[-1].reason for each in self._dead.peek()}


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:
        events = PubSub(broker)
        for subscriber in ("mailer", "auditor"):
            events.subscribe("orders", subscriber)
        for event in ("order 1", "order 2"):
            events.publish("orders", event)
        for subscriber in ("mailer", "auditor"):
            events.deliver(subscriber, partial(print, subscriber, "got"))

        numbers = DeadLetterQueue(broker, "numbers", attempts=3)
        for number in ("1", "two"):
            numbers.publish(number)
        numbers.process(int)
        print("dead:", numbers.dead())
        print("tried again:", numbers.retry_dead())
        numbers.process(str)
        print("dead:", numbers.dead())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
