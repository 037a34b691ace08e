"""Stores, opened once in a process however many connections a library makes.

    connection ─┐
    connection ─┼─► Lease ─► one Broker of a path and a sync
    Opener ─────┘

The last lease that is closed closes the broker.  In the child of a fork the same leases go on: the broker
opens by itself there.  An Opener takes a lease when it first needs one, and another one after a failure.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import Finalize
from typing import Any

import mq
from mq.api.broker import Broker, Sync
from mq.api.queue import Queue
from mq.contrib.results import Results
from mq.contrib.settings import Settings
from mq.errors import MqError, StoreFailed
from mq.storage import paths


class Lease:
    """The right to use a broker, of one connection."""

    def __init__(self, shared: _Shared) -> None:
        self._shared, self.closed = shared, False

    @property
    def broker(self) -> Broker:
        return self._shared.broker

    def close(self) -> None:
        """Let go of it.  A second call does nothing."""
        with _lock:
            if not self.closed:
                self.closed = True
                self._shared.let_go()

    def is_usable(self) -> bool:
        return self._shared.is_usable()


class _Shared:
    def __init__(self, key: tuple[str, Sync]) -> None:
        self.key, self.count = key, 0
        self.broker = mq.open(key[0], sync=key[1])

    def is_usable(self) -> bool:
        with suppress(MqError):
            self.broker.queues(limit=1)
            return True
        return False

    def let_go(self) -> None:
        self.count -= 1
        if self.count <= 0:
            self.close()

    def close(self) -> None:
        if _brokers.get(self.key) is self:
            del _brokers[self.key]
        self.broker.close()


_brokers: dict[tuple[str, Sync], _Shared] = {}
_lock: Any = threading.RLock()  # of the table, and of opening


def open(path: str, sync: Sync = "always") -> Lease:
    """A lease of the store's broker.  One that has failed is closed first, so that it is opened anew."""
    key = paths.absolute(path), sync
    with _lock:
        shared = _brokers.get(key)
        if shared and not shared.is_usable():
            with suppress(MqError):
                shared.close()
            shared = None
        if shared is None:
            shared = _brokers[key] = _Shared(key)
        shared.count += 1
        return Lease(shared)


class Opener:
    """A store and the results beside it, each opened when it is first needed, and again after `close`.

    Results that have failed are opened anew by themselves.

    So an import of a program's tasks touches no file.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lease: Lease | None = None
        self._handles: tuple[Broker | None, dict[str, Queue[Any]]] = (None, {})  # of that broker
        self._results: Results | None = None

    @property
    def broker(self) -> Broker:
        lease = self._lease
        if lease is None:
            with _lock:
                if self._lease is None:
                    self._lease = open(self.settings.path, self.settings.sync)
                lease = self._lease
        return lease.broker

    def queue(self, name: str) -> Queue[Any]:
        """The queue of that name, declared as the settings say."""
        broker = self.broker
        of, handles = self._handles
        if of is not broker:
            of, handles = self._handles = broker, {}
        if (found := handles.get(name)) is None:
            found = handles[name] = broker.queue(name, **self.settings.queue_options())
        return found

    @property
    def results(self) -> Results:
        """Raises what `Results` raises."""
        results = self._results
        if results is None or results.failed:
            with _lock:
                if self._results is None or self._results.failed:
                    self._results = Results(self.settings.path, sync=self.settings.sync)
                results = self._results
        return results

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """A block in which a store that fails is let go of, so that the next operation opens it anew."""
        try:
            yield
        except StoreFailed:
            self.let_go_if_unusable()
            raise

    def let_go_if_unusable(self) -> None:
        """Let go of a store that has failed, or was closed: not of one that was opened anew since."""
        with _lock, suppress(MqError):
            if (lease := self._lease) and not lease.is_usable():
                self._lease = None
                lease.close()

    def renew(self) -> None:
        """Open the store anew if it has failed, or was closed."""
        self.let_go_if_unusable()
        self.broker  # noqa: B018  # opens it

    def close(self) -> None:
        """Let go of both."""
        with _lock:
            lease, self._lease, self._handles = self._lease, None, (None, {})
            results, self._results = self._results, None
        for opened in (lease, results):
            if opened is not None:
                opened.close()


def _close_all() -> None:
    with _lock:
        for shared in list(_brokers.values()):
            shared.close()


# Of multiprocessing and not of atexit: behind what kombu puts back then, which has a higher priority.
Finalize(None, _close_all, exitpriority=0)
# No thread holds it over a fork, so that the child can use it.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
