"""CQRS: commands become events in one transaction, and a table in SQLite is built from the events.

One process decides about commands; any number may have read models.  All messages about an item are one
group, so they stay in order, also across retries.  The table notes the last event of each item, and so an
event that is delivered twice counts once.

Prints:

    refused: 9 lamps
    chairs: 10
    lamps: 3
"""

import sqlite3
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import msgspec

import mq

UPSERT = """INSERT INTO stock VALUES (:item, :change, :id) ON CONFLICT (item) DO UPDATE
            SET count = count + excluded.count, last = excluded.last WHERE excluded.last > last"""


class Change(msgspec.Struct):  # as a command, what is asked for; as an event, what happened
    item: str
    count: int


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker, closing(sqlite3.connect(directory / "stock.db")) as database:
        commands = broker.queue("commands", type=Change)
        events = broker.topic("stock", type=Change, retain_count=1_000_000)
        # What decisions are made from.  Of more events than are retained, the oldest are not in the history.
        on_hand = Counter[str]()
        for event in events.history():
            on_hand[event.body.item] += event.body.count

        for change in [Change("lamps", 5), Change("chairs", 10), Change("lamps", -2), Change("lamps", -9)]:
            commands.publish(change, group=change.item)
        while command := commands.receive(timeout=0):
            change = command.body
            refused = on_hand[change.item] + change.count < 0
            with command, broker.transaction() as transaction:
                transaction.ack(command)
                if not refused:
                    transaction.publish(events, change, group=change.item)
            if refused:
                print(f"refused: {-change.count} {change.item}")
            else:
                on_hand[change.item] += change.count

        # A read model may come late: it gets all that is retained, and what comes from now on.
        table = broker.queue("table", type=Change)
        table.subscribe("stock", since=0)
        database.execute(
            "CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, count INTEGER, last INTEGER)"
        )
        while message := table.receive(timeout=0):
            with message, database:  # the commit of the database, then the ack
                row = {"item": message.body.item, "change": message.body.count, "id": message.id}
                database.execute(UPSERT, row)
        for item, count in database.execute("SELECT item, count FROM stock ORDER BY item"):
            print(f"{item}: {count}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
