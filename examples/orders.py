"""Point to point: each order of a shop goes to one of two cashiers, in order for each customer.

A shop that does not know whether its order was stored (it was killed, its request timed out) places it
again.  The order's number is its `dedup_id`, so it is stored once.  A customer's orders are one `group`: they
are billed one after the other, in the order in which they were placed, whichever cashiers are free.  An order
that is delivered again is billed once; here the bills are in memory, and end with the process.

Prints:

    placed again: the same message
    ada was billed for 1, 3, 5
    bob was billed for 2, 4
    left: 0
"""

import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path

import msgspec

import mq


class Order(msgspec.Struct):
    number: int
    customer: str


def place(orders: mq.Queue[Order], order: Order) -> int:
    return orders.publish(order, group=order.customer, dedup_id=f"order-{order.number}")


def cashier(orders: mq.Queue[Order], bills: dict[str, list[int]]) -> None:
    for message in orders:  # waits for the next one, until the broker is closed
        with message:  # acks at the end; after an exception the order comes again
            billed, number = bills[message.body.customer], message.body.number
            if number not in billed:  # delivery is at least once
                billed.append(number)


def main(directory: Path) -> None:
    bills: dict[str, list[int]] = defaultdict(list)
    with mq.open(directory / "mq") as broker:
        orders = broker.queue("orders", type=Order)
        cashiers = [threading.Thread(target=cashier, args=(orders, bills)) for _ in range(2)]
        for thread in cashiers:
            thread.start()

        ids = [place(orders, Order(n, "ada" if n % 2 else "bob")) for n in range(1, 6)]
        again = place(orders, Order(3, "ada"))
        print(f"placed again: {'the same' if again == ids[2] else 'another'} message")

        orders.join()  # until each order is acked
        left = orders.stats()
    for thread in cashiers:
        thread.join()
    for customer, numbers in sorted(bills.items()):
        print(f"{customer} was billed for {', '.join(map(str, numbers))}")
    print("left:", left.ready + left.in_flight + left.delayed)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
