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

from mq.api.broker import Broker, StoreStats, Sync, open
from mq.api.message import Delivery, Failure, Message, Receipt
from mq.api.options import BatchOptions, PublishOptions, QueueOptions
from mq.api.queue import Queue
from mq.api.transaction import Transaction
from mq.delivery.queue import State
from mq.delivery.retry import Backoff
from mq.engine.looking import Stats
from mq.errors import (
    BadBody,
    Closed,
    CorruptStore,
    DiskFull,
    MqError,
    QueueFull,
    StaleReceipt,
    StorageError,
    StoreFailed,
    StoreLocked,
    Unsupported,
    UsageError,
)

__version__ = "0.2.0"

__all__ = [
    "Backoff", "BadBody", "BatchOptions", "Broker", "Closed", "CorruptStore", "Delivery", "DiskFull",
    "Failure", "Message", "MqError", "PublishOptions", "Queue", "QueueFull", "QueueOptions", "Receipt",
    "StaleReceipt", "State", "Stats", "StorageError", "StoreFailed", "StoreLocked", "StoreStats", "Sync",
    "Transaction", "Unsupported", "UsageError", "open",
]  # fmt: skip
