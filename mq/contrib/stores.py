"""Stores by URL, opened once in a process however many connections a library makes.

    mq:///data                relative to the working directory        connection ─┐
    mq:////var/data           from the root                            connection ─┼─► Lease ─► one Broker
    mq:///data?sync=0.1       with options                             pool ───────┘   of a path and a sync

The last lease that is closed closes the broker.  In the child of a fork the same leases go on: the broker
opens by itself there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.util import Finalize
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote

import mq
from mq.api.broker import Broker, Sync
from mq.errors import MqError, UsageError
from mq.storage import paths

SCHEME: Final = "mq://"
FORMS: Final = "write mq:///data (relative to the working directory) or mq:////var/data (from the root)"


class Address(NamedTuple):
    """A URL, taken apart."""

    path: str
    options: Mapping[str, str]


def parse(url: str) -> Address:
    """Raises UsageError."""
    if not url.startswith(SCHEME):
        raise UsageError(f"{url!r} is not a store's URL: {FORMS}")
    place, _, query = url[len(SCHEME) :].partition("?")
    if not place.startswith("/") or place == "/":
        raise UsageError(f"{url!r} names no directory: {FORMS}")
    return Address(unquote(place[1:]), dict(parse_qsl(query, keep_blank_values=True)))


def sync_of(value: object) -> Sync:
    """What an option says, as text or not; UsageError if that is no `sync`."""
    if value in ("always", "never"):
        return value
    with suppress(TypeError, ValueError):
        return float(value)  # type: ignore[arg-type]
    raise UsageError(f'sync is "always", "never" or seconds, not {value!r}')


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


def _close_all() -> None:
    with _lock:
        for shared in list(_brokers.values()):
            shared.close()


# Of multiprocessing and not of atexit: behind what kombu puts back then, which has a higher priority.
Finalize(None, _close_all, exitpriority=0)
# No thread holds it over a fork, so that the child can use it.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
