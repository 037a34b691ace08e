"""Batches into SQLite: 1,000 measurements are written in 4 transactions.

The function gets up to 250 at once, and waits up to 0.1 s for a batch to fill.  The batch is acked when it
returns.  If the process dies between the commit and the acks, the batch comes again: the store and the
id of the message are the primary key, so what is there already is left out.

Prints:

    1,000 measurements in 4 transactions
    the warmest: 39.9 degrees
    batch 1 once more: 1,000 measurements
"""

import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec

import mq


class Measurement(msgspec.Struct):
    sensor: str
    degrees: float


def save(database: sqlite3.Connection, store: str, batch: list[tuple[int, Measurement]]) -> None:
    rows = [(store, id, measurement.sensor, measurement.degrees) for id, measurement in batch]
    with database:
        database.executemany("INSERT OR IGNORE INTO measurement VALUES (?, ?, ?, ?)", rows)


def main(directory: Path) -> None:
    path, batches = directory / "measurements.db", list[list[tuple[int, Measurement]]]()
    with mq.open(directory / "mq", sync=0.1) as broker:
        measurements = broker.queue("measurements", type=Measurement)
        measurements.publish_many(Measurement(f"s{n % 7}", n % 400 / 10) for n in range(1000))

        @broker.consumer(measurements, batch=250, linger=0.1)
        def write(batch: list[mq.Delivery[Measurement]]) -> None:
            batches.append([(message.id, message.body) for message in batch])
            with closing(sqlite3.connect(path)) as database:  # a connection is of one thread
                save(database, broker.store_id, batches[-1])

        with closing(sqlite3.connect(path)) as database:
            database.execute(
                """CREATE TABLE IF NOT EXISTS measurement
                   (store TEXT, id INTEGER, sensor TEXT, degrees REAL, PRIMARY KEY (store, id))"""
            )
            broker.run(until_empty=True)

            count, warmest = database.execute("SELECT count(*), max(degrees) FROM measurement").fetchone()
            print(f"{count:,} measurements in {len(batches)} transactions")
            print(f"the warmest: {warmest} degrees")
            save(database, broker.store_id, batches[0])
            [count] = database.execute("SELECT count(*) FROM measurement").fetchone()
            print(f"batch 1 once more: {count:,} measurements")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
