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
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from taskiq import ScheduledTask, TaskiqMessage
from taskiq.abc.schedule_source import ScheduleSource as Source
from taskiq.labels import prepare_label

from mq.contrib.results import Results
from mq.contrib.stores import Opener
from mq.contrib.taskiq.broker import TICK_HEADER, MqBroker, publish_options
from mq.errors import UsageError

T = TypeVar("T")

ENTRIES: Final = "taskiq-schedules:"
LABELS: Final = "labels:"  # how the ids of those begin that labels of tasks say
KEPT_SECONDS: Final = 86_400.0  # what is published once is listed so long behind its time, if it waits still
Entry = dict[str, Any]  # in the results: the ScheduledTask, and the id of a message that is published once


class ScheduleSource(Source):
    """*broker*: the broker that the tasks are of."""

    def __init__(self, broker: MqBroker) -> None:
        self._broker = broker
        self._opener = Opener(broker.store.settings)

    # ── what taskiq calls ──────────────────────────────────────────────────────────

    async def startup(self) -> None:
        """Declare what labels of tasks say, and take back what they say no longer."""
        wanted = {each.schedule_id: each for each in self._labelled()}
        known = await self._entries()
        for schedule_id in known.keys() - wanted.keys():
            if schedule_id.startswith(LABELS):
                await self.delete_schedule(schedule_id)
        for schedule_id, schedule in wanted.items():
            if schedule.time is None or known.get(schedule_id, {}).get("time") != _shown(schedule)["time"]:
                await self.add_schedule(schedule)

    async def shutdown(self) -> None:
        await asyncio.to_thread(self._opener.close)

    async def add_schedule(self, schedule: ScheduledTask) -> None:
        """Have the store publish the task, as *schedule* says, in place of what had this id.

        Raises UsageError (of cron, interval and time it has to have one; a cron_offset is the name of a time
        zone, or whole hours), StorageError.
        """
        if (schedule.cron, schedule.interval, schedule.time).count(None) != 2:
            raise UsageError("a schedule has one of cron, interval and time")
        message = self._message(schedule)
        options: dict[str, Any] = {**publish_options(message.labels)}
        data = self._broker.formatter.dumps(message).message
        queue = await self._broker.store.queue(message.labels.get("queue_name") or self._broker.queue_name)
        before, entry, ttl = await self._entry(schedule.schedule_id), _shown(schedule), None
        if schedule.time is not None:
            due = schedule.time if schedule.time.tzinfo else schedule.time.replace(tzinfo=UTC)
            options.pop("delay", None)
            entry["message"] = [queue.name, await queue.publish(data, at=due, **options)]
            if not schedule.schedule_id.startswith(LABELS):  # those are known as long as labels say them
                ttl = KEPT_SECONDS + max(0.0, (due - datetime.now(UTC)).total_seconds())
        else:
            headers = {} if schedule.task_id else {TICK_HEADER: schedule.schedule_id}
            store = await self._broker.store.broker()
            await store.schedule(
                self._name(schedule.schedule_id), queue, data, headers=headers, **_times(schedule), **options
            )
        key, value = self._key(schedule.schedule_id), json.dumps(entry)
        await self._with_results(lambda results: results.put(key, value, ttl=ttl))
        # Last: if this process dies in between, both run, and not neither.
        await self._take_back(before, ticks=schedule.time is not None)

    async def delete_schedule(self, schedule_id: str) -> None:
        """What has been published is not taken back, but a task at a time is while it waits."""
        store = await self._broker.store.broker()
        await store.unschedule(self._name(schedule_id))
        key = self._key(schedule_id)
        found = await self._with_results(lambda results: results.pop(key))
        await self._take_back(_decoded(found), ticks=False)

    async def _take_back(self, entry: Entry | None, *, ticks: bool) -> None:
        """*entry*: what had an id; *ticks*: also if it was one that comes again and again."""
        if entry and "message" in entry:
            queue, message_id = entry["message"]
            await (await self._broker.store.queue(queue)).cancel(message_id)
        elif entry and ticks:
            await (await self._broker.store.broker()).unschedule(self._name(entry["schedule_id"]))

    async def get_schedules(self) -> list[ScheduledTask]:
        """All that there are; none in a scheduler, for there is nothing left for it to send."""
        if self._broker.is_scheduler_process:
            return []
        entries = await self._entries()
        return [
            ScheduledTask.model_validate(entry) for entry in entries.values() if await self._is_to_come(entry)
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

    # ── what it knows of them ──────────────────────────────────────────────────────

    def _key(self, schedule_id: str) -> str:
        return f"{ENTRIES}{self._broker.queue_name}\n{schedule_id}"  # no queue has a line end in its name

    async def _entries(self) -> dict[str, Entry]:
        """All of this broker, by id."""
        prefix = self._key("")
        found = await self._with_results(lambda results: results.items(prefix))
        return {key.removeprefix(prefix): json.loads(text) for key, text in found.items()}

    async def _entry(self, schedule_id: str) -> Entry | None:
        key = self._key(schedule_id)
        return _decoded(await self._with_results(lambda results: results.get(key)))

    async def _with_results(self, do: Callable[[Results], T]) -> T:
        """In a thread."""
        return await asyncio.to_thread(lambda: do(self._opener.results))


def _decoded(text: Any) -> Entry | None:
    return None if text is None else json.loads(text)


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
