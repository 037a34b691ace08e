"""What a program may call: on a broker, its queue "mail", and a delivery of that."""

from __future__ import annotations

from collections.abc import Callable

import mq

CALLS: dict[str, Callable[[mq.Broker, mq.Queue, mq.Delivery], object]] = {
    "publish": lambda broker, queue, held: queue.publish("x"),
    "publish_many": lambda broker, queue, held: queue.publish_many(["x"]),
    "publish to a new queue": lambda broker, queue, held: broker.queue("new").publish("x"),
    "receive": lambda broker, queue, held: queue.receive(),
    "receive now": lambda broker, queue, held: queue.receive(timeout=0),
    "receive_many": lambda broker, queue, held: queue.receive_many(1, timeout=0),
    "ack": lambda broker, queue, held: held.ack(),
    "nack": lambda broker, queue, held: held.nack(),
    "release": lambda broker, queue, held: held.release(),
    "extend": lambda broker, queue, held: held.extend(),
    "ack_many": lambda broker, queue, held: queue.ack_many([held]),
    "peek": lambda broker, queue, held: queue.peek(),
    "get": lambda broker, queue, held: queue.get(held.id),
    "stats": lambda broker, queue, held: queue.stats(),
    "options": lambda broker, queue, held: queue.options(),
    "purge": lambda broker, queue, held: queue.purge(),
    "declare": lambda broker, queue, held: broker.queue("mail", visibility_timeout=3),
    "meta": lambda broker, queue, held: queue.meta(),
    "update_meta": lambda broker, queue, held: queue.update_meta({"k": "v"}),
    "generation": lambda broker, queue, held: broker.generation,
    "queues": lambda broker, queue, held: broker.queues(),
    "broker.stats": lambda broker, queue, held: broker.stats(),
    "flush": lambda broker, queue, held: broker.flush(),
}

CHANGES = {
    name: CALLS[name]
    for name in (
        "publish", "publish_many", "publish to a new queue", "receive", "receive now", "receive_many",
        "ack_many", "purge", "declare", "update_meta",
    )
}  # fmt: skip
