"""AsyncTopic: the handle on a topic, for tasks."""

from __future__ import annotations

from functools import partial
from typing import Any, Generic, TypeVar, Unpack

from mq.api.options import PublishOptions
from mq.api.topic import Topic

from .lane import Lane

T = TypeVar("T")


class AsyncTopic(Generic[T]):
    """A handle on one topic, made by `broker.topic(name)`.  Each method is that of `mq.Topic`, awaited."""

    def __init__(self, topic: Topic[T], lane: Lane) -> None:
        self._topic: Any = topic
        self._lane = lane

    def __repr__(self) -> str:
        return f"<Async{repr(self._topic)[1:]}"

    @property
    def name(self) -> str:
        """The topic's name."""
        return str(self._topic.name)

    async def publish(self, body: T, **options: Unpack[PublishOptions]) -> int:
        """Store one message for all queues that subscribe: see `mq.Topic.publish`."""
        run = self._lane.in_thread if options.get("timeout") else self._lane.soon
        return int(await run(partial(self._topic.publish, body, **options)))
