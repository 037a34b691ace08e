"""Fan-out: one order goes to three services, each a process with its own retries.

The message is stored once and has one id in all three queues.  When shipping fails at first, only shipping
tries again; the others are done with it.

Prints:

    published once; in 3 queues: True
    billing: billed 2 lamps, attempt 1
    shipping: sent 2 lamps, attempt 2
    warehouse: reserved 2 lamps, attempt 1
"""

import multiprocessing
import sys
import tempfile
from pathlib import Path

import msgspec

import mq


class Order(msgspec.Struct):
    item: str
    count: int


SERVICES = {"warehouse": "reserved", "billing": "billed", "shipping": "sent"}


def serve(directory: Path, service: str) -> None:
    with mq.open(directory / "mq") as broker:

        @broker.consumer(service)
        def handle(message: mq.Delivery[Order]) -> None:
            if service == "shipping" and message.attempts == 1:
                raise mq.Retry(delay=0.1, reason="no carrier")
            done = f"{SERVICES[service]} {message.body.count} {message.body.item}"
            with broker.transaction() as transaction:
                transaction.publish("reports", f"{service}: {done}, attempt {message.attempts}")
                transaction.ack(message)

        broker.run(until_empty=True)


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:
        queues = [broker.queue(service, max_attempts=5) for service in SERVICES]
        for queue in queues:
            queue.subscribe("orders.placed")  # durable: services may start later
        id = broker.topic("orders.placed", type=Order).publish(Order("lamps", 2))
        print(f"published once; in 3 queues: {all(queue.get(id) for queue in queues)}")

        spawn = multiprocessing.get_context("spawn")
        services = [spawn.Process(target=serve, args=(directory, service)) for service in SERVICES]
        for process in services:
            process.start()
        for process in services:
            process.join()
        reports = broker.queue("reports", type=str).receive_many(10, timeout=0)
        print(*sorted(report.body for report in reports), sep="\n")
        broker.queue("reports").ack_many(reports)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
