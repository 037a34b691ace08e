"""mq: an embedded, durable message queue.

Durations are float seconds, instants aware datetimes, sizes bytes.

import mq

with mq.open("data") as broker:
    mail = broker.queue("mail")
    mail.publish({"to": "ada@example.org"})
    for message in mail:
        with message:  # ack; on an exception nack
            send(message.body)
"""

from mq.broker import Broker, StoreStats, Sync, open
from mq.errors import (
    BadBody,
    Closed,
    CorruptStore,
    DiskFull,
    MqError,
    StaleReceipt,
    StorageError,
    StoreFailed,
    StoreLocked,
    Unsupported,
    UsageError,
)
from mq.message import Delivery, Message, Receipt
from mq.queue import Queue, QueueOptions, Stats

__version__ = "0.1.0"

__all__ = [
    "BadBody", "Broker", "Closed", "CorruptStore", "Delivery", "DiskFull", "Message", "MqError",
    "Queue", "QueueOptions", "Receipt", "StaleReceipt", "Stats", "StorageError", "StoreFailed",
    "StoreLocked", "StoreStats", "Sync", "Unsupported", "UsageError", "open",
]  # fmt: skip
