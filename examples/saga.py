"""A saga: a trip is booked in three steps; if one is impossible, those before it are cancelled.

No transaction spans the three companies.  The message says what is done and what is to do; each step acks it
and publishes the next one in one transaction.  So a trip is never lost between two steps, however often the
process dies.  A step may be done twice, so bookings have a key: to book or to cancel again changes nothing.

Prints:

    oslo: book train
    oslo: book hotel
    oslo: museum is sold out
    oslo: cancel hotel
    oslo: cancel train
    ended: oslo, booked: nothing
"""

import sys
import tempfile
from pathlib import Path

import msgspec

import mq


class Trip(msgspec.Struct):
    city: str
    to_book: list[str]
    booked: list[str] = []
    is_undone: bool = False


SOLD_OUT = ("oslo", "museum")
bookings: set[tuple[str, str]] = set()  # stands for the systems of the three companies


def next_step(trip: Trip) -> None:
    if trip.is_undone:
        service = trip.booked.pop()
        bookings.discard((trip.city, service))
        print(f"{trip.city}: cancel {service}")
    elif (trip.city, trip.to_book[0]) == SOLD_OUT:  # final; an exception would be tried again
        print(f"{trip.city}: {trip.to_book[0]} is sold out")
        trip.is_undone = True
    else:
        service = trip.to_book.pop(0)
        bookings.add((trip.city, service))
        trip.booked.append(service)
        print(f"{trip.city}: book {service}")


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:
        steps, ended = broker.queue("steps", type=Trip), broker.queue("ended", type=Trip)

        @broker.consumer(steps)
        def step(message: mq.Delivery[Trip]) -> None:
            trip = message.body
            next_step(trip)
            is_over = not (trip.booked if trip.is_undone else trip.to_book)
            with broker.transaction() as transaction:
                transaction.ack(message)
                transaction.publish(ended if is_over else steps, trip)

        steps.publish(Trip("oslo", ["train", "hotel", "museum"]))
        broker.run(until_empty=True)
        with ended.receive() as message:
            print(f"ended: {message.body.city}, booked: {sorted(bookings) or 'nothing'}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
