"""A connection: waits for messages in Celery's event loop, or without one, and hands them to channels.

    publish ──► notify ──► a byte in a pipe ──► the loop's poll returns
                                                   └► take what there is room for, by turns from queues
                                                   └► nothing left: arm the watch again
    ack ──► room ──► the same, if a channel was full

Nothing is asked while nothing happens.  Without a loop (`drain_events`) the same pipe is waited for.

Messages are handed on behind the poll, never in the loop's `on_tick`: there a pool of processes says what it
has to write.  A task that came later in the same tick would lie until something else ends the next poll.
"""

from __future__ import annotations

import math
import os
import select
import time
from contextlib import suppress
from typing import Any, Final

from kombu.log import get_logger
from kombu.transport import virtual

import mq
from mq.api.broker import Broker
from mq.api.message import Delivery
from mq.api.queue import Queue
from mq.contrib import stores
from mq.contrib.kombu import channel as channels
from mq.contrib.kombu import routes
from mq.contrib.kombu.settings import ConnectionSettings
from mq.errors import Closed, CorruptStore, MqError, QueueFull, StorageError

logger = get_logger(__name__)

BURST: Final = 32  # messages in one turn of the loop: what else it has to do comes in between
DRAINED: Final = 64  # bytes read at a time
LATE_SECONDS: Final = 0.001  # a timer is set so much behind what falls due


class Bell:
    """A pipe: rung by any thread, waited for by an event loop or `poll`."""

    fd = _in = -1  # until it is there

    def __init__(self) -> None:
        self.fd, self._in = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._in, False)

    def ring(self) -> None:
        with suppress(BlockingIOError):  # it is full of rings
            os.write(self._in, b"!")

    def clear(self) -> None:
        with suppress(BlockingIOError):
            self._read_all()

    def _read_all(self) -> None:
        while len(os.read(self.fd, DRAINED)) == DRAINED:
            pass

    def wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.poll(None if seconds == math.inf else math.ceil(seconds * 1000))
        self.clear()

    def __del__(self) -> None:
        """Not before: a thread that rings has a reference, and the number may be another file's soon."""
        if self.fd >= 0:
            os.close(self.fd)
            os.close(self._in)


class Transport(virtual.Transport):
    Channel = channels.Channel
    can_parse_url = True
    default_port = 0
    driver_type = driver_name = "mq"
    connection_errors = (*virtual.Transport.connection_errors, StorageError, Closed)
    channel_errors = (*virtual.Transport.channel_errors, QueueFull)
    implements = virtual.Transport.implements.extend(asynchronous=True, exchange_type=routes.TYPES)

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self._lease: stores.Lease | None = None
        self._bell: Any = None  # of the connection, while there is one
        self._watch: Any = None
        self._loop: Any = None
        self._timer: Any = None  # of the loop: something falls due then
        self._timer_at = math.inf
        self._is_full = False  # a channel has as many messages as it may
        self._turn = 0  # which queue is asked first
        self._generation = -1  # of the broker, when temporary queues were last looked at

    # ── the connection ─────────────────────────────────────────────────────────────

    @property
    def settings(self) -> ConnectionSettings:
        return ConnectionSettings.of_url(self.client.hostname or "", self.client.transport_options)

    @property
    def broker(self) -> Broker:
        if self._lease is None:
            raise Closed("the connection is closed")
        return self._lease.broker

    def establish_connection(self) -> Any:
        settings = self.settings
        self._lease, self._pid = stores.open(settings.path, settings.sync), os.getpid()
        self._bell = Bell()
        self._watch = self.broker.watch(self._bell.ring)
        return super().establish_connection()

    def verify_connection(self, connection: Any) -> bool:
        """Asked before each publish: what a read of shared memory tells."""
        with suppress(MqError):
            return self.broker.generation >= 0
        return False

    def close_connection(self, connection: Any) -> None:
        if self._lease is None:
            return
        try:
            super().close_connection(connection)
        finally:
            self.unregister_from_event_loop(connection, self._loop)
            lease, self._lease = self._lease, None
            if self._pid == os.getpid():
                with suppress(MqError):
                    self._watch.close()
            self._watch = self._bell = None
            lease.close()

    def driver_version(self) -> str:
        return mq.__version__

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        prefix = self.client.uri_prefix
        return f"{prefix}+{uri}" if prefix else uri

    def consumes(self, queue: str) -> bool:
        return any(queue in channel._active_queues for channel in self.channels)

    # ── delivering ─────────────────────────────────────────────────────────────────

    def _open_queues(self) -> list[tuple[channels.Channel, str]]:
        """Those that are consumed from, where there is room for a message."""
        self._is_full = True  # first: an ack of another thread is seen below, or sees this
        consuming = [channel for channel in self.channels if channel._active_queues]
        having_room = [channel for channel in consuming if channel.qos.can_consume()]
        self._is_full = len(having_room) < len(consuming)
        return [(channel, name) for channel in having_room for name in dict.fromkeys(channel._active_queues)]

    def _deliver_up_to(self, limit: int) -> int:
        """Hand on as many messages as there are, and as there is room for; how many."""
        self._restore_temporary()
        queues = self._open_queues()
        self._turn += 1
        done = 0
        for at in range(len(queues)):
            channel, name = queues[(at + self._turn) % len(queues)]
            if done < limit and channel.qos.can_consume():
                done += self._deliver_from(channel, name, limit - done)
        return done

    def _deliver_from(self, channel: channels.Channel, name: str, limit: int) -> int:
        """At least one, if there is one that is a message of kombu."""
        queue, done = channel.handle(name), 0
        try:
            while not done and (taken := queue.receive_many(channel.qos.room(limit), timeout=0)):
                done = self._hand_on(channel, queue, taken)
        except CorruptStore as error:  # it counts as a failed attempt, and the next one is taken
            logger.error("a message of %s is damaged: %s", name, error)
        return done

    def _hand_on(self, channel: channels.Channel, queue: Queue[Any], taken: list[Delivery[Any]]) -> int:
        taken.reverse()
        try:
            return self._deliver_each(channel, queue.name, taken) or len(taken)
        finally:  # the consumer was cancelled, or its callback has raised
            if taken:
                queue.release_many(taken)

    def _deliver_each(self, channel: channels.Channel, name: str, taken: list[Delivery[Any]]) -> int:
        """Take them from the end of *taken*, while there is a consumer; how many were messages of kombu."""
        done = 0
        while taken and name in channel._active_queues:
            payload = channel.take(taken.pop(), no_ack=channel.takes_settled(name))
            if payload is not None:
                self._deliver(payload, name)
                done += 1
        return done

    def _restore_temporary(self) -> None:
        generation = self.broker.generation
        if generation != self._generation:
            for channel in self.channels:
                channel.restore_temporary()
            self._generation = generation

    def _arm(self) -> float:
        """0: there is a message.  Else the seconds until something falls due; the bell rings, if need be."""
        queues = [channel.handle(name) for channel, name in self._open_queues()]
        return float(self._watch.arm(queues)) if queues else math.inf

    def look(self) -> None:
        """Something has changed: look for messages soon.  From any thread."""
        if bell := self._bell:
            bell.ring()

    def made_room(self) -> None:
        if self._is_full:
            self.look()

    # ── without a loop ─────────────────────────────────────────────────────────────

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Hand on one message.  Raises TimeoutError if none comes within *timeout* seconds."""
        try:
            self._wait_for_one(math.inf if timeout is None else time.monotonic() + timeout)
        finally:
            if self._loop is not None:  # it looks for what it was not told of, as this was
                self.look()

    def _wait_for_one(self, until: float) -> None:
        while not self._deliver_up_to(1):
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._bell.wait(min(left, self._arm()))

    # ── in a loop ──────────────────────────────────────────────────────────────────

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self._loop = loop
        loop.add_reader(self._bell.fd, self._on_readable)
        self.look()

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        if self._loop is not None:
            with suppress(ValueError, OSError, AttributeError):  # the loop was reset, or closed
                self._loop.remove_reader(self._bell.fd)
            self._loop = None
            self._set_timer(math.inf)

    def _on_readable(self) -> None:
        self._bell.clear()
        if self._deliver_up_to(BURST) >= BURST:
            self.look()
            return
        left = self._arm()
        if left == 0:
            self.look()
        self._set_timer(time.monotonic() + left)

    def _set_timer(self, when: float) -> None:
        """One is kept that is earlier: to look in vain costs less than to set a timer each time."""
        if when < math.inf and self._timer_at <= when:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf
        if when < math.inf:
            self._timer_at = when
            self._timer = self._loop.call_later(when - time.monotonic() + LATE_SECONDS, self._on_due)

    def _on_due(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self.look()
