"""Schedules that the store itself keeps: each tick is a task, published once, whichever processes run.

    from taskiq import TaskiqScheduler
    from mq.contrib.taskiq import ScheduleSource

    source = ScheduleSource(broker)
    scheduler = TaskiqScheduler(broker, [source])       # taskiq scheduler tasks:scheduler

    await add.schedule_by_cron(source, "0 9 * * *", 1, 2)

`taskiq scheduler` declares what labels of tasks say, and has no more to do: ticks come while any process has
the store open, and two schedulers publish no tick twice.  What the source has added is in results.sqlite too,
for the store keeps no more of a schedule than what it publishes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, timedelta
from typing import Any, Final, TypeVar

from taskiq import ScheduledTask, TaskiqMessage
from taskiq.abc.schedule_source import ScheduleSource as Source
from taskiq.labels import prepare_label

from mq.contrib.stores import Opener
from mq.contrib.taskiq.broker import TICK_HEADER, MqBroker, publish_options
from mq.errors import UsageError

T = TypeVar("T")

INDEX: Final = "taskiq-schedules:"
LABELS: Final = "labels:"  # how the ids of those begin that labels of tasks say
Entry = dict[str, Any]  # of the index: the ScheduledTask, and the id of a message that is published once


class ScheduleSource(Source):
    """*broker*: the broker that the tasks are of."""

    def __init__(self, broker: MqBroker) -> None:
        self._broker = broker
        self._opener = Opener(broker.store.settings)

    # ── what taskiq calls ──────────────────────────────────────────────────────────

    async def startup(self) -> None:
        """Declare what labels of tasks say, and take back what they say no longer."""
        wanted = {each.schedule_id: each for each in self._labelled()}
        known = await self._changed(lambda index: dict(index))
        for schedule_id in known.keys() - wanted.keys():
            if schedule_id.startswith(LABELS):
                await self.delete_schedule(schedule_id)
        for schedule_id, schedule in wanted.items():
            if schedule.time is None or known.get(schedule_id, {}).get("time") != _shown(schedule)["time"]:
                await self.add_schedule(schedule)

    async def shutdown(self) -> None:
        await asyncio.to_thread(self._opener.close)

    async def add_schedule(self, schedule: ScheduledTask) -> None:
        """Have the store publish the task, as *schedule* says.

        Raises UsageError (of cron, interval and time it has to have one; a cron_offset is the name of a time
        zone, or whole hours), StorageError.
        """
        if (schedule.cron, schedule.interval, schedule.time).count(None) != 2:
            raise UsageError("a schedule has one of cron, interval and time")
        message = self._message(schedule)
        options: dict[str, Any] = {**publish_options(message.labels)}
        data = self._broker.formatter.dumps(message).message
        queue = await self._broker.store.queue(message.labels.get("queue_name") or self._broker.queue_name)
        entry = _shown(schedule)
        if schedule.time is not None:
            due = schedule.time if schedule.time.tzinfo else schedule.time.replace(tzinfo=UTC)
            options.pop("delay", None)
            entry["message"] = [queue.name, await queue.publish(data, at=due, **options)]
        else:
            headers = {} if schedule.task_id else {TICK_HEADER: schedule.schedule_id}
            store = await self._broker.store.broker()
            await store.schedule(
                self._name(schedule.schedule_id), queue, data, headers=headers, **_times(schedule), **options
            )
        await self._changed(lambda index: index.update({schedule.schedule_id: entry}))

    async def delete_schedule(self, schedule_id: str) -> None:
        """What has been published is not taken back."""
        store = await self._broker.store.broker()
        await store.unschedule(self._name(schedule_id))
        entry: Entry | None = await self._changed(lambda index: index.pop(schedule_id, None))
        if entry and "message" in entry:
            queue, message_id = entry["message"]
            await (await self._broker.store.queue(queue)).cancel(message_id)

    async def get_schedules(self) -> list[ScheduledTask]:
        """All that there are; none in a scheduler, for there is nothing left for it to send."""
        if self._broker.is_scheduler_process:
            return []
        index: dict[str, Entry] = await self._changed(lambda index: dict(index))
        return [
            ScheduledTask.model_validate(entry) for entry in index.values() if await self._is_to_come(entry)
        ]

    # ── what it says ───────────────────────────────────────────────────────────────

    def _labelled(self) -> Iterator[ScheduledTask]:
        for name, task in self._broker.get_all_tasks().items():
            if task.broker is self._broker:
                labels = {key: value for key, value in task.labels.items() if key != "schedule"}
                for number, given in enumerate(task.labels.get("schedule", [])):
                    yield ScheduledTask(
                        task_name=name,
                        labels={**given.get("labels", {}), **labels},
                        args=given.get("args", []),
                        kwargs=given.get("kwargs", {}),
                        schedule_id=LABELS + given.get("schedule_id", f"{name}:{number}"),
                        **{key: given.get(key) for key in ("cron", "cron_offset", "time", "interval")},
                    )

    def _message(self, schedule: ScheduledTask) -> TaskiqMessage:
        given = {**schedule.labels, "schedule_id": schedule.schedule_id}
        prepared = {key: prepare_label(value) for key, value in given.items()}
        return TaskiqMessage(
            task_id=schedule.task_id or self._broker.id_generator(),
            task_name=schedule.task_name,
            labels={key: value for key, (value, _) in prepared.items()},
            labels_types={key: kind for key, (_, kind) in prepared.items()},
            args=schedule.args,
            kwargs=schedule.kwargs,
        )

    def _name(self, schedule_id: str) -> str:
        return f"{self._broker.queue_name}/{schedule_id}"

    async def _is_to_come(self, entry: Entry) -> bool:
        """Whether a message that is published once still waits; all others come again and again."""
        if "message" not in entry:
            return True
        queue, message_id = entry["message"]
        return await (await self._broker.store.queue(queue)).get(message_id) is not None

    # ── the index ──────────────────────────────────────────────────────────────────

    async def _changed(self, change: Callable[[dict[str, Entry]], T]) -> T:
        """What *change* makes of all entries of this broker, and returns; in a thread, and as one step."""
        return await asyncio.to_thread(self._change, change)

    def _change(self, change: Callable[[dict[str, Entry]], T]) -> T:
        results, key = self._opener.results, INDEX + self._broker.queue_name
        with results.transaction():
            before = results.get(key)
            index: dict[str, Entry] = json.loads(before or "{}")
            found = change(index)
            if (after := json.dumps(index)) != before:
                results.put(key, after)
        return found


def _shown(schedule: ScheduledTask) -> Entry:
    return schedule.model_dump(mode="json")


def _times(schedule: ScheduledTask) -> dict[str, Any]:
    if schedule.cron is not None:
        return {"cron": schedule.cron, "tz": _zone(schedule.cron_offset)}
    interval = schedule.interval
    return {"every": interval.total_seconds() if isinstance(interval, timedelta) else interval}


def _zone(offset: str | timedelta | None) -> str:
    if not isinstance(offset, timedelta):
        return offset or "UTC"
    hours, rest = divmod(offset, timedelta(hours=1))
    if rest or not -12 <= hours <= 14:
        raise UsageError(f"a cron_offset is the name of a time zone, or whole hours, not {offset!r}")
    return f"Etc/GMT{-hours:+d}"  # the sign is that of POSIX
