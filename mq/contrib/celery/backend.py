"""The result backend: states and results of tasks, groups and chords, in mq.contrib.results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from celery import states
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import TimeoutError
from kombu.utils.encoding import bytes_to_str

from mq.contrib.kombu.settings import settings
from mq.contrib.results import Results
from mq.errors import StorageError

Meta = dict[str, Any]


class ResultBackend(KeyValueStoreBackend):
    """`backend="mq:///data?sync=0.1"`: results.sqlite beside the store data/, which need not be there."""

    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True
    implements_incr = True
    key_t = bytes_to_str

    def __init__(self, app: Any, url: str | None = None, **options: Any) -> None:
        super().__init__(app, expires_type=int, url=url, **options)
        self._settings = settings(url or "", app.conf.get("result_backend_transport_options") or {})
        self._results: Results | None = None
        self._part = threading.local()  # of a chord: the id of the task that has just ended

    def as_uri(self, include_password: bool = False) -> str:
        return str(self.url)

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "url": self.url})

    @property
    def results(self) -> Results:
        if self._results is None:
            self._results = Results(self._settings.path, sync=self._settings.sync)
        return self._results

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, StorageError)

    # ── by key ─────────────────────────────────────────────────────────────────────

    def get(self, key: str) -> Any:
        return self.results.get(key)

    def mget(self, keys: Iterable[str]) -> list[Any]:
        keys = list(keys)
        found = self.results.get_many(keys)
        return [found.get(key) for key in keys]

    def set(self, key: str, value: bytes | str) -> None:
        self.results.put(key, value, ttl=self.expires or None)

    def delete(self, key: str) -> None:
        self.results.delete(key)

    def expire(self, key: str, value: float) -> None:
        self.results.expire(key, value or None)

    def cleanup(self) -> None:
        self.results.sweep()

    # ── chords ─────────────────────────────────────────────────────────────────────

    def on_chord_part_return(self, request: Any, state: Any, result: Any, **options: Any) -> None:
        """A task that was delivered again counts once; and not at all, once the chord is over."""
        if request.group:
            key = self.get_key_for_chord(request.group)
            if self.results.get(f"{key}/{request.id}") is not None and self.results.get(key) is None:
                return
        self._part.id = request.id
        try:
            super().on_chord_part_return(request, state, result, **options)
        finally:
            self._part.id = None

    def incr(self, key: str) -> int:
        part, ttl = getattr(self._part, "id", None), self.chord_expires or None
        with self.results.transaction():
            if part is None or self.results.add(f"{key}/{part}", b"", ttl=ttl):
                return self.results.incr(key, ttl=ttl)
            return self.results.get(key) or 0

    # ── waiting ────────────────────────────────────────────────────────────────────

    def wait_for(
        self, task_id: str, timeout: float | None = None, interval: float | None = 0.5, no_ack: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> Meta:  # fmt: skip
        self._ensure_not_eager()

        def probe() -> Meta | None:
            meta: Meta = self.get_task_meta(task_id)
            return meta if meta["status"] in states.READY_STATES else None

        return self._wait(probe, _until(timeout), interval, on_interval)

    def get_many(
        self, task_ids: Iterable[str], timeout: float | None = None, interval: float | None = 0.5,
        no_ack: bool = True, on_message: Callable[[Meta], object] | None = None,
        on_interval: Callable[[], object] | None = None, max_iterations: int | None = None,
        READY_STATES: Any = states.READY_STATES,
    ) -> Iterator[tuple[str, Meta]]:  # fmt: skip
        ids, until = set(task_ids), _until(timeout)
        while ids:
            found = self._wait(lambda: self._ready(ids) or None, until, interval, on_interval)
            for task_id, meta in found.items():
                ids.discard(task_id)
                self._cache[task_id] = meta
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta

    def _ready(self, ids: Iterable[str]) -> dict[str, Meta]:
        keys = list(ids)
        return self._mget_to_results(self.mget(map(self.get_key_for_task, keys)), keys)  # type: ignore[no-any-return]

    def _wait(
        self, probe: Callable[[], Meta | None], until: float | None, interval: float | None,
        on_interval: Callable[[], object] | None,
    ) -> Meta:  # fmt: skip
        """What *probe* returns once that is not None.  *on_interval* is called meanwhile, if there is one."""
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            step = left if on_interval is None else min(interval or 0.5, left if left is not None else 1e9)
            if (found := self.results.wait_for(probe, step)) is not None:
                return found
            if until is not None and time.monotonic() >= until:
                raise TimeoutError("The operation timed out.")
            if on_interval is not None:
                on_interval()


def _until(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
