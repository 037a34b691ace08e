"""Exactly one result for each input: a transaction acks the input and publishes the result.

The worker is killed (SIGKILL) twice: before a transaction commits, and after it.  The first costs an
attempt: the word comes again.  The second costs nothing.  This holds within one store; for effects outside of
it see idempotent_consumer.py.

Prints:

    killed before the transaction: DELTA is not there
    killed after the transaction: FOXTROT is there
    words left: 0
    ALPHA BRAVO CHARLIE DELTA ECHO FOXTROT GOLF HOTEL
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path

import mq

WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]


def work(directory: Path, dies_at: str = "", dies: str = "") -> None:
    with mq.open(directory / "mq") as broker:
        words, capitals = broker.queue("words", type=str), broker.queue("capitals", type=str)

        @broker.consumer(words)
        def capitalize(word: mq.Delivery[str]) -> None:
            with broker.transaction() as transaction:
                transaction.publish(capitals, word.body.upper())
                transaction.ack(word)
                if (word.body, dies) == (dies_at, "before"):
                    os.kill(os.getpid(), signal.SIGKILL)
            if (word.body, dies) == (dies_at, "after"):
                os.kill(os.getpid(), signal.SIGKILL)

        broker.run(until_empty=True)


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:
        # What a killed process held comes again when both have passed; the defaults are 30 s and 1 s.
        words = broker.queue("words", type=str, visibility_timeout=0.2, backoff=mq.Backoff(initial=0.1))
        words.publish_many(WORDS)
        capitals = broker.queue("capitals", type=str)
        spawn = multiprocessing.get_context("spawn")
        for word, moment in [("delta", "before"), ("foxtrot", "after")]:
            worker = spawn.Process(target=work, args=(directory, word, moment))
            worker.start()
            worker.join()
            is_there = word.upper() in [result.body for result in capitals.peek(100)]
            print(f"killed {moment} the transaction: {word.upper()} is {'' if is_there else 'not '}there")
        work(directory)
        print("words left:", words.stats().ready)
        print(*sorted(result.body for result in capitals.peek(100)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
