"""Poison messages: after three failures to the dead letters; look there, mend the program, replay.

The good payments are not held up.  Nothing is lost: a dead letter keeps its body and the reason of each
failure.  The traceback of each failure goes to the log (the logger "mq.worker"), which this example turns
off.

Prints:

    paid 5.00
    paid 7.25
    dead: b'12,50' failed 3 times: ValueError: could not convert string to float: b'12,50'
    replayed: 1
    paid 12.50
    dead letters left: 0
"""

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import mq


def parse(amount: bytes) -> float:
    return float(amount)


def parse_better(amount: bytes) -> float:
    return float(amount.replace(b",", b"."))


def work(directory: Path, parse: Callable[[bytes], float]) -> None:
    """One deployment of the worker."""
    with mq.open(directory / "mq") as broker:

        @broker.consumer("payments")
        def pay(amount: bytes) -> None:
            print(f"paid {parse(amount):.2f}")

        broker.run(until_empty=True)


def main(directory: Path) -> None:
    logging.getLogger("mq.worker").disabled = True
    with mq.open(directory / "mq") as broker:
        backoff = mq.Backoff(initial=0.05)  # 0.05 s, then 0.1 s; by default 1 s, then 2 s …
        payments = broker.queue("payments", max_attempts=3, backoff=backoff)
        payments.publish_many([b"5.00", b"12,50", b"7.25"])
        work(directory, parse)

        dead_letters = broker.queue("payments.dead")
        for dead in dead_letters.peek():
            print(f"dead: {dead.raw!r} failed {len(dead.failures)} times: {dead.failures[-1].reason}")

        print("replayed:", dead_letters.replay())  # back to where they died, and tried three times again
        work(directory, parse_better)
        print("dead letters left:", dead_letters.stats().ready)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
