"""Stores by URL, opened once in a process however many connections a library makes.

    mq:///data                relative to the working directory        connection ─┐
    mq:////var/data           from the root                            connection ─┼─► Lease ─► one Broker
    mq:///data?sync=0.1       with options                             pool ───────┘   of a path and a sync

The last lease that is closed closes the broker.  In the child of a fork the same leases go on: the broker
opens by itself there.  An Opener takes a lease when it first needs one, and another one after a failure.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.util import Finalize
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl, unquote

import mq
from mq.api.broker import Broker, Sync
from mq.api.options import QueueOptions
from mq.api.queue import Queue
from mq.errors import MqError, StoreFailed, UsageError
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


def checked(name: str, value: object) -> Any:
    """What an option of Settings says, as text or not; UsageError if it cannot be that."""
    if name == "sync":
        return sync_of(value)
    with suppress(TypeError, ValueError):
        return int(value) if name == "max_attempts" else float(value)  # type: ignore[call-overload,arg-type]
    raise UsageError(f"{name} is a number, not {value!r}")


class Settings(NamedTuple):
    """path                  the store's directory
    sync                  "always" (the default), seconds, "never": as of `mq.open`
    visibility_timeout    seconds (as the queues have it, 30 at first) after which the messages of a worker
                          that died are delivered again
    max_attempts          N: after so many failed deliveries to the dead letters; as the queues have it
    """

    path: str
    sync: Sync = "always"
    visibility_timeout: float | None = None
    max_attempts: int | None = None

    @classmethod
    def of(cls, place: str | os.PathLike[str], **options: object) -> Self:
        """*place*: a URL or a directory; what a URL says counts, then *options* that are not None.

        What is relative is of the working directory now.

        Raises UsageError, StorageError (there is no working directory).
        """
        path, asked = parse(place) if isinstance(place, str) and "://" in place else (os.fspath(place), {})
        if unknown := asked.keys() - set(cls._fields[1:]):
            raise UsageError(
                f"{place!r}: {min(unknown)} is no option, those are {', '.join(sorted(cls._fields[1:]))}"
            )
        if path == ":memory:":
            raise UsageError("a store in memory is of one process: give a directory")
        given = {name: value for name, value in {**options, **asked}.items() if value is not None}
        return cls(paths.absolute(path), **{name: checked(name, value) for name, value in given.items()})

    def queue_options(self) -> QueueOptions:
        """What to declare queues with: no more than was asked for."""
        options: QueueOptions = {}
        if self.visibility_timeout is not None:
            options["visibility_timeout"] = self.visibility_timeout
        if self.max_attempts is not None:
            options["max_attempts"] = self.max_attempts
        return options


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


class Opener:
    """A store that is opened when it is first needed: an import of a program's tasks touches no file."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lease: Lease | None = None
        self._handles: tuple[Broker | None, dict[str, Queue[Any]]] = (None, {})  # of that broker

    @property
    def broker(self) -> Broker:
        lease = self._lease
        if lease is None:
            with _lock:
                if self._lease is None:
                    self._lease = self._open()
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

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """A block in which a store that fails is let go of, so that the next operation opens it anew."""
        try:
            yield
        except StoreFailed:
            with suppress(MqError):
                self.close()
            raise

    def renew(self) -> None:
        """Open it anew if it has failed, or was closed."""
        with _lock:
            lease, self._lease = self._lease, None
            try:
                self._lease = self._open()
            finally:
                if lease:
                    lease.close()

    def _open(self) -> Lease:
        return open(self.settings.path, self.settings.sync)

    def close(self) -> None:
        """Let go of it.  It is opened again when it is needed."""
        with _lock:
            lease, self._lease, self._handles = self._lease, None, (None, {})
            if lease:
                lease.close()


def _close_all() -> None:
    with _lock:
        for shared in list(_brokers.values()):
            shared.close()


# Of multiprocessing and not of atexit: behind what kombu puts back then, which has a higher priority.
Finalize(None, _close_all, exitpriority=0)
# No thread holds it over a fork, so that the child can use it.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
