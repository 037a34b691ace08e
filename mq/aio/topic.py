"""AsyncTopic: the handle on a topic, for tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Final, Generic, TypeVar, Unpack

from mq.api.message import Message
from mq.api.options import PublishOptions
from mq.api.topic import Topic
from mq.engine import hot
from mq.engine.bodies import encode_body

from .lane import LARGE_BYTES, Lane

T = TypeVar("T")
PART: Final = 256  # messages of a history that one call reads


class AsyncTopic(Generic[T]):
    """A handle on one topic, made by `broker.topic(name)`.  Each method is that of `mq.Topic`, awaited."""

    def __init__(self, topic: Topic[T], lane: Lane) -> None:
        self._topic = topic
        self._lane = lane

    def __repr__(self) -> str:
        return f"<Async{repr(self._topic)[1:]}"

    @property
    def name(self) -> str:
        """The topic's name."""
        return str(self._topic.name)

    async def publish(self, body: T, **options: Unpack[PublishOptions]) -> int:
        """Store one message for all queues that subscribe: see `mq.Topic.publish`."""
        flags, raw = encode_body(body)
        plain = partial(hot.fan_out, self._lane.store, self._topic._outlet, flags, raw)
        plan = partial(self._topic._publish, flags, raw)
        return await self._lane.send(self.name, plain, plan, options, is_small=len(raw) <= LARGE_BYTES)

    def history(
        self, *, since: int | datetime | None = None, limit: int | None = None
    ) -> AsyncIterator[Message[T]]:  # fmt: skip
        """What the topic retains, the oldest first, for `async for`: see `mq.Topic.history`."""
        return self._read(self._topic.history(since=since, limit=limit))

    async def _read(self, messages: Iterator[Message[T]]) -> AsyncIterator[Message[T]]:
        while part := await self._lane.in_thread(lambda: list(islice(messages, PART))):
            for message in part:
                yield message
