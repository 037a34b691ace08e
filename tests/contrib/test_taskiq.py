"""taskiq on mq in one process: broker, acks, labels, results, schedules, a worker as a task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import pytest

pytest.importorskip("taskiq", reason='taskiq is not installed: pip install "mq[taskiq]"')

from taskiq import Context, ScheduledTask, SimpleRetryMiddleware, TaskiqDepends, TaskiqMiddleware
from taskiq.acks import AcknowledgeType
from taskiq.api import run_receiver_task
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import ResultGetError, SendTaskError
from taskiq.result import TaskiqResult
from taskiq.serializers import JSONSerializer

import mq
from mq.aio.message import AsyncDelivery
from mq.contrib import results
from mq.contrib.taskiq import MqBroker, ResultBackend, ScheduleSource, schedules

PATIENCE = 120.0  # seconds


@pytest.fixture(autouse=True)
def closed_results() -> Iterator[None]:
    yield
    for each in list(results._open):
        each.close()


def broker_of(path: Path, **options: Any) -> MqBroker:
    broker = MqBroker(f"mq:///{path}?sync=never", **options)
    return broker.with_result_backend(ResultBackend(path, sync="never"))


@asynccontextmanager
async def working(broker: MqBroker, **options: Any) -> AsyncIterator[None]:
    """A worker, as a task of this loop."""
    broker.is_worker_process = True
    await broker.startup()
    worker = asyncio.create_task(run_receiver_task(broker, run_startup=False, **options))
    try:
        yield
    finally:
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        await broker.shutdown()


async def until(done: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not (found := await done()):
            await asyncio.sleep(0.005)
    return found


async def stats(broker: MqBroker, queue: str = "taskiq") -> mq.Stats:
    return await (await broker.store.queue(queue)).stats()


async def counts(broker: MqBroker, *expected: int) -> None:
    """Wait until so many messages are ready, in flight, delayed."""

    async def reached() -> bool:
        return (await stats(broker))[:3] == expected

    await until(reached)


# ── what a worker does ─────────────────────────────────────────────────────────────


def test_a_worker_runs_what_taskiq_has(path) -> None:
    """Results, errors, retries, delays, dependencies, requeues, progress."""
    broker = broker_of(path).with_middlewares(SimpleRetryMiddleware(default_retry_count=3))
    runs: list[str] = []

    @broker.task
    async def add(x: int, y: int) -> int:
        return x + y

    @broker.task
    def fail() -> None:
        raise ZeroDivisionError("by design")

    @broker.task(retry_on_error=True)
    async def stubborn() -> int:
        runs.append("stubborn")
        if runs.count("stubborn") < 3:
            raise ValueError("not yet")
        return 3

    @broker.task
    async def requeued(context: Annotated[Context, TaskiqDepends()]) -> str:
        runs.append("requeued")
        if runs.count("requeued") < 2:
            await context.requeue()
        return str(context.message.labels["X-Taskiq-requeue"])

    async def main() -> None:
        async with working(broker):
            sent = [await add.kiq(n, n) for n in range(5)]
            done = [await each.wait_result(0.01, PATIENCE) for each in sent]
            assert [each.return_value for each in done] == [0, 2, 4, 6, 8]
            result = await (await fail.kiq()).wait_result(0.01, PATIENCE)
            assert result.is_err and isinstance(result.error, ZeroDivisionError)
            assert (await (await stubborn.kiq()).wait_result(0.01, PATIENCE)).return_value == 3
            assert (await (await requeued.kiq()).wait_result(0.01, PATIENCE)).return_value == "1"
            later = await add.kicker().with_labels(delay=0.1).kiq(1, 1)
            assert (await later.wait_result(0.01, PATIENCE)).return_value == 2
            await counts(broker, 0, 0, 0)
            assert (await stats(broker)).failed == 0

    asyncio.run(main())


def test_a_thousand_tasks_run_once_each_on_two_workers_of_one_store(path) -> None:
    ran: list[int] = []
    brokers = [broker_of(path), broker_of(path)]
    for each in brokers:
        each.register_task(lambda number: ran.append(number), "note")

    async def main() -> None:
        async with working(brokers[0]), working(brokers[1]):
            note = brokers[0].find_task("note")
            for number in range(1000):
                await note.kiq(number)
            await counts(brokers[0], 0, 0, 0)
            assert sorted(ran) == list(range(1000)) and (await stats(brokers[0])).failed == 0

    asyncio.run(main())


@pytest.mark.parametrize("policy", list(AcknowledgeType))
def test_a_task_is_acked_when_its_policy_says_so(path, policy) -> None:
    broker = broker_of(path)
    seen: dict[str, int] = {}

    async def look(when: str) -> None:
        seen[when] = (await stats(broker)).acked

    class Looks(TaskiqMiddleware):
        async def post_execute(self, *given: Any) -> None:
            await look("executed")

        async def post_save(self, *given: Any) -> None:
            await look("saved")

    @broker.task(ack_type=policy.value)
    async def task(context: Annotated[Context, TaskiqDepends()]) -> None:
        await look("begun")
        if policy == AcknowledgeType.MANUAL:
            await context.ack()
            await look("acked")

    async def main() -> None:
        async with working(broker.with_middlewares(Looks())):
            await task.kiq()
            await until(lambda: acked(1))

    async def acked(count: int) -> bool:
        return (await stats(broker)).acked == count and "saved" in seen

    asyncio.run(main())
    expected = {
        AcknowledgeType.WHEN_RECEIVED: {"begun": 1, "executed": 1, "saved": 1},
        AcknowledgeType.WHEN_EXECUTED: {"begun": 0, "executed": 1, "saved": 1},
        AcknowledgeType.WHEN_SAVED: {"begun": 0, "executed": 0, "saved": 0},
        AcknowledgeType.MANUAL: {"begun": 0, "acked": 1, "executed": 1, "saved": 1},
    }
    assert seen == expected[policy]


def test_what_cannot_go_to_the_dead_letters_now_goes_there_later(path, monkeypatch, caplog) -> None:
    """The worker goes on, and does not keep it until it ends."""
    broker = broker_of(path, visibility_timeout=0.05)
    reject, refusals = AsyncDelivery.reject, [mq.StoreLocked("store", None)]

    async def refused(self: Any, *given: Any) -> None:
        if refusals:
            raise refusals.pop()
        await reject(self, *given)

    async def dead() -> bool:
        return (await stats(broker, "taskiq.dead")).ready == 1

    async def main() -> None:
        monkeypatch.setattr(AsyncDelivery, "reject", refused)
        async with working(broker):
            await (await broker.store.queue("taskiq")).publish(b"none of taskiq")
            await until(dead)
            assert "which is tried again" in caplog.text and not refusals

    asyncio.run(main())


def test_a_task_that_ends_without_an_ack_fails_and_comes_to_the_dead_letters_and_back(path, caplog) -> None:
    """Unknown, unreadable, given up by a middleware, or not acked by itself."""
    broker = broker_of(path, max_attempts=2)
    is_mended = False

    class Breaks(TaskiqMiddleware):
        def pre_execute(self, message: Any) -> Any:
            if message.task_name == "broken" and not is_mended:
                raise ValueError("by design")
            return message

    @broker.task("broken")
    async def broken() -> None: ...

    @broker.task("silent", ack_type="manual")
    async def silent(context: Annotated[Context, TaskiqDepends()]) -> None:
        if is_mended:
            await context.ack()

    async def main() -> None:
        nonlocal is_mended
        async with working(broker.with_middlewares(Breaks())):
            queue = (await broker.store.broker()).queue("taskiq", backoff=mq.Backoff(0.001, 1, 0.001, 0))
            await queue.publish(b"none of taskiq")
            unknown = broker.task("unknown")(lambda: None)
            del broker.local_task_registry["unknown"]
            for each in (unknown, broken, silent):
                await each.kiq()

            async def dead() -> bool:
                return (await stats(broker, "taskiq.dead")).ready == 4

            await until(dead)
            letters = await broker.store.queue("taskiq.dead")
            reasons = [[each.reason for each in letter.failures] for letter in await letters.peek()]
            assert (
                sum(each == ["it was not acked: the log of its worker says why"] * 2 for each in reasons) == 2
            )
            assert ["no task has the name 'unknown'"] in reasons
            assert any("no message of taskiq" in each[0] for each in reasons)
            is_mended = True
            broker.local_task_registry["unknown"] = unknown
            await letters.replay()
            await until(lambda: acked(3))

    async def acked(count: int) -> bool:
        return (await stats(broker)).acked == count

    asyncio.run(main())


def test_what_a_worker_has_not_begun_is_back_untried_and_what_it_has_has_failed(path) -> None:
    broker = broker_of(path)

    @broker.task
    async def task() -> None: ...

    async def begin(taken: Any) -> bytes:
        return bytes(taken.data)

    async def main() -> None:
        await broker.startup()
        (await broker.store.broker()).queue("taskiq", backoff=mq.Backoff(3600, 1, 3600, 0))
        for _ in range(4):
            await task.kiq()
        listening = broker.listen()
        first, second = await anext(listening), await anext(listening)
        assert (await stats(broker))[:2] == (2, 2) and second is not None
        del second
        await counts(broker, 3, 1, 0)
        assert await asyncio.create_task(begin(first))
        await counts(broker, 3, 0, 1)
        await listening.aclose()
        queue = await broker.store.queue("taskiq")
        assert [each.attempts for each in await queue.peek()] == [0, 0, 0]
        await broker.shutdown()

    asyncio.run(main())


def test_an_ack_that_comes_twice_is_harmless(path, caplog) -> None:
    broker = broker_of(path)

    @broker.task
    async def task() -> None: ...

    async def main() -> None:
        await broker.startup()
        await task.kiq()
        listening = broker.listen()
        taken = await anext(listening)
        await taken.ack()
        await taken.ack()
        assert "Settled too late" in caplog.text and (await stats(broker)).acked == 1
        await listening.aclose()
        await broker.shutdown()

    asyncio.run(main())


def test_a_lease_is_kept_while_the_worker_lives(path, outlive) -> None:
    broker = broker_of(path, visibility_timeout=30)
    runs: list[int] = []
    over = asyncio.Event()

    @broker.task
    async def long() -> None:
        runs.append(1)
        await over.wait()

    async def main() -> None:
        async with working(broker):
            await long.kiq()
            await until(lambda: begun())
            queue = (await broker.store.broker())._broker.queue("taskiq")
            await asyncio.to_thread(outlive, lambda: queue.peek(state="in_flight")[0], 30)
            over.set()
            await until(lambda: acked())
            assert runs == [1] and (await stats(broker)).failed == 0

    async def begun() -> bool:
        return bool(runs)

    async def acked() -> bool:
        return (await stats(broker)).acked == 1

    asyncio.run(main())


# ── kicking ────────────────────────────────────────────────────────────────────────


def test_labels_say_when_in_which_order_and_where(path) -> None:
    broker = broker_of(path, queue_name="mine", additional_queues=["other"])

    @broker.task("note")
    async def note(number: int) -> None: ...

    async def main() -> None:
        for number, labels in enumerate([{}, {"priority": 5}, {"priority": "9"}, {"queue_name": "other"}]):
            await note.kicker().with_labels(**labels).kiq(number)
        await note.kicker().with_labels(delay=60).kiq(4)
        with pytest.raises(SendTaskError) as raised:
            await note.kicker().with_labels(delay="soon").kiq(5)
        assert isinstance(raised.value.__cause__, mq.UsageError)
        listening = broker.listen()
        got = [await anext(listening) for _ in range(4)]
        assert [json.loads(each.data)["args"] for each in got] == [[2], [1], [0], [3]]
        assert (await stats(broker, "mine")).delayed == 1
        (waiting,) = await (await broker.store.queue("mine")).peek(state="delayed")
        assert 55 < (waiting.due_at - waiting.created_at).total_seconds() <= 60.1
        for each in got:
            await each.ack()
        await listening.aclose()
        await broker.shutdown()

    asyncio.run(main())


def test_a_durable_task_is_one_sync(path, count_syncs) -> None:
    broker = MqBroker(path, sync="always")

    @broker.task
    async def task() -> None: ...

    async def main() -> None:
        await task.kiq()
        syncs = count_syncs((await broker.store.broker())._broker)
        for number in range(1, 4):
            await task.kiq()
            assert len(syncs) == number
        await asyncio.gather(*(task.kiq() for _ in range(10)))
        assert len(syncs) < 13, "tasks that wait together share a sync"
        await broker.shutdown()

    asyncio.run(main())


def test_a_task_is_kicked_without_a_start_and_in_one_loop_after_another(path) -> None:
    broker = broker_of(path)

    @broker.task
    async def task() -> None: ...

    async def main() -> None:
        await asyncio.gather(*(task.kiq() for _ in range(3)))

    assert not path.exists()
    asyncio.run(main())
    asyncio.run(main())

    async def end() -> None:
        assert (await stats(broker)).ready == 6
        await broker.shutdown()

    asyncio.run(end())


@pytest.mark.parametrize(
    ("place", "given", "says"),
    [
        ("mq://", {}, "names no directory"),
        ("mq:///a?snyc=1", {}, "snyc is no option"),
        ("a", {"sync": "x"}, "sync is"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(place, given, says) -> None:
    for kind in (MqBroker, ResultBackend):
        with pytest.raises(mq.UsageError, match=says):
            kind(place, **given)


# ── a store that fails, or is full ─────────────────────────────────────────────────


def test_a_store_that_failed_is_opened_anew_and_what_was_taken_before_can_be_acked(
    path, monkeypatch, fail_next_sync
) -> None:
    broker = MqBroker(path, sync="always")
    monkeypatch.setattr("mq.contrib.taskiq.broker.REOPEN_SECONDS", 0.0)

    @broker.task
    async def task(number: int) -> None: ...

    async def main() -> None:
        await task.kiq(1)
        await task.kiq(2)
        listening = broker.listen()
        before = await anext(listening)
        fail_next_sync()
        with pytest.raises(SendTaskError) as raised:
            await task.kiq(3)
        assert isinstance(raised.value.__cause__, mq.StoreFailed)
        await before.ack()
        got = [await anext(listening), await anext(listening)]
        assert [json.loads(each.data)["args"] for each in got] == [[2], [3]]
        assert (await stats(broker)).acked == 1
        await (await broker.store.broker()).close()
        waiting = asyncio.create_task(anext(listening))
        for each in got:
            await each.ack()
        await task.kiq(4)
        await (await waiting).ack()
        assert (await stats(broker))[:2] == (0, 0)
        await listening.aclose()
        await broker.shutdown()

    asyncio.run(main())


def test_a_failure_that_comes_late_leaves_what_was_opened_since(path, monkeypatch) -> None:
    """Else that would keep no longer what a worker has."""
    broker = broker_of(path)
    opened: list[mq.AsyncBroker] = []

    async def fail(*given: Any, **options: Any) -> int:
        await broker.store.close()  # for another task has failed before
        opened.append(await broker.store.broker())  # for a third one
        raise mq.StoreFailed("data", "by design")

    @broker.task
    async def task() -> None: ...

    async def main() -> None:
        monkeypatch.setattr(mq.AsyncQueue, "publish", fail)
        with pytest.raises(SendTaskError):
            await task.kiq()
        assert await broker.store.broker() is opened[0]
        await broker.shutdown()

    asyncio.run(main())


def test_what_a_worker_has_stays_kept_while_no_other_task_can_be_taken(path, monkeypatch) -> None:
    """A store that is closed keeps nothing: another worker would run it, too."""
    broker = broker_of(path)
    monkeypatch.setattr("mq.contrib.taskiq.broker.REOPEN_SECONDS", 0.0)
    receive, refused = mq.AsyncBroker.receive, [mq.DiskFull("data", "no space left on the device")]

    async def full(self: mq.AsyncBroker, *given: Any, **options: Any) -> Any:
        if refused:
            raise refused.pop()
        return await receive(self, *given, **options)

    @broker.task
    async def task() -> None: ...

    async def main() -> None:
        listening = broker.listen()
        await task.kiq()
        first = await anext(listening)
        store = await broker.store.broker()
        monkeypatch.setattr(mq.AsyncBroker, "receive", full)
        await task.kiq()
        second = await anext(listening)
        assert not refused and await broker.store.broker() is store
        await first.ack()
        await second.ack()
        await listening.aclose()
        await broker.shutdown()

    asyncio.run(main())


def test_on_a_full_disk_a_task_whose_retry_cannot_be_stored_runs_again(path, monkeypatch) -> None:
    broker = broker_of(path).with_middlewares(SimpleRetryMiddleware(default_retry_count=9))
    runs: list[int] = []

    @broker.task(retry_on_error=True)
    async def stubborn() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("not yet")

    async def full(*given: Any, **options: Any) -> int:
        raise mq.DiskFull("data", "no space left on the device")

    async def failed() -> bool:
        return (await stats(broker)).failed >= 1  # it comes again soon, and may have failed twice by now

    async def main() -> None:
        await (await broker.store.broker()).queue("taskiq", backoff=mq.Backoff(0.01, 1, 0.01, 0)).options()
        await stubborn.kiq()
        with monkeypatch.context() as disk:
            disk.setattr(mq.AsyncQueue, "publish", full)
            with pytest.raises(SendTaskError):
                await stubborn.kiq()
            worker = working(broker)
            await worker.__aenter__()
            await until(failed)
        await counts(broker, 0, 0, 0)
        assert len(runs) == 3
        await worker.__aexit__(None, None, None)

    asyncio.run(main())


# ── results ────────────────────────────────────────────────────────────────────────


def result_of(value: Any, error: BaseException | None = None) -> TaskiqResult[Any]:
    return TaskiqResult(
        is_err=error is not None, log="said", return_value=value, execution_time=0.1, error=error
    )


@pytest.mark.parametrize("serializer", [None, JSONSerializer()])
def test_results_and_progress_are_stored_and_read(path, serializer) -> None:
    backend: ResultBackend[Any] = ResultBackend(path, sync="never", serializer=serializer)
    other: ResultBackend[Any] = ResultBackend(path, sync="never", serializer=serializer, keep_results=False)

    async def main() -> None:
        assert not await backend.is_result_ready("a") and await backend.get_progress("a") is None
        with pytest.raises(ResultGetError, match="no result of this task"):
            await backend.get_result("a")
        await backend.set_result("a", result_of({"x": [1, None]}))
        await backend.set_result("b", result_of(None, ValueError("no")))
        await backend.set_progress("a", TaskProgress(state="half", meta={"done": 5}))
        assert await other.is_result_ready("a")
        found = await backend.get_result("a", with_logs=True)
        assert (found.return_value, found.is_err, found.log) == ({"x": [1, None]}, False, "said")
        found = await backend.get_result("b")
        assert isinstance(found.error, ValueError) and found.error.args == ("no",) and found.log is None
        assert await other.get_progress("a") == TaskProgress(state="half", meta={"done": 5})
        await other.get_result("a")
        assert not await backend.is_result_ready("a"), "whoever does not keep results deletes them"
        await backend.shutdown()
        await other.shutdown()
        assert await backend.is_result_ready("b")
        await backend.shutdown()

    asyncio.run(main())


def test_results_have_dates_and_expire(path) -> None:
    backend: ResultBackend[Any] = ResultBackend(path, sync="never", result_ex_time=0.001)

    async def gone() -> bool:
        return not await backend.is_result_ready("a")

    async def main() -> None:
        await backend.set_result("a", result_of(datetime(2020, 1, 2, tzinfo=UTC)))
        await until(gone)
        await backend.shutdown()

    asyncio.run(main())


# ── schedules ──────────────────────────────────────────────────────────────────────


def scheduled(**given: Any) -> ScheduledTask:
    return ScheduledTask(task_name="note", labels={"a": 1}, args=[7], kwargs={}, **given)


async def added(broker: MqBroker, **given: Any) -> mq.Schedule:
    await ScheduleSource(broker).add_schedule(scheduled(schedule_id="s", **given))
    (found,) = await (await broker.store.broker()).schedules()
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"cron": "*/5 * * * *"}, ("*/5 * * * *", None, "UTC")),
        ({"cron": "0 9 * * 1", "cron_offset": "Europe/Berlin"}, ("0 9 * * 1", None, "Europe/Berlin")),
        ({"cron": "0 9 * * 1", "cron_offset": timedelta(hours=3)}, ("0 9 * * 1", None, "Etc/GMT-3")),
        ({"interval": 90}, (None, 90.0, "UTC")),
        ({"interval": timedelta(minutes=1)}, (None, 60.0, "UTC")),
    ],
)
def test_a_schedule_of_taskiq_is_one_of_the_store(path, given, expected) -> None:
    async def main() -> None:
        broker = broker_of(path)
        found = await added(broker, **given)
        assert (found.name, found.queue) == ("taskiq/s", "taskiq")
        assert (found.cron, found.every, found.tz) == expected
        source = ScheduleSource(broker)
        (listed,) = await source.get_schedules()
        assert listed == scheduled(schedule_id="s", **given)
        await source.delete_schedule("s")
        await source.delete_schedule("s")
        assert await source.get_schedules() == [] == await (await broker.store.broker()).schedules()
        await source.shutdown()
        await broker.shutdown()

    asyncio.run(main())


def test_a_cron_offset_of_minutes_and_two_times_are_refused(path) -> None:
    async def main() -> None:
        broker = broker_of(path)
        with pytest.raises(mq.UsageError, match="whole hours"):
            await added(broker, cron="* * * * *", cron_offset=timedelta(minutes=30))
        with pytest.raises(mq.UsageError, match="one of cron"):
            await added(broker, cron="* * * * *", interval=5)
        with pytest.raises(mq.UsageError):
            await added(broker, cron="61 * * * *")
        await broker.shutdown()

    asyncio.run(main())


def test_each_tick_runs_once_with_an_id_of_its_own(path) -> None:
    broker = broker_of(path)
    ids: list[str] = []

    @broker.task("note")
    async def note(number: int, context: Annotated[Context, TaskiqDepends()]) -> None:
        assert number == 7 and context.message.labels["a"] == 1
        ids.append(context.message.task_id)

    async def main() -> None:
        source = ScheduleSource(broker)
        async with working(broker):
            message = source._message(scheduled(schedule_id="s", interval=1))
            data = broker.formatter.dumps(message).message
            store = await broker.store.broker()
            await store.schedule("taskiq/s", "taskiq", data, every=0.02, headers={"taskiq-schedule": "s"})
            await until(lambda: ran(3))
            await store.unschedule("taskiq/s")
            await counts(broker, 0, 0, 0)
            assert len(ids) == len(set(ids)) == (await stats(broker)).published
            assert all(each.startswith("s-") for each in ids)

    async def ran(count: int) -> bool:
        return len(ids) >= count

    asyncio.run(main())


def test_a_task_at_a_time_is_published_once_and_can_be_taken_back(path) -> None:
    broker = broker_of(path)

    @broker.task("note")
    async def note(number: int) -> None: ...

    async def main() -> None:
        source = ScheduleSource(broker)
        soon = datetime.now(UTC) + timedelta(hours=1)
        created = await note.schedule_by_time(source, soon, 7)
        naive = await note.schedule_by_time(source, soon.replace(tzinfo=None), 8)
        assert {each.schedule_id for each in await source.get_schedules()} == {
            created.schedule_id,
            naive.schedule_id,
        }
        queue = await broker.store.queue("taskiq")
        assert {each.due_at for each in await queue.peek(state="delayed")} == {
            soon.replace(microsecond=soon.microsecond // 1000 * 1000)
        }
        await created.unschedule()
        await counts(broker, 0, 0, 1)
        await queue.purge()
        assert await source.get_schedules() == []
        await source.shutdown()
        await broker.shutdown()

    asyncio.run(main())


def test_what_was_scheduled_once_leaves_nothing_behind(path, monkeypatch) -> None:
    """A program that reminds its users makes thousands of these a day."""
    monkeypatch.setattr(schedules, "KEPT_SECONDS", 0.001)
    monkeypatch.setattr(results, "SWEEP_SECONDS", 0.0)
    broker = broker_of(path)

    @broker.task("note")
    async def note(number: int) -> None: ...

    async def main() -> None:
        source = ScheduleSource(broker)
        past = datetime.now(UTC) - timedelta(seconds=1)
        for number in range(20):
            await note.schedule_by_time(source, past, number)
        stored = source._opener.results
        await until(lambda: asyncio.to_thread(lambda: stored.sweep() == 0 == stored.count("")))
        assert await source.get_schedules() == []
        assert (await stats(broker)).ready == 20
        await source.shutdown()
        await broker.shutdown()

    asyncio.run(main())


def test_a_schedule_of_one_queue_is_none_of_another(path) -> None:
    async def main() -> None:
        first, second = (broker_of(path, queue_name=name) for name in ("q", "q/q"))
        await ScheduleSource(second).add_schedule(scheduled(schedule_id="s", interval=3600))
        assert await ScheduleSource(first).get_schedules() == []
        assert len(await ScheduleSource(second).get_schedules()) == 1
        await first.shutdown()
        await second.shutdown()

    asyncio.run(main())


HOUR: Final = timedelta(hours=1)


@pytest.mark.parametrize("after", ["time", "another time", "interval", "cron"])
@pytest.mark.parametrize("before", ["time", "interval", "cron"])
def test_a_schedule_takes_the_place_of_that_with_its_id(path, before, after) -> None:
    """Else what is put off would come at both times."""
    now = datetime.now(UTC)
    given: dict[str, dict[str, Any]] = {
        "time": {"time": now + HOUR}, "another time": {"time": now + 2 * HOUR},
        "interval": {"interval": 3600}, "cron": {"cron": "0 0 29 2 *"},
    }  # fmt: skip

    async def main() -> None:
        broker = broker_of(path)
        source = ScheduleSource(broker)
        for each in (before, after):
            await source.add_schedule(scheduled(schedule_id="s", **given[each]))
        is_once = "time" in after
        assert (await stats(broker)).delayed == is_once
        assert len(await (await broker.store.broker()).schedules()) == (not is_once)
        assert await source.get_schedules() == [scheduled(schedule_id="s", **given[after])]
        await source.delete_schedule("s")
        assert (await stats(broker)).delayed == 0
        assert await (await broker.store.broker()).schedules() == await source.get_schedules() == []
        await source.shutdown()
        await broker.shutdown()

    asyncio.run(main())


def test_labels_of_tasks_are_declared_by_each_scheduler_and_go_with_the_configuration(path) -> None:
    async def start(*given: dict[str, Any]) -> tuple[list[str], int]:
        broker = broker_of(path)
        broker.task("note", schedule=list(given), priority=3)(lambda number: None)
        broker.is_scheduler_process = True
        source = ScheduleSource(broker)
        await source.startup()
        assert await source.get_schedules() == [], "there is nothing left for a scheduler to send"
        names = [each.name for each in await (await broker.store.broker()).schedules()]
        published = (await stats(broker)).published
        await source.shutdown()
        await broker.shutdown()
        return names, published

    async def main() -> None:
        at = datetime.now(UTC) + timedelta(hours=1)
        often = {"cron": "0 0 29 2 *", "args": [1]}  # not now, so that it publishes nothing
        once = {"time": at, "schedule_id": "once"}
        assert await start(often, once) == (["taskiq/labels:note:0"], 1)
        assert await start(often, once) == (["taskiq/labels:note:0"], 1), "once is once"
        later = {"time": at + timedelta(hours=1), "schedule_id": "once"}
        assert await start(often, later) == (["taskiq/labels:note:0"], 2), "put off, and not doubled"
        broker = broker_of(path)
        assert (await stats(broker)).delayed == 1
        await broker.shutdown()
        assert await start({"interval": 3600, "schedule_id": "mine"}) == (["taskiq/labels:mine"], 2)
        broker = broker_of(path)
        assert (await stats(broker))[:3] == (0, 0, 0)
        await broker.shutdown()

    asyncio.run(main())
