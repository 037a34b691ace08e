"""MqStorage: what huey keeps in a store: its queue, its schedule, its results.

    enqueue          ──► "<name>", ready ─────────────────► take     kept until it is settled (MqHuey)
    add_to_schedule  ──► "<name>", delayed ─► due: ready ─► dequeue  acked as it is taken (Huey)
    put_data, incr   ──► results.sqlite, beside the store

What is due is in the queue by itself, in its place by priority.  `read_schedule` takes what is not due yet.

While a task is settled, what its thread enqueues is collected, and stored with the ack: see mqhuey.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from huey.constants import EmptyData
from huey.storage import BaseStorage

from mq.api.message import Delivery
from mq.api.options import PRIORITY_MAX, PublishOptions
from mq.api.queue import Queue
from mq.contrib.results import Results
from mq.contrib.settings import Settings
from mq.contrib.stores import Opener
from mq.delivery.queue import State
from mq.errors import UsageError

READ_SECONDS: Final = 1.0  # for a task, before a worker looks whether it is to end
PAGE: Final = 500  # messages that are looked at together
ALL: Final = 1 << 62
ROUND_UP: Final = timedelta(microseconds=999)  # times are stored in whole milliseconds, and no task is early


class Serialized(bytes):
    """A task as bytes, and how it is published."""

    priority: float | None = None
    dedup_id: str | None = None


class Outgoing(NamedTuple):
    body: bytes
    options: PublishOptions


class Outbox:
    """What follows a task: published with its ack, and done behind it."""

    def __init__(self) -> None:
        self.messages: list[Outgoing] = []
        self.afterwards: list[Callable[[], object]] = []


class MqStorage(BaseStorage):
    """Of one huey.  The store is opened when it is first used."""

    priority = True

    def __init__(
        self, name: str = "huey", url: str = "", *, blocking: bool = True, read_timeout: float = READ_SECONDS,
        expire_time: float | None = None, utc: bool = True, **options: object,
    ) -> None:  # fmt: skip
        """*name*: of the queue.  *url*: `mq:///data`, or a directory.

        *blocking*: whether `dequeue` waits for a task, for *read_timeout* seconds (1); else huey asks again
        and again.
        *expire_time*: seconds after which results go that are not read; None (the default): never.
        *utc*: as of Huey: what naive times mean.
        *options*: sync, visibility_timeout, max_attempts, as in the URL.

        Raises UsageError.
        """
        super().__init__(name)
        if not url:
            raise UsageError("which store? Say url='mq:///data', or a directory")
        self.settings = Settings.of(url, **options)
        self.blocking, self.read_timeout, self.utc = blocking, read_timeout, utc
        self.expire_time = expire_time
        self._opener = Opener(self.settings)
        self._of_thread = threading.local()  # or of a greenlet: .outbox

    @property
    def queue(self) -> Queue[Any]:
        return self._opener.queue(self.name)

    @property
    def results(self) -> Results:
        return self._opener.results

    def renewing(self) -> AbstractContextManager[None]:
        """A block in which a store that fails is let go of, so that the next operation opens it anew."""
        return self._opener.renewing()

    def close(self) -> None:
        """Let go of the store.  It is opened again when it is needed."""
        self._opener.close()

    # ── the queue ──────────────────────────────────────────────────────────────────

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        self._publish(data, {"priority": _priority(priority)} if priority else {})

    def _publish(self, data: bytes, options: PublishOptions) -> None:
        if isinstance(data, Serialized) and data.dedup_id:
            options["dedup_id"] = data.dedup_id
        outbox: Outbox | None = getattr(self._of_thread, "outbox", None)
        if outbox is None:
            with self.renewing():
                self.queue.publish(bytes(data), **options)
        else:
            outbox.messages.append(Outgoing(bytes(data), options))

    def take(self) -> Delivery[Any] | None:
        """The next task; None if none comes for a while."""
        with self.renewing():
            return self.queue.receive(self.read_timeout if self.blocking else 0)

    def keep(self, delivery: Delivery[Any]) -> None:
        """Until it is settled, or this process dies."""
        self._opener.broker.keep(delivery)

    def dequeue(self) -> bytes | None:
        delivery = self.take()
        if delivery is None:
            return None
        delivery.ack()
        return delivery.raw

    def queue_size(self) -> int:
        return self.queue.stats().ready

    def enqueued_items(self, limit: int | None = None) -> list[bytes]:
        return [each.raw for each in self.queue.peek(limit or ALL)]

    def flush_queue(self) -> None:
        self._drop("ready")

    def _drop(self, state: State) -> None:
        queue = self.queue
        while messages := queue.peek(PAGE, state=state):
            for each in messages:
                queue.cancel(each.id)

    # ── what follows a task ────────────────────────────────────────────────────────

    @contextmanager
    def collected(self) -> Generator[Outbox, None, None]:
        """A block in which what this thread enqueues is kept in the outbox, not published."""
        outbox = self._of_thread.outbox = Outbox()
        try:
            yield outbox
        finally:
            self._of_thread.outbox = None

    def at_once(self, work: Callable[[], Any]) -> Any:
        """Call *work*, inside such a block: what it enqueues is published at once."""
        outbox, self._of_thread.outbox = self._of_thread.outbox, None
        try:
            return work()
        finally:
            self._of_thread.outbox = outbox

    def afterwards(self, do: Callable[[], object]) -> None:
        """Call *do* behind the ack; at once if there is none to come."""
        outbox: Outbox | None = getattr(self._of_thread, "outbox", None)
        if outbox is None:
            do()
        else:
            outbox.afterwards.append(do)

    def settle(self, delivery: Delivery[Any], outbox: Outbox) -> None:
        """Ack, and publish what follows, both or neither.  Raises StaleReceipt, DiskFull, StoreFailed."""
        if outbox.messages:
            with self._opener.broker.transaction() as transaction:
                transaction.ack(delivery)
                for body, options in outbox.messages:
                    transaction.publish(self.queue, body, **options)
        else:
            delivery.ack()
        for do in outbox.afterwards:
            do()

    # ── the schedule ───────────────────────────────────────────────────────────────

    def add_to_schedule(self, data: bytes, ts: datetime) -> None:
        options: PublishOptions = {"at": self._instant(ts) + ROUND_UP}
        if isinstance(data, Serialized) and data.priority:
            options["priority"] = _priority(data.priority)
        self._publish(data, options)

    def read_schedule(self, ts: datetime) -> list[bytes]:
        """Take what is due by *ts* and not yet now: what is due now is in the queue."""
        queue, until, taken = self.queue, self._instant(ts), list[bytes]()
        while first := queue.peek(1, state="delayed"):
            (task,) = first
            if (task.due_at or until) > until + ROUND_UP:
                break
            if queue.cancel(task.id):
                taken.append(task.raw)
        return taken

    def _instant(self, ts: datetime) -> datetime:
        if ts.tzinfo is None and self.utc:
            return ts.replace(tzinfo=UTC)
        return ts.astimezone(UTC)  # naive: local time

    def schedule_size(self) -> int:
        return self.queue.stats().delayed

    def scheduled_items(self, limit: int | None = None) -> list[bytes]:
        return [each.raw for each in self.queue.peek(limit or ALL, state="delayed")]

    def flush_schedule(self) -> None:
        self._drop("delayed")

    # ── results ────────────────────────────────────────────────────────────────────

    def _prefix(self, kind: str) -> str:
        return f"huey/{self.name}/{kind}/"

    def _key(self, key: str | bytes) -> str:
        return self._prefix("data") + _text(key)

    def _counter(self, key: str | bytes) -> str:
        return self._prefix("counter") + _text(key)

    def put_data(self, key: str | bytes, value: Any, is_result: bool = False) -> None:
        self.results.put(self._key(key), value, ttl=self.expire_time if is_result else None)

    def peek_data(self, key: str | bytes) -> Any:
        return _found(self.results.get(self._key(key)))

    def peek_many(self, keys: Iterable[str | bytes]) -> dict[str | bytes, Any]:
        by_name = {self._key(key): key for key in keys}
        return {by_name[name]: value for name, value in self.results.get_many(by_name).items()}

    def pop_data(self, key: str | bytes) -> Any:
        return _found(self.results.pop(self._key(key)))

    def delete_data(self, key: str | bytes) -> bool:
        return self.results.pop(self._key(key)) is not None

    def has_data_for_key(self, key: str | bytes) -> bool:
        return self.results.get(self._key(key)) is not None

    def put_if_empty(self, key: str | bytes, value: Any, ttl: float | None = None) -> bool:
        return self.results.add(self._key(key), value, ttl=ttl)

    def wait_result(
        self, key: str | bytes, timeout: float | None = None, backoff: float = 1.15, max_delay: float = 1.0
    ) -> bool:
        """Returns within 1 to 50 ms of the result, whatever *backoff* and *max_delay* are."""
        return self.results.wait(self._key(key), timeout) is not None

    def incr(self, key: str | bytes, amount: int = 1) -> int:
        return self.results.incr(self._counter(key), amount)

    def delete_counter(self, key: str | bytes) -> None:
        self.results.delete(self._counter(key))

    def result_store_size(self) -> int:
        return self.results.count(self._prefix("data"))

    def result_items(self) -> dict[str, Any]:
        prefix = self._prefix("data")
        return {key.removeprefix(prefix): value for key, value in self.results.items(prefix).items()}

    def flush_results(self) -> None:
        self.results.clear(self._prefix("data"))

    def flush_counters(self) -> None:
        self.results.clear(self._prefix("counter"))


def _priority(priority: float) -> int:
    if not 0 <= priority <= PRIORITY_MAX:
        raise UsageError(f"a priority is from 0, which is huey's own, to {PRIORITY_MAX}, not {priority!r}")
    return int(priority)


def _text(key: str | bytes) -> str:
    return key.decode() if isinstance(key, bytes) else key


def _found(value: Any) -> Any:
    return EmptyData if value is None else value
