"""mq: an embedded, durable message queue.

    import mq

    with mq.open("data") as broker:                # a directory; made if it is not there
        mail = broker.queue("mail", max_attempts=5)
        mail.publish({"to": "ada@example.org"})    # on the disk when this returns
        for message in mail:                       # waits for the next, until the broker is closed
            with message:                          # ack at the end; on an exception nack
                send(message.body)

open           a store: a Broker; aopen: the same for asyncio, an AsyncBroker
Broker         queues, topics, transactions, consumers, schedules, the store as a whole
Queue          publish, receive, look, and what becomes of many messages at once
Topic          publish to all queues that subscribe to it
Message        what is stored; Delivery: a message, and the right to settle it
Outgoing       for publish_many: a body with options of its own
Transaction    publishes, acks and nacks that happen together, or not at all
Backoff        an option of queues: how long a failed message waits
Retry, Reject  exceptions that a consumer's function raises: try again later, or never
Watch          waiting for messages without a thread, for event loops
Stats          what is told of a queue; StoreStats: of a store; Schedule; Failure: of a failed attempt
QueueOptions   types of keyword arguments, as are TopicOptions, PublishOptions and BatchOptions; of single
               values: Sync, State, Receipt

Durations are float seconds, instants are aware datetimes, sizes are bytes.  All errors are MqErrors.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mq.api.broker import Broker, StoreStats, Sync, open
from mq.api.message import Delivery, Failure, Message, Receipt
from mq.api.options import BatchOptions, Outgoing, PublishOptions, QueueOptions, TopicOptions
from mq.api.queue import Queue
from mq.api.schedule import Schedule
from mq.api.topic import Topic
from mq.api.transaction import Transaction
from mq.api.watch import Watch
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
from mq.workers.raised import Reject, Retry

if TYPE_CHECKING:
    from mq.aio.broker import AsyncBroker, aopen
    from mq.aio.message import AsyncDelivery
    from mq.aio.queue import AsyncQueue
    from mq.aio.topic import AsyncTopic
    from mq.aio.transaction import AsyncTransaction

__version__ = "0.2.0"

__all__ = [
    "AsyncBroker", "AsyncDelivery", "AsyncQueue", "AsyncTopic", "AsyncTransaction", "Backoff", "BadBody",
    "BatchOptions", "Broker", "Closed", "CorruptStore", "Delivery", "DiskFull", "Failure", "Message",
    "MqError", "Outgoing", "PublishOptions", "Queue", "QueueFull", "QueueOptions", "Receipt", "Reject",
    "Retry", "Schedule", "StaleReceipt", "State", "Stats", "StorageError", "StoreFailed", "StoreLocked",
    "StoreStats", "Sync", "Topic", "TopicOptions", "Transaction", "Unsupported", "UsageError", "Watch",
    "aopen", "open",
]  # fmt: skip


_AIO = {  # not before they are asked for: asyncio takes longer to import than all of mq
    "AsyncBroker": "broker", "AsyncDelivery": "message", "AsyncQueue": "queue",
    "AsyncTopic": "topic", "AsyncTransaction": "transaction", "aopen": "broker",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _AIO:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"mq.aio.{_AIO[name]}"), name)
    if isinstance(found, type):
        found.__module__ = __name__
    globals()[name] = found
    return found


def _call_as_imported() -> None:
    """What help(), tracebacks and pickles call the classes is how users import them."""
    for name in __all__:
        if isinstance(each := globals().get(name), type):
            each.__module__ = __name__


_call_as_imported()
