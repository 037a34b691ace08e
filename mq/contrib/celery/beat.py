"""Celery beat on schedules of mq: each tick is published once, however many beats run.

    schedule of mq ──► "celery.beat", a queue of ticks ──► a beat ──► the task, with a new id ──► ack
       durable              by whichever process                       a second time: same dedup id

So ticks come also while no beat runs, and wait; several of one schedule that were missed come as one.  A
beat that is killed between publishing and acking publishes nothing twice.  What mq has no schedule for, as
the sun, is left to Celery: that beat alone counts, and forgets it when it ends.

No failure ends beat.  A tick whose task could not be stored comes again; one whose task can never be
published (an argument that is no JSON) is logged, as Celery does.
"""

from __future__ import annotations

from typing import Any, Final

from celery import beat, schedules
from celery.exceptions import ImproperlyConfigured
from celery.utils.log import get_logger

from mq.api.broker import Broker
from mq.api.queue import Queue
from mq.contrib.kombu.settings import VISIBILITY_TIMEOUT
from mq.contrib.kombu.transport import Transport
from mq.contrib.stores import Opener
from mq.errors import Closed, StorageError, UsageError

logger = get_logger(__name__)

WAIT_SECONDS: Final = 1.0  # for a tick, before beat looks whether it is to end
FAR_SECONDS: Final = 3600.0  # until Celery asks again for an entry that mq has
FIELDS: Final = (
    ("minute", range(60)),
    ("hour", range(24)),
    ("day_of_month", range(1, 32)),
    ("month_of_year", range(1, 13)),
    ("day_of_week", range(7)),
)


def as_mq(schedule: Any) -> dict[str, Any] | None:
    """The arguments of `broker.schedule` that mean the same; None if there are none."""
    if type(schedule) is schedules.schedule and not schedule.relative:
        return {"every": schedule.run_every.total_seconds()}
    zone = getattr(schedule.tz, "key", None) or schedule.tz.tzname(None)
    if type(schedule) is not schedules.crontab or not zone:
        return None
    fields = [_field(getattr(schedule, name), every) for name, every in FIELDS]
    if fields[2] != "*" and fields[4] != "*":  # cron takes either day, Celery what is both
        return None
    return {"cron": " ".join(fields), "tz": zone}


def _field(values: set[int], every: range) -> str:
    return "*" if values >= set(every) else ",".join(map(str, sorted(values)))


class Entry(beat.ScheduleEntry):
    def is_due(self) -> Any:
        if as_mq(self.schedule):
            return schedules.schedstate(False, FAR_SECONDS)
        return super().is_due()


class Scheduler(beat.Scheduler):
    """`celery -A tasks beat -S mq.contrib.celery:Scheduler`."""

    Entry = Entry
    _opened: Opener | None = None

    @property
    def _opener(self) -> Opener:
        """Not the connection's: Celery closes that when a publish fails."""
        if self._opened is not None:
            return self._opened
        transport = self._ensure_connected().transport
        if not isinstance(transport, Transport):
            raise ImproperlyConfigured(
                f"this scheduler keeps its schedules in the broker, and that is no store of mq: set"
                f" broker_url to mq:///data, or leave beat_scheduler out ({transport.driver_type})"
            )
        self._opened = Opener(transport.settings)
        return self._opened

    @property
    def broker(self) -> Broker:
        return self._opener.broker

    @property
    def ticks(self) -> Queue[Any]:
        name = f"{self.app.conf.task_default_queue}.beat"
        return self.broker.queue(name, visibility_timeout=VISIBILITY_TIMEOUT)

    @property
    def info(self) -> str:
        return f"    . db -> {self.app.connection_for_write().as_uri()}"

    def setup_schedule(self) -> None:
        super().setup_schedule()
        prefix = f"{self.ticks.name}/"
        there = {each.name for each in self.broker.schedules() if each.name.startswith(prefix)}
        for entry in self.schedule.values():
            if times := as_mq(entry.schedule):
                self._declare(prefix + entry.name, entry, times)
                there.discard(prefix + entry.name)
            else:
                logger.warning(
                    "beat: %s is not in the store: only this beat knows when it is due", entry.name
                )
        for name in there:  # of an entry that is in the configuration no longer
            self.broker.unschedule(name)

    def _declare(self, name: str, entry: Any, times: dict[str, Any]) -> None:
        try:
            self.broker.schedule(name, self.ticks, entry.name, **times)
        except UsageError as error:
            raise ImproperlyConfigured(f"beat_schedule, {entry.name}: {error}") from error

    def tick(self, *args: Any, **options: Any) -> float:
        """Publish what is due; wait for the next tick, a second at most."""
        wait = super().tick(*args, **options)
        try:
            self._publish_next(max(0.0, min(wait, WAIT_SECONDS)))
        except (StorageError, Closed) as error:
            logger.error("beat: the store cannot be used, which is tried again: %s", error)
            self._opener.let_go_if_unusable()
            return WAIT_SECONDS
        return 0.0

    def _publish_next(self, wait: float) -> None:
        tick = self.ticks.receive(timeout=wait)
        if tick is not None:
            self.broker.keep(tick)
            with tick:
                self._publish(tick.body, tick.id)

    def close(self) -> None:
        super().close()
        if self._opened is not None:
            self._opened.close()

    def _publish(self, name: str, tick: int) -> None:
        entry = self.schedule.get(name)
        if entry is None:
            logger.warning("beat: a tick of %s, which is in the configuration no longer", name)
            return
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        entry = self.reserve(entry)
        once = self._maybe_entry(name, dict(entry, options={**entry.options, "dedup_id": f"beat-{tick}"}))
        try:
            self.apply_async(once, producer=self.producer, advance=False)
        except beat.SchedulingError as error:
            if failure := _of_the_store(error):
                raise failure from error  # so this tick comes again
            logger.error("beat: %s", error, exc_info=error)


def _of_the_store(error: BaseException | None) -> StorageError | Closed | None:
    """What of the store is behind an error of Celery, if it is that."""
    while error is not None and not isinstance(error, StorageError | Closed):
        error = error.__cause__ or error.__context__
    return error
