"""Results and rate limits of dramatiq, in mq.contrib.results: results.sqlite, beside the store.

from dramatiq.results import Results
from mq.contrib.dramatiq import ResultBackend

broker.add_middleware(Results(backend=ResultBackend("mq:///data")))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from dramatiq import Encoder
from dramatiq.rate_limits import RateLimiterBackend as Limits
from dramatiq.results import ResultBackend as Backend
from dramatiq.results import ResultMissing, ResultTimeout
from dramatiq.results.backend import DEFAULT_TIMEOUT, Missing

from mq.api.broker import Sync
from mq.contrib.settings import Settings
from mq.contrib.stores import Opener

PREFIX = "dramatiq-limits:"  # of the keys of rate limiters


class ResultBackend(Backend):
    """*place*, *sync*: as of MqBroker.  The others: as of `dramatiq.results.ResultBackend`."""

    def __init__(
        self, place: str | os.PathLike[str], *, sync: Sync | None = None,
        namespace: str = "dramatiq-results", encoder: Encoder | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(namespace=namespace, encoder=encoder, **options)
        self._stored = Opener(Settings.of(place, sync=sync))

    def get_result(self, message: Any, *, block: bool = False, timeout: int | None = None) -> Any:
        """The result of *message*.

        *block*: whether to wait for it, *timeout* milliseconds; None (the default): 10,000.

        Raises ResultMissing, ResultTimeout, ResultFailure (the actor raised), StorageError.
        """
        key = self.build_message_key(message)
        if block:
            milliseconds = DEFAULT_TIMEOUT if timeout is None else timeout
            found = self._stored.results.wait(key, milliseconds / 1000)
        else:
            found = self._stored.results.get(key)
        if found is None:
            raise ResultTimeout(message) if block else ResultMissing(message)
        unwrap: Any = self.unwrap_result  # without types
        return unwrap(self.encoder.decode(found))

    def _get(self, message_key: str) -> Any:
        found = self._stored.results.get(message_key)
        return Missing if found is None else self.encoder.decode(found)

    def _store(self, message_key: str, result: Any, ttl: int) -> None:
        self._stored.results.put(message_key, self.encoder.encode(result), ttl=_seconds(ttl))


class RateLimiterBackend(Limits):
    """*place*, *sync*: as of MqBroker.  Barriers that wait do so without polling the disk."""

    def __init__(self, place: str | os.PathLike[str], *, sync: Sync | None = None) -> None:
        self._stored = Opener(Settings.of(place, sync=sync))

    def add(self, key: str, value: int, ttl: int) -> bool:
        return self._stored.results.add(PREFIX + key, value, ttl=_seconds(ttl))

    def incr(self, key: str, amount: int, maximum: int, ttl: int) -> bool:
        return self._change(key, amount, ttl, lambda value: value <= maximum)

    def decr(self, key: str, amount: int, minimum: int, ttl: int) -> bool:
        return self._change(key, -amount, ttl, lambda value: value >= minimum)

    def incr_and_sum(
        self, key: str, keys: Callable[[], Iterable[str]], amount: int, maximum: int, ttl: int
    ) -> bool:
        def is_allowed(value: int) -> bool:
            return value <= maximum and amount + self._sum(keys()) <= maximum

        return self._change(key, amount, ttl, is_allowed)

    def _sum(self, keys: Iterable[str]) -> int:
        return sum(self._stored.results.get_many(PREFIX + key for key in keys).values())

    def _change(self, key: str, by: int, ttl: int, is_allowed: Callable[[int], bool]) -> bool:
        results = self._stored.results
        with results.transaction():
            value = (results.get(PREFIX + key) or 0) + by
            if not is_allowed(value):
                return False
            results.put(PREFIX + key, value, ttl=_seconds(ttl))
            return True

    def wait(self, key: str, timeout: int | None) -> bool:
        """*timeout*: milliseconds; None: for ever."""
        seconds = None if timeout is None else timeout / 1000
        return self._stored.results.wait(PREFIX + key, seconds) is not None

    def wait_notify(self, key: str, ttl: int) -> None:
        self._stored.results.put(PREFIX + key, b"x", ttl=_seconds(ttl))


def _seconds(ttl: int) -> float:
    return max(ttl, 1) / 1000
