"""Topic: the handle that users publish to when they do not name the queues that get it."""

from __future__ import annotations

import time
from typing import Any, Generic, TypeVar, Unpack

import msgspec

from mq.api.options import PublishOptions, new_message
from mq.engine import commands, hot
from mq.engine.bodies import BODY_BYTES_MAX, Decoder, encode_body
from mq.engine.outlet import Outlet
from mq.engine.store import Store

T = TypeVar("T")


class Topic(Generic[T]):
    """A handle on one topic, made by `broker.topic(name)`.  Thread-safe.

    What is published to it goes to every queue with a pattern that fits: see `Queue.subscribe`.  *T* is the
    type of the bodies, if `broker.topic` was given one.

    Every method may raise Closed (the broker is closed), StoreFailed, and StorageError with what the
    system said.  All that changes the store raise Unsupported if it was opened with read_only=True.
    """

    def __init__(self, store: Store, name: str, type: Any = None) -> None:
        self._store, self._hold = store, store.hold()
        self._outlet = Outlet(name)
        self._decoder = Decoder(type)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} in {self._store.path}>"

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._outlet.name

    def publish(self, body: T, **options: Unpack[PublishOptions]) -> int:
        """Store one message for all queues that subscribe to this topic, and return its id.

        *body*: bytes, text, or a structure that msgpack can hold; 64 MiB at most.  It is stored once, and
        has the same id in each of the queues.
        *options*: those of `mq.PublishOptions`, which hold in each queue.  A dedup_id is the topic's: if it
        was seen here in the last 300 seconds, nothing is stored, and the first id is returned.

        All queues get it, or none: a full queue that rejects refuses it for all.  Without a subscriber, and
        unless the topic retains it, it is gone, and counted in `broker.stats().unrouted`.

        Raises UsageError (an option is wrong, or the body cannot be stored), QueueFull (naming the queue in
        which no room came within the option `timeout`), DiskFull, StoreFailed, Closed.
        """
        given: object = body
        if type(given) is bytes and len(given) <= BODY_BYTES_MAX:
            flags, raw = 0, given
        else:
            flags, raw = encode_body(given)
        if not options:
            id = hot.fan_out(self._store, self._outlet, flags, raw)
            if id is not None:
                return id
        message = msgspec.structs.replace(new_message("", flags, raw, **options), topic=self.name)
        return commands.publish(self._store, [message], time.monotonic() + message.timeout)[0]
