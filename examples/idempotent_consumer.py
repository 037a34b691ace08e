"""An idempotent consumer: the message comes twice, the money moves once.

Delivery is at least once.  A worker that dies between its work and the ack gets the message again.  So the
database that has the work also notes which message it was for, in the same transaction.  The worker below is
killed (SIGKILL) at the worst moment.

Prints:

    attempt 1: 30 moved to bob
    killed by SIGKILL before the ack
    attempt 2: already done
    bob has 30
"""

import multiprocessing
import os
import signal
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec

import mq


class Transfer(msgspec.Struct):
    to: str
    amount: int


def move(accounts: sqlite3.Connection, key: tuple[str, int], transfer: Transfer) -> bool:
    """Whether it was done now; False: it was done already."""
    with accounts:  # one transaction of SQLite
        noted = accounts.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", key)
        if noted.rowcount == 1:
            update = "UPDATE account SET balance = balance + ? WHERE name = ?"
            accounts.execute(update, (transfer.amount, transfer.to))
    return noted.rowcount == 1


def work(directory: Path, dies: bool) -> None:
    with mq.open(directory / "mq") as broker, closing(sqlite3.connect(directory / "accounts.db")) as accounts:
        transfers = broker.queue("transfers", type=Transfer)
        with transfers.receive() as message:
            transfer, key = message.body, (broker.store_id, message.id)
            done = move(accounts, key, transfer)
            result = f"{transfer.amount} moved to {transfer.to}" if done else "already done"
            print(f"attempt {message.attempts}: {result}", flush=True)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)


def main(directory: Path) -> None:
    with closing(sqlite3.connect(directory / "accounts.db")) as accounts, accounts:
        accounts.execute("CREATE TABLE IF NOT EXISTS done (store TEXT, id INTEGER, PRIMARY KEY (store, id))")
        accounts.execute("CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, balance INTEGER)")
        accounts.execute("INSERT OR IGNORE INTO account VALUES ('bob', 0)")
    with mq.open(directory / "mq") as broker:
        # What a killed process held comes again when both have passed; the defaults are 30 s and 1 s.
        transfers = broker.queue("transfers", visibility_timeout=0.2, backoff=mq.Backoff(initial=0.1))
        transfers.publish(Transfer("bob", 30))

    worker = multiprocessing.get_context("spawn").Process(target=work, args=(directory, True))
    worker.start()
    worker.join()
    print(f"killed by {signal.Signals(-(worker.exitcode or 0)).name} before the ack", flush=True)
    work(directory, dies=False)

    with closing(sqlite3.connect(directory / "accounts.db")) as accounts:
        print("bob has", *accounts.execute("SELECT balance FROM account").fetchone())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
