"""A channel: queues declared, bound and published to, and what its program consumes."""

from __future__ import annotations

import base64
import os
from itertools import count
from queue import Empty
from typing import Any

from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.log import get_logger
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.utils.json import dumps, loads
from kombu.utils.uuid import uuid

from mq.api.broker import Broker
from mq.api.message import Delivery
from mq.api.options import QueueOptions
from mq.api.queue import Queue
from mq.contrib.kombu import routes
from mq.contrib.kombu.arguments import publish_options, queue_options
from mq.contrib.kombu.qos import QoS
from mq.contrib.kombu.routes import Binding
from mq.contrib.kombu.settings import VISIBILITY_TIMEOUT
from mq.errors import BadBody

logger = get_logger(__name__)


class Channel(virtual.Channel):
    QoS = QoS
    supports_fanout = True
    _delivery_tags = count(1)

    def __init__(self, connection: Any, **options: Any) -> None:
        super().__init__(connection, **options)
        self.connection: Any  # None once this is closed
        self._pid = os.getpid()
        self._settings = connection.settings
        self.broker: Broker = connection.broker
        self._handles: dict[str, Queue[Any]] = {}
        self._no_ack: set[str] = set()  # queues whose messages are acked as they are taken
        self._exclusive: set[str] = set()  # queues that go with their consumer
        self._temporary: dict[str, tuple[QueueOptions, set[str]]] = {}  # that are made anew if they went
        self._known: tuple[int, list[Binding]] = (-1, [])  # all bindings, as of a generation of the broker

    def handle(self, name: str) -> Queue[Any]:
        """The queue of that name."""
        if (found := self._handles.get(name)) is None:
            found = self._handles[name] = self.broker.queue(name)
        return found

    # ── exchanges ──────────────────────────────────────────────────────────────────

    def exchange_declare(
        self, exchange: str | None = None, type: str = routes.DIRECT, *args: Any, **options: Any
    ) -> None:
        if type and type not in routes.TYPES:
            raise ChannelError(
                f"mq has no exchanges of type {type!r}, only {', '.join(sorted(routes.TYPES))}"
            )
        super().exchange_declare(exchange, type, *args, **options)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        there = [
            (pattern, queue)
            for pattern, queue in self.broker.subscriptions()
            if self._is_of(exchange, pattern)
        ]
        if if_unused and there:
            return
        for pattern, queue in there:
            self.handle(queue).unsubscribe(pattern)
        self.state.exchanges.pop(exchange, None)

    def _is_of(self, exchange: str, pattern: str) -> bool:
        return routes.binding(pattern, "").exchange == exchange

    def bindings(self) -> list[Binding]:
        """All that are bound in the store; read again only when one has changed."""
        generation = self.broker.generation  # first: what changes meanwhile is read the next time
        if generation != self._known[0]:
            self._known = generation, [routes.binding(*each) for each in self.broker.subscriptions()]
        return self._known[1]

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        return [(key, "", queue) for of, key, queue in self.bindings() if of == exchange]

    def list_bindings(self) -> list[tuple[str, str, str]]:
        return [(queue, exchange, key) for exchange, key, queue in self.bindings()]

    # ── queues ─────────────────────────────────────────────────────────────────────

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
        return to_rabbitmq_queue_arguments(arguments or {}, **options)  # type: ignore[no-any-return]

    def queue_declare(self, queue: str | None = None, passive: bool = False, **options: Any) -> Any:
        queue = queue or f"amq.gen-{uuid()}"
        if not passive:
            self._new_queue(queue, **options)
        elif not self._has_queue(queue):
            raise ChannelError(f"NOT_FOUND - no queue {queue!r}", (50, 10), "Channel.queue_declare", "404")
        return queue_declare_ok_t(queue, self._size(queue), 0)

    def _has_queue(self, queue: str, **options: Any) -> bool:
        found: list[str] = self.broker.queues(prefix=queue, limit=1)
        return found == [queue]

    def _new_queue(
        self, queue: str, auto_delete: bool = False, exclusive: bool = False,
        arguments: dict[str, Any] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        declared = queue_options(arguments or {}, auto_delete=auto_delete, dead_letters=self._dead_letters)
        if self._settings.max_attempts is not None:
            declared.setdefault("max_attempts", self._settings.max_attempts)
        if self._settings.visibility_timeout is not None:
            declared["visibility_timeout"] = self._settings.visibility_timeout
        if not declared and not self._has_queue(queue):  # one that is declared stays as it is
            declared["visibility_timeout"] = VISIBILITY_TIMEOUT
        self.broker.queue(queue, **declared)
        if exclusive:
            self._exclusive.add(queue)
        if auto_delete:
            self._temporary[queue] = declared, set()

    def _dead_letters(self, exchange: str, key: str) -> str:
        if not exchange:
            return key
        found = {queue for of, bound, queue in self.bindings() if of == exchange and bound == key}
        if len(found) != 1:
            raise ChannelError(
                f"dead letters go to one queue, and {len(found)} are bound to exchange {exchange!r} with key"
                f" {key!r}: declare and bind it before the queue that names it"
            )
        return found.pop()

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        exchange = exchange or "amq.direct"
        pattern = routes.pattern(self._type_of(exchange), exchange, routing_key or "")
        self.handle(queue).subscribe(pattern)
        if queue in self._temporary:
            self._temporary[queue][1].add(pattern)

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        exchange = exchange or "amq.direct"
        pattern = routes.pattern(self._type_of(exchange), exchange, routing_key or "")
        self.handle(queue).unsubscribe(pattern)
        if queue in self._temporary:
            self._temporary[queue][1].discard(pattern)

    def _type_of(self, exchange: str) -> str:
        if exchange in self.state.exchanges:
            return str(self.state.exchanges[exchange]["type"])
        if exchange.startswith("amq."):  # those that AMQP has without a declaration
            return exchange.removeprefix("amq.")
        raise ChannelError(
            f"NOT_FOUND - no exchange {exchange!r}: declare it on this connection before it is bound",
            (50, 20), "Channel.queue_bind", "404",
        )  # fmt: skip

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **options: Any
    ) -> None:
        if (if_empty and self._size(queue)) or (if_unused and self.connection.consumes(queue)):
            return
        self._delete(queue)

    def _delete(self, queue: str, *args: Any, **options: Any) -> None:
        self._temporary.pop(queue, None)
        self._exclusive.discard(queue)
        self.handle(queue).delete()

    def _size(self, queue: str) -> int:
        stats = self.handle(queue).stats()
        return stats.ready + stats.delayed

    def _purge(self, queue: str) -> int:
        return self.handle(queue).purge()

    def restore_temporary(self) -> None:
        """Make the queues anew that this process consumes from, and that went while it was kept from it."""
        for name in set(self._active_queues) & self._temporary.keys():
            if not self._has_queue(name):
                options, patterns = self._temporary[name]
                self.broker.queue(name, **options)
                for pattern in patterns:
                    self.handle(name).subscribe(pattern)

    # ── publishing ─────────────────────────────────────────────────────────────────

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **options: Any) -> None:
        self._inplace_augment_message(message, exchange, routing_key)
        if not exchange:
            return self._put(routing_key, message, **options)
        topic = routes.topic(exchange, routing_key or "")
        self.broker.topic(topic).publish(dumps(message), **self._options(message))
        if self.deadletter_queue and not self.broker.subscriptions(topic):
            self._new_queue(self.deadletter_queue)
            self._put(self.deadletter_queue, message)
        return None

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        self.handle(queue).publish(dumps(message), **self._options(message))

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **options: Any) -> None:
        self.basic_publish(message, exchange, routing_key)

    def _options(self, message: dict[str, Any]) -> Any:
        low_first = self._settings.priority_order == "low_first"
        return publish_options(message, low_first=low_first, waits_here=self._settings.eta == "queue")

    def encode_body(self, body: Any, encoding: str | None = None) -> tuple[str, str]:
        if isinstance(body, str):
            return body, "utf-8"
        return base64.b64encode(body).decode(), "base64"

    # ── consuming ──────────────────────────────────────────────────────────────────

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **options: Any
    ) -> None:
        super().basic_consume(queue, no_ack, callback, consumer_tag, **options)
        (self._no_ack.add if no_ack else self._no_ack.discard)(queue)
        self.connection.look()

    def basic_cancel(self, consumer_tag: str) -> None:
        queue = self._tag_to_queue.get(consumer_tag)
        super().basic_cancel(consumer_tag)
        if queue is not None and queue not in self._active_queues:
            self._no_ack.discard(queue)
            if queue in self._exclusive:
                self._delete(queue)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        super().basic_qos(prefetch_size, prefetch_count, apply_global)
        self.made_room()

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:
        while delivery := self.handle(queue).receive(timeout=0):
            if payload := self.take(delivery, no_ack=no_ack):
                message = self.Message(payload, channel=self)
                if not no_ack:
                    self.qos.append(message, message.delivery_tag)
                return message
        return None

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        """For kombu's own helpers: as `basic_get`, without what counts as unacked."""
        while delivery := self.handle(queue).receive(timeout=0):
            if payload := self.take(delivery, no_ack=True):
                return payload
        raise Empty

    def takes_settled(self, queue: str) -> bool:
        return queue in self._no_ack

    def take(self, delivery: Delivery[Any], *, no_ack: bool) -> dict[str, Any] | None:
        """What kombu makes a message of; None if it is none, and went to the dead letters."""
        payload = _decoded(delivery)
        if payload is None:
            return None
        properties = payload["properties"]
        properties["delivery_tag"] = tag = str(next(self._delivery_tags))
        if delivery.attempts > 1:
            properties.setdefault("delivery_info", {})["redelivered"] = True
        if no_ack:
            delivery.ack()
        else:
            self.qos.hold(tag, delivery)
        return payload

    def made_room(self) -> None:
        """Messages that were not taken before may be taken now."""
        if self.connection is not None:
            self.connection.made_room()

    def _restore(self, message: Any) -> None:
        self.qos.reject(message.delivery_tag, requeue=True)

    def close(self) -> None:
        if self._pid != os.getpid():  # of the child of a fork: queues and messages are the parent's
            self.closed, self.connection = True, None
            return
        super().close()


def _decoded(delivery: Delivery[Any]) -> dict[str, Any] | None:
    try:
        payload = loads(delivery.body)
        properties, _ = payload["properties"], payload["body"]
        if isinstance(properties, dict):
            return payload  # type: ignore[no-any-return]
        reason = "its properties are no object"
    except (ValueError, TypeError, KeyError, BadBody) as error:
        reason = f"{type(error).__name__}: {error}"
    logger.error(
        "message %d in %s is none of kombu, and went to its dead letters: %s",
        delivery.id,
        delivery.queue,
        reason,
    )
    delivery.reject(f"no message of kombu: {reason}")
    return None
