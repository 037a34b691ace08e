"""Topic: the handle that users publish to when they do not name the queues that get it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar, Unpack

import msgspec

from mq.api.around import send_within, with_headers
from mq.api.message import Message
from mq.api.options import PublishOptions, check_count, check_since, new_message
from mq.engine import commands, history, hot
from mq.engine.bodies import Decoder, encode_body
from mq.engine.history import Wanted
from mq.engine.outlet import Outlet
from mq.engine.store import Store

T = TypeVar("T")


class Past:
    """Where a message of history is: in no queue.  It is not delivered, and so asks for no more."""

    name = ""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder


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
        self._past: Any = Past(Decoder(type))

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
        return send_within(self._store, self.name, self._send, body, options)

    def _send(self, body: object, options: Any, headers: Mapping[str, str]) -> int:
        """`publish`, with more headers."""
        flags, raw = encode_body(body)
        if not options and not headers:
            id = hot.fan_out(self._store, self._outlet, flags, raw)
            if id is not None:
                return id
        return self._publish(flags, raw, options, headers)

    def _publish(self, flags: int, raw: bytes, options: Any, headers: Mapping[str, str]) -> int:
        message = with_headers(new_message("", flags, raw, **options), headers)
        message = msgspec.structs.replace(message, topic=self.name)
        return commands.publish(self._store, [message], time.monotonic() + message.timeout)[0]

    def history(
        self, *, since: int | datetime | None = None, limit: int | None = None
    ) -> Iterator[Message[T]]:  # fmt: skip
        """What the topic retains, the oldest first: an iterator that reads a part at a time.

        *since*: a message's id, behind which it begins; or an aware datetime, and it begins with what was
        published then or later.  None (the default): the oldest that is retained.
        *limit*: how many at most; None (the default): all.  Without *since*, the newest.

        What is published once the first message was asked for is left out.  Meanwhile others may publish, and
        what the limits do not leave any more may go: nothing comes twice, or out of order.  A message is as
        it was published, and in no queue: `queue` is "", `attempts` 0, `state` "ready".

        Raises UsageError.  The iterator raises CorruptStore, with the message's id, if a body is damaged:
        `history(since=id)` goes on behind it; and Closed.
        """
        wanted = Wanted(*check_since(since), None if limit is None else check_count("limit", limit))
        return self._read(wanted)

    def _read(self, wanted: Wanted) -> Iterator[Message[T]]:
        for each in history.read(self._store, self.name, wanted):
            yield Message(self._past, *each)
