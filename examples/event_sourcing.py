"""Event sourcing: an account is what its events say; its balance is computed from them.

The events are the history of a topic that retains them.  A snapshot names the last event that is in it, so
only what came behind it is read.  Who may append is another question: see read_model.py, where commands of
one item are a group.

Prints:

    100, from 2 events
    95, from the snapshot and 2 events
    95, from all 4 events
"""

import sys
import tempfile
from pathlib import Path

import msgspec

import mq


class Deposited(msgspec.Struct, tag=True):
    amount: int


class Withdrawn(msgspec.Struct, tag=True):
    amount: int


Event = Deposited | Withdrawn


class Account(msgspec.Struct):
    balance: int = 0
    events: int = 0
    last: int = 0  # the id of the last event in it

    def catch_up(self, topic: mq.Topic[Event]) -> int:
        """Apply what has happened since; return how many events that were."""
        before = self.events
        for message in topic.history(since=self.last):
            event = message.body
            self.balance += event.amount if isinstance(event, Deposited) else -event.amount
            self.events += 1
            self.last = message.id
        return self.events - before


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:
        ada: mq.Topic[Event] = broker.topic("accounts.ada", type=Event, retain_count=1_000_000)
        ada.publish(Deposited(120))
        ada.publish(Withdrawn(20))
        account = Account()
        account.catch_up(ada)
        print(f"{account.balance}, from {account.events} events")

        snapshot = directory / "ada.snapshot"
        snapshot.write_bytes(msgspec.msgpack.encode(account))
        ada.publish(Withdrawn(25))
        ada.publish(Deposited(20))
        account = msgspec.msgpack.decode(snapshot.read_bytes(), type=Account)
        newer = account.catch_up(ada)
        print(f"{account.balance}, from the snapshot and {newer} events")

        account = Account()
        account.catch_up(ada)
        print(f"{account.balance}, from all {account.events} events")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
