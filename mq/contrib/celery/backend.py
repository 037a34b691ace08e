"""The result backend: states and results of tasks, groups and chords, in mq.contrib.results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from celery import states
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import TimeoutError
from celery.result import GroupResult
from celery.utils.functional import LRUCache, _regen
from kombu.utils.encoding import bytes_to_str

from mq.contrib.kombu.settings import ConnectionSettings
from mq.contrib.results import Results
from mq.contrib.stores import Opener
from mq.errors import StorageError

Meta = dict[str, Any]

GENERATED_MAX: Final = 1000  # chords whose publishing failed are left behind
UNKNOWN: Final = -(1 << 32)  # the size of a chord before all of its tasks are made


class ResultBackend(KeyValueStoreBackend):
    """`backend="mq:///data?sync=0.1"`: results.sqlite beside the store data/, which need not be there."""

    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True
    implements_incr = True
    key_t = bytes_to_str

    def __init__(self, app: Any, url: str | None = None, **options: Any) -> None:
        super().__init__(app, expires_type=int, url=url, **options)
        given = app.conf.get("result_backend_transport_options") or {}
        self._opener = Opener(ConnectionSettings.of_url(url or "", given))
        self._generated: Any = LRUCache(limit=GENERATED_MAX)  # chords that are being published

    def as_uri(self, include_password: bool = False) -> str:
        return str(self.url)

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "url": self.url})

    @property
    def results(self) -> Results:
        return self._opener.results

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
    #
    #   chord-unlock-<group>                how many of its tasks have returned
    #   chord-unlock-<group>/size           of how many; below 0: it is not known yet
    #   chord-unlock-<group>/last           the id of the last one, behind which the callback is called
    #   chord-unlock-<group>/task/<task>    which one this is; it may be delivered, and return, again

    def _apply_chord_incr(self, header_result_args: Any, body: Any, **options: Any) -> None:
        """Before its tasks are published.  A chord that is applied again has the ids of the first time."""
        group_id, results = header_result_args
        key, size = self.get_key_for_chord(group_id), UNKNOWN
        self.results.delete(key)
        self.results.clear(f"{key}/")
        if isinstance(results, _regen):  # a generator, which makes each task only when it is to be published
            self._generated[group_id] = True
        else:
            super()._apply_chord_incr(header_result_args, body, **options)
            size = sum(map(_tasks, results))
        self.results.put(f"{key}/size", size, ttl=self._chord_ttl())

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Before the last task of a group in a chord is published.

        *chord_size* may be that of another group, which ends a member of the chord: before Celery 5.7 it has
        the same id.
        """
        if self._generated.pop(group_id, None):
            size = f"{self.get_key_for_chord(group_id)}/size"
            self.results.incr(size, chord_size - UNKNOWN, ttl=self._chord_ttl())

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """*result*: of a task that one of the chord's tasks is to publish."""
        size = f"{self.get_key_for_chord(chord_id)}/size"
        with self.results.transaction():
            group = self.restore_group(chord_id, cache=False)
            if group is not None:  # else a generator makes it: see _save_returned
                group.results.append(result)
                self.save_group(chord_id, group)
            if self.results.get(size) is not None:  # else it has expired, and the group is counted
                self.results.incr(size, _tasks(result))

    def on_chord_part_return(self, request: Any, state: Any, result: Any, **options: Any) -> None:
        """Celery restores all members for each that returns; here only behind the last one."""
        if request.group and self._is_last(request):
            super().on_chord_part_return(request, state, result, **options)

    def _is_last(self, request: Any) -> bool:
        key, ttl = self.get_key_for_chord(request.group), self._chord_ttl()
        with self.results.transaction():
            index = getattr(request, "group_index", None) or 0
            if self.results.add(f"{key}/task/{request.id}", index, ttl=ttl):
                count = self.results.incr(key, ttl=ttl)
            elif (count := self.results.get(key)) is None:
                return False  # it was delivered again, and the chord is over
            size = self.results.get(f"{key}/size")
            if size is None:  # expired
                group = self.restore_group(request.group)
                if group is None:
                    return True  # Celery says so
                size = _tasks(group)
            if count != size:
                self._keep_for_chord(request)
                return False
            self.results.add(f"{key}/last", request.id, ttl=ttl)
            if self.results.get(f"{key}/last") != request.id:
                return False  # it was delivered again, and the last one is about to call
            if self.restore_group(request.group) is None:
                self._save_returned(request.group)
        request.chord["chord_size"] = size
        return True

    def _save_returned(self, group_id: str) -> None:
        """The members of a chord that was made by a generator: those that have returned, in their order."""
        prefix = f"{self.get_key_for_chord(group_id)}/task/"
        indexes = {key.removeprefix(prefix): index for key, index in self.results.items(prefix).items()}
        members = map(self.app.AsyncResult, sorted(indexes, key=indexes.__getitem__))
        self.save_group(group_id, self.app.GroupResult(group_id, list(members)))

    def _keep_for_chord(self, request: Any) -> None:
        """From Celery 5.7 on chords may last longer than results are kept."""
        expires = getattr(self, "_chord_result_expires", None)
        if expires is not None:
            self.expire(self.get_key_for_group(request.group), expires)
            self.expire(self.get_key_for_task(request.id), expires)

    def incr(self, key: str) -> int:
        """For Celery, which calls it behind the last task: they are counted before."""
        return self.results.get(key) or 0

    def is_cached(self, task_id: str) -> bool:
        """Celery looks among these for the task whose exception it tells of: as cheap as in memory."""
        return self.results.get(self.get_key_for_task(task_id)) is not None

    def _chord_ttl(self) -> float | None:
        return getattr(self, "chord_expires", self.expires) or None  # before Celery 5.7 there was the one

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

    def iter_native(self, result: Any, **options: Any) -> Iterator[tuple[str, Meta]]:
        """A group whose parent has failed is never published: what the parent raised is raised here."""
        if options.get("on_interval") is None and result.parent is not None:
            options["on_interval"] = lambda: _throw_parents(result)
        yield from super().iter_native(result, **options)

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
        """What *probe* returns once that is not None.  *on_interval* is called meanwhile, and then."""
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            step = left if on_interval is None else min(interval or 0.5, left if left is not None else 1e9)
            found = self.results.wait_for(probe, step)
            if found is None and until is not None and time.monotonic() >= until:
                raise TimeoutError("The operation timed out.")
            # Also once something is found: here Celery raises what a parent raised, and not the ChordError
            # that follows from it.
            if on_interval is not None:
                on_interval()
            if found is not None:
                return found


def _tasks(result: Any) -> int:
    """How many tasks there are behind a result; those of a group are many."""
    return sum(map(_tasks, result.results)) if isinstance(result, GroupResult) else 1


def _throw_parents(result: Any) -> None:
    """Raise what a task raised that *result* follows from."""
    while (result := result.parent) is not None:
        result.maybe_throw()


def _until(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
