"""Reminders: a message that is ready later, and can be moved or cancelled until then.

Reminders are on the disk: those that fall due while no process runs are delivered when one starts.

Prints:

    3 reminders, the first is: call the dentist
    moved: True, cancelled: True
    reminder: buy milk
    reminder: call the dentist
    nothing is left to remind of: True
"""

import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mq


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:
        reminders = broker.queue("reminders", type=str)
        dentist = reminders.publish("call the dentist", delay=60)  # seconds from now
        milk = reminders.publish("buy milk", at=datetime.now(UTC) + timedelta(hours=1))  # an aware datetime
        meeting = reminders.publish("leave for the meeting", delay=2 * 3600)

        waiting = reminders.peek(state="delayed")
        print(f"{len(waiting)} reminders, the first is: {waiting[0].body}")

        # All of these say False for a message that has been delivered.
        moved = reminders.reschedule(milk, delay=0.1) and reminders.reschedule(dentist, delay=0.2)
        cancelled = reminders.cancel(meeting)
        print(f"moved: {moved}, cancelled: {cancelled}")

        for _ in range(2):
            with reminders.receive() as message:  # sleeps until the next one is due
                print("reminder:", message.body)
        print("nothing is left to remind of:", reminders.join(timeout=0))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
