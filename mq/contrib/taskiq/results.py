"""Results and progress of tasks, in mq.contrib.results: results.sqlite, beside the store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import ResultGetError

from mq.api.broker import Sync
from mq.contrib.results import Results
from mq.contrib.settings import Settings
from mq.contrib.stores import Opener

R = TypeVar("R")
T = TypeVar("T")

PREFIX: Final = "taskiq:"
PROGRESS: Final = "taskiq-progress:"


class ResultMissing(ResultGetError):
    """There is no result of this task, or it has expired."""

    __template__ = "There is no result of this task, or it has expired"


class ResultBackend(AsyncResultBackend[R]):
    """Calls of the database run in threads, off the event loop.

    *place*, *sync*: as of MqBroker.
    *result_ex_time*: seconds that results and progress are kept; None (the default): for ever.
    *keep_results*: False: the first `get_result` of a task deletes its result.
    *serializer*: of taskiq; None (the default): JSON as pydantic makes it, which has dates, UUIDs and models.
    """

    def __init__(
        self, place: str | os.PathLike[str], *, sync: Sync | None = None,
        result_ex_time: float | None = None, keep_results: bool = True,
        serializer: TaskiqSerializer | None = None,
    ) -> None:  # fmt: skip
        self._opener = Opener(Settings.of(place, sync=sync))
        self._ttl, self._keeps, self._serializer = result_ex_time, keep_results, serializer

    async def _off_loop(self, do: Callable[[Results], T]) -> T:
        return await asyncio.to_thread(lambda: do(self._opener.results))

    async def shutdown(self) -> None:
        """Let go of the database.  It is opened again when it is needed."""
        await asyncio.to_thread(self._opener.close)

    # ── results ────────────────────────────────────────────────────────────────────

    async def set_result(self, task_id: str, result: TaskiqResult[R]) -> None:
        """Raises StorageError, and what the serializer raises."""
        value = self._dumped(result)
        await self._off_loop(lambda results: results.put(PREFIX + task_id, value, ttl=self._ttl))

    async def is_result_ready(self, task_id: str) -> bool:
        return await self._off_loop(partial(Results.get, key=PREFIX + task_id)) is not None

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[R]:
        """Raises ResultMissing, StorageError."""
        take = Results.get if self._keeps else Results.pop
        value = await self._off_loop(partial(take, key=PREFIX + task_id))
        if value is None:
            raise ResultMissing
        result: TaskiqResult[R] = self._loaded(TaskiqResult, value)
        if not with_logs:
            result.log = None
        return result

    # ── progress ───────────────────────────────────────────────────────────────────

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        value = self._dumped(progress)
        await self._off_loop(lambda results: results.put(PROGRESS + task_id, value, ttl=self._ttl))

    async def get_progress(self, task_id: str) -> TaskProgress[Any] | None:
        value = await self._off_loop(partial(Results.get, key=PROGRESS + task_id))
        return None if value is None else self._loaded(TaskProgress, value)

    def _dumped(self, model: Any) -> bytes:
        if self._serializer is None:
            return bytes(model.model_dump_json().encode())
        return self._serializer.dumpb(model.model_dump())

    def _loaded(self, kind: Any, value: bytes) -> Any:
        if self._serializer is None:
            return kind.model_validate_json(value)
        return kind.model_validate(self._serializer.loadb(value))
