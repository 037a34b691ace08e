"""huey's storage on mq, and what MqHuey makes of it, in one process: what its documentation promises."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest

pytest.importorskip("huey", reason='huey is not installed: pip install "mq[huey]"')

from huey import Huey, crontab, signals
from huey.api import chord, group
from huey.constants import EmptyData
from huey.exceptions import HueyException, ResultTimeout, RetryTask, TaskException
from huey.serializer import SignedSerializer

import mq
from mq.contrib import stores
from mq.contrib.huey import MqHuey, MqStorage
from mq.storage.real_disk import RealDisk

PATIENCE = 120.0  # seconds, for what comes at once


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., MqHuey]]:
    """Hueys on one store, each as of a process of its own; closed at the end."""
    made: list[Any] = []

    def make(name: str = "app", *, kind: type = MqHuey, **options: Any) -> Any:
        given = {"url": str(path), "sync": "never", "read_timeout": 0.01, **options}
        made.append(kind(name, **given))
        return made[-1]

    yield make
    for each in made:
        each.storage.close()
    assert not [key for key in stores._brokers if key[0] == str(path)], "a broker was left open"


@pytest.fixture
def huey(make) -> MqHuey:
    return make()


@pytest.fixture
def storage(huey) -> MqStorage:
    return huey.storage


@pytest.fixture
def broker(path: Path) -> Iterator[mq.Broker]:
    with mq.open(path, sync="never") as broker:
        yield broker


def work(huey: Any, times: int = 1_000) -> list[Any]:
    """What a worker does, until there is nothing to do; the values of the tasks."""
    values = []
    for _ in range(times):
        if (task := huey.dequeue()) is None:
            break
        values.append(huey.execute(task))
    return values


def soon(seconds: float = 0.0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


# ── the storage ────────────────────────────────────────────────────────────────────


def test_tasks_come_by_priority_and_in_order(storage) -> None:
    for number, priority in enumerate((1, None, 5, None, 255, 0, 5.9)):
        storage.enqueue(b"%d" % number, priority)
    assert storage.queue_size() == 7 and storage.enqueued_items(2) == [b"4", b"2"]
    assert [storage.dequeue() for _ in range(8)] == [b"4", b"2", b"6", b"0", b"1", b"3", b"5", None]
    for priority in (-1, 256, float("nan")):
        with pytest.raises(mq.UsageError, match="a priority is from 0"):
            storage.enqueue(b"", priority)
    assert storage.queue_size() == 0


def test_a_queue_and_a_schedule_are_flushed_each_without_the_other(storage) -> None:
    for number in range(1_001):
        storage.enqueue(b"%d" % number)
    storage.add_to_schedule(b"later", soon(60))
    storage.flush_queue()
    assert storage.queue_size() == 0 and storage.schedule_size() == 1
    storage.enqueue(b"now")
    storage.flush_schedule()
    assert storage.queue_size() == 1 and storage.schedule_size() == 0
    storage.flush_all()
    assert storage.queue_size() == 0


def test_what_is_due_is_in_the_queue_and_read_schedule_takes_what_is_not(storage) -> None:
    for seconds in (30, 10, 20, -10, -5):
        storage.add_to_schedule(b"%d" % seconds, soon(seconds))
    assert storage.schedule_size() == 3 and storage.scheduled_items(2) == [b"10", b"20"]
    assert storage.read_schedule(soon()) == []
    assert storage.read_schedule(soon(20)) == [b"10", b"20"]
    assert storage.scheduled_items() == [b"30"]
    assert {storage.dequeue(), storage.dequeue()} == {b"-10", b"-5"} and storage.dequeue() is None


@pytest.mark.parametrize("utc", [True, False])
def test_a_naive_time_is_utc_or_local_as_huey_says(make, utc) -> None:
    storage = make(utc=utc).storage
    due = soon(3600).replace(microsecond=1)
    storage.add_to_schedule(b"x", due.replace(tzinfo=None) if utc else due.astimezone().replace(tzinfo=None))
    (message,) = storage.queue.peek(state="delayed")
    assert message.due_at == due.replace(microsecond=1000), "not early"


def test_dequeue_waits_for_a_task_without_asking_again(make) -> None:
    storage = make(read_timeout=PATIENCE).storage
    assert MqStorage.blocking is False and storage.blocking is True
    thread = threading.Timer(0.05, storage.enqueue, (b"x",))
    thread.start()
    assert storage.dequeue() == b"x"
    thread.join()
    assert make(blocking=False, read_timeout=PATIENCE).storage.dequeue() is None


def test_results_are_kept_read_and_counted(storage) -> None:
    storage.put_data(b"k1", b"v1")
    storage.put_data("k2", b"v2")
    assert storage.peek_data("k1") == b"v1" == storage.peek_data(b"k1")
    assert storage.peek_data("k3") is EmptyData is storage.pop_data("k3")
    assert storage.peek_many(["k1", "k3", "k2"]) == {"k1": b"v1", "k2": b"v2"}
    assert storage.result_items() == {"k1": b"v1", "k2": b"v2"} and storage.result_store_size() == 2
    assert storage.pop_data("k1") == b"v1" and not storage.has_data_for_key("k1")
    assert storage.delete_data("k2") and not storage.delete_data("k2")
    assert storage.put_if_empty("k", b"1") and not storage.put_if_empty("k", b"2")
    assert storage.peek_data("k") == b"1"
    storage.flush_results()
    assert storage.result_items() == {}


def test_counters_are_no_results(storage) -> None:
    assert [storage.incr("k"), storage.incr("k", 10), storage.incr("k", -5), storage.incr("k", 0)] == [
        1,
        11,
        6,
        6,
    ]
    assert not storage.has_data_for_key("k") and storage.result_store_size() == 0
    storage.put_data("k", b"v")
    storage.delete_counter("k")
    assert storage.incr("k") == 1 and storage.peek_data("k") == b"v"
    storage.flush_counters()
    assert storage.incr("k") == 1


def test_what_has_an_expiry_goes(make, monkeypatch) -> None:
    storage = make(expire_time=60).storage
    storage.put_data("result", b"1", is_result=True)
    storage.put_data("revoked", b"1")
    storage.put_if_empty("lock", b"1", ttl=60)
    monkeypatch.setattr(storage.results, "_clock", lambda: time.time() + 61)
    assert storage.result_items() == {"revoked": b"1"} and storage.put_if_empty("lock", b"2")


def test_a_result_is_waited_for(storage) -> None:
    assert not storage.wait_result("k", timeout=0.01)
    thread = threading.Timer(0.05, storage.put_data, ("k", b"v"))
    thread.start()
    assert storage.wait_result("k", timeout=PATIENCE)
    thread.join()


def test_hueys_of_one_store_see_nothing_of_each_other(make) -> None:
    one, other = make("one").storage, make("one/more").storage
    for storage in (one, other):
        storage.enqueue(storage.name.encode())
        storage.put_data("k", storage.name.encode())
    one.flush_all()
    assert other.dequeue() == b"one/more" == other.peek_data("k") and one.dequeue() is None


def test_the_store_is_made_when_it_is_first_used_and_opened_again_after_close(huey, storage, path) -> None:
    assert not path.exists()
    storage.enqueue(b"x")
    storage.put_data("k", b"v")
    storage.close()
    storage.close()
    assert storage.dequeue() == b"x" and storage.peek_data("k") == b"v"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": ""}, "which store"),
        ({"url": "redis://x"}, "is not a store's URL"),
        ({"url": "mq:///x?hots=1"}, "hots is no option"),
        ({"port": 7}, "port is no option"),
        ({"url": ":memory:"}, "of one process"),
        ({"sync": "sometimes"}, "sync is"),
    ],
)
def test_options_that_are_none_are_refused(make, options, message) -> None:
    with pytest.raises(mq.UsageError, match=message):
        make(**options)


def test_options_are_those_of_the_queue(make, path, broker) -> None:
    make(url=f"mq:///{path}?sync=never&max_attempts=3", visibility_timeout=7).storage.enqueue(b"x")
    options = broker.queue("app").options()
    assert (options["max_attempts"], options["visibility_timeout"]) == (3, 7)


def test_a_plain_huey_acks_as_it_takes(make, broker) -> None:
    """As with any other storage of huey."""
    huey = make(kind=type("Plain", (Huey,), {"storage_class": MqStorage}))
    add = huey.task()(lambda x, y: x + y)
    add(1, 2)
    task = huey.dequeue()
    assert broker.queue("app").stats()[:3] == (0, 0, 0) and huey.execute(task) == 3


# ── at least once ──────────────────────────────────────────────────────────────────


def test_a_task_is_acked_when_it_has_run(huey, broker) -> None:
    seen: list[int] = []
    task = huey.task()(lambda: seen.append(broker.queue("app").stats().in_flight))
    task()
    work(huey)
    assert seen == [1] and broker.queue("app").stats().acked == 1


def test_what_follows_a_task_is_stored_with_its_ack_and_what_it_enqueues_itself_at_once(huey, broker) -> None:
    queue, seen = broker.queue("app"), []

    @huey.task(name="other")
    def other(number: int = 0) -> None: ...

    @huey.task(name="first", retries=1)
    def first(fails: bool) -> int:
        other(7)
        seen.append(queue.stats().ready)
        if fails:
            raise ValueError
        return 1

    settle = huey.storage.settle

    def look(delivery: Any, outbox: Any) -> None:
        seen.append((queue.stats().ready, len(outbox.messages)))
        settle(delivery, outbox)

    huey.storage.settle = look
    huey.enqueue(first.s(False).then(other))
    huey.execute(huey.dequeue())
    assert seen == [1, (1, 1)] and queue.stats()[:2] == (2, 0)
    seen.clear()
    huey.storage.flush_queue()
    first(True)
    huey.execute(huey.dequeue())
    assert seen == [1, (1, 1)] and [task.retries for task in huey.pending()] == [0, 0]
    assert [type(task).__name__ for task in huey.pending()] == ["other", "first"]


def test_a_durable_task_is_one_sync_and_its_end_with_what_follows_another(make, count_syncs) -> None:
    huey = make(sync="always")
    task = huey.task(retries=1)(lambda: 1 / 0)
    task()
    syncs = count_syncs(huey.storage._opener.broker)
    for number, delay in enumerate([None, 60], 1):
        task.schedule((), delay=delay) if delay else task()
        assert len(syncs) == number
    huey.execute(huey.dequeue())
    assert len(syncs) == 3 and [task.retries for task in huey.pending()] == [1, 1, 0]


def test_what_follows_a_task_whose_lease_was_lost_is_left_to_the_other_run(make, broker, caplog) -> None:
    slow, quick = make(), make()

    def define(huey: Any) -> Any:
        following = huey.task(name="following")(lambda number: None)
        return huey.task(name="first")(lambda: 1), following

    (first, following), _ = define(slow), define(quick)
    slow.enqueue(first.s().then(following))
    mine = slow.dequeue()
    broker.queue("app").nack_many([mine.mq_run.delivery.receipt], delay=0)  # as if its timeout had passed
    theirs = quick.dequeue()
    slow.execute(mine)
    assert "its lease was lost" in caplog.text
    quick.execute(theirs)
    assert [type(task).__name__ for task in slow.pending()] == ["following"]


def test_a_task_that_was_interrupted_was_not_tried(huey, broker) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    seen: list[Any] = []
    huey.signal(signals.SIGNAL_INTERRUPTED)(lambda signal, task: seen.append(task.id))
    result = huey.task()(interrupted)()
    huey.execute(huey.dequeue())
    (message,) = broker.queue("app").peek()
    assert message.attempts == 0 and seen == [result.id]


def test_an_exception_that_is_of_no_task_leaves_it_untried(huey, broker) -> None:
    def leave() -> None:
        raise SystemExit

    huey.task()(leave)()
    with pytest.raises(SystemExit):
        huey.execute(huey.dequeue())
    (message,) = broker.queue("app").peek()
    assert message.attempts == 0


def test_what_is_no_task_of_this_huey_goes_to_the_dead_letters_and_back(make, broker) -> None:
    old, new = make(), make()
    task = new.task(name="new")(lambda: 7)
    task()
    broker.queue("app").publish(b"no pickle")
    for reason in (HueyException, Exception):
        with pytest.raises(reason):
            old.dequeue()
    assert old.dequeue() is None
    first, second = broker.queue("app.dead").peek()
    assert (
        "new not found" in first.failures[-1].reason and "no task of this huey" in second.failures[-1].reason
    )
    broker.queue("app.dead").replay([first.id])
    assert work(new) == [7]


def test_what_cannot_go_to_the_dead_letters_now_goes_there_later(make, broker, monkeypatch) -> None:
    """It is not kept until the consumer ends."""
    huey = make(visibility_timeout=0.05)
    huey.storage.queue.publish(b"no pickle")

    def locked(*given: Any, **more: Any) -> None:
        raise mq.StoreLocked("store", None)

    with monkeypatch.context() as busy, pytest.raises(mq.StoreLocked):
        busy.setattr(mq.Delivery, "reject", locked)
        huey.dequeue()
    huey.storage.read_timeout = PATIENCE
    with pytest.raises(UnpicklingError):
        huey.dequeue()
    assert broker.queue("app.dead").stats().ready == 1


def test_tampered_tasks_are_dead_letters(make, broker) -> None:
    huey = make(serializer=SignedSerializer(secret="s"))
    assert work(make(serializer=SignedSerializer(secret="s"))) == []
    huey.task(name="t")(lambda: 1)()
    (message,) = broker.queue("app").peek()
    broker.queue("app").publish(message.raw[:-1] + b"?")
    assert work(huey, 1) == [1]
    with pytest.raises(ValueError, match="ignature"):
        huey.dequeue()
    assert broker.queue("app.dead").stats().ready == 1


# ── a full disk ────────────────────────────────────────────────────────────────────


def fill(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RealDisk, "allocate", full)


def test_on_a_full_disk_a_task_is_refused_and_one_that_has_run_is_acked(make, monkeypatch, broker) -> None:
    huey = make(results=False)
    task = huey.task()(lambda blob: len(blob))
    task(b"")
    fill(monkeypatch)
    with pytest.raises(mq.DiskFull):
        for _ in range(64):
            task(os.urandom(4 << 20))
    waiting = huey.pending_count()
    assert len(work(huey)) == waiting
    assert broker.queue("app").stats()[:3] == (0, 0, 0)
    monkeypatch.undo()
    task(b"12")
    assert work(huey) == [2]


def test_a_task_whose_retry_or_result_cannot_be_stored_comes_again(huey, monkeypatch, broker) -> None:
    full = [True, True]

    def once_full(do: Callable[..., Any]) -> Callable[..., Any]:
        def either(*given: Any, **options: Any) -> Any:
            if full:
                full.pop()
                raise mq.DiskFull("data", "no space left")
            return do(*given, **options)

        return either

    monkeypatch.setattr(huey.storage.results, "put", once_full(huey.storage.results.put))
    result = huey.task(name="t")(lambda: 7)()
    for attempt in (1, 2):
        with pytest.raises(mq.DiskFull):
            huey.execute(huey.dequeue())
        (message,) = broker.queue("app").peek(state="delayed")
        assert message.attempts == attempt and "no space left" in message.failures[-1].reason
        broker.queue("app").reschedule(message.id)
    assert work(huey) == [7] and result.get() == 7


# ── what else huey has ─────────────────────────────────────────────────────────────


def test_retries_and_schedules_wait_in_the_store_with_their_priority(huey, broker) -> None:
    @huey.task(retries=1, retry_delay=60, priority=3)
    def fails() -> None:
        raise ValueError

    @huey.task(priority=9)
    def later() -> None: ...

    @huey.task()
    def asks_again() -> None:
        raise RetryTask(delay=30)

    fails(), later.schedule(delay=45), asks_again()
    work(huey, 3)
    assert [type(task).__name__ for task in huey.scheduled()] == ["asks_again", "later", "fails"]
    assert huey.scheduled_count() == 3 and huey.pending_count() == 0
    waiting = broker.queue("app").peek(state="delayed")
    assert [message.priority for message in waiting] == [0, 9, 3]
    assert broker.queue("app").stats().acked == 3


def test_a_task_that_is_due_runs_by_itself(huey) -> None:
    task = huey.task()(lambda: 7)
    result = task.schedule(delay=0.05)
    end = time.monotonic() + PATIENCE
    while not result.is_ready():
        assert time.monotonic() < end
        work(huey)
    assert result.get() == 7


def test_a_tick_of_a_periodic_task_is_stored_once_however_many_consumers_ask(make) -> None:
    hueys = [make(), make()]
    for huey in hueys:
        huey.periodic_task(crontab(minute="*/10"), name="often" * 60)(lambda: None)
        huey.periodic_task(crontab(minute="5"), name="other")(lambda: None)
    noon = datetime(2030, 1, 1, 12, 0, 20)
    for seconds in (0, 30):
        for huey in hueys:
            huey.create_consumer()._create_scheduler().enqueue_periodic_tasks(
                noon + timedelta(seconds=seconds)
            )
    assert [type(task).__name__ for task in hueys[0].pending()] == ["often" * 60]
    for huey in hueys:
        huey.create_consumer()._create_scheduler().enqueue_periodic_tasks(noon + timedelta(minutes=10))
    assert hueys[0].pending_count() == 2
    assert work(hueys[1]) == [None, None] and hueys[0].all_results() == {}


def test_a_periodic_task_is_enqueued_by_hand_and_retried_as_often_as_one_likes(huey) -> None:
    calls: list[int] = []

    @huey.periodic_task(crontab(), retries=1)
    def often() -> None:
        calls.append(1)
        raise ValueError

    (task,) = huey.read_periodic(None)
    huey.enqueue(task)
    often(), often()
    work(huey)
    assert len(calls) == 6


def test_groups_chords_and_pipelines_go_on(huey) -> None:
    add = huey.task(name="add")(lambda x, y: x + y)
    total = huey.task(name="total")(sum)
    explain = huey.task(name="explain")(str)
    fails = huey.task(name="fails")(lambda: 1 / 0)
    results = huey.enqueue(chord([add.s(1, 2), add.s(3, 4).then(add, 5)], total.s()).then(add, 100))
    handled = fails.s().error(explain)
    huey.enqueue(handled)
    grouped = huey.enqueue(group([add.s(1, 1), add.s(2, 2)]))
    values = work(huey)
    assert results.get() == 15 and results.pipeline_results.get() == [15, 115] and grouped.get() == [2, 4]
    assert "division by zero" in values
    assert huey.enqueue(chord([], total)).get() is None and work(huey) == [0]
    assert huey.storage.results.count("huey/app/counter/") == 0
    assert not [key for key in huey.all_results() if key.startswith("chord")]


def test_a_member_of_a_chord_that_ran_twice_counts_once(huey, broker) -> None:
    """After a consumer died behind counting, and before its ack."""
    add = huey.task(name="add")(lambda x: x)
    total = huey.task(name="total")(sum)
    result = huey.enqueue(chord([add.s(1), add.s(2)], total))
    settle, died = huey.storage.settle, []

    def die(delivery: Any, outbox: Any) -> None:
        died.append(len(outbox.messages))
        delivery.nack(delay=0, reason="died")

    huey.storage.settle = die
    for _ in range(3):
        huey.execute(huey.dequeue())  # the first one, again and again
    assert died == [0, 0, 0] and huey.pending_count() == 2
    huey.storage.settle = settle
    huey.execute(huey.dequeue())
    huey.storage.settle = die
    huey.execute(huey.dequeue())  # the last one has the callback in its outbox
    assert died.pop() == 1 and result.get() is None
    huey.storage.settle = settle
    assert work(huey) == [2, 3] and result.get() == 3
    assert huey.all_results().keys() <= {each.id for each in result.results}


def test_tasks_are_revoked_restored_and_expire(huey) -> None:
    ran: list[int] = []
    task = huey.task(name="t")(ran.append)
    first, second = task(1), task(2)
    first.revoke()
    assert first.is_revoked() and not second.is_revoked()
    work(huey)
    task.revoke()
    task(3)
    work(huey)
    assert task.restore() and not task.is_revoked()
    huey.enqueue(task.s(4, expires=soon(-5)))
    huey.revoke_by_id("x")
    assert huey.restore_by_id("x")
    work(huey)
    assert ran == [2] and huey.pending_count() == 0


def test_locks_limits_and_hooks(huey) -> None:
    seen: list[str] = []

    @huey.task(retries=1)
    @huey.lock_task("one", ttl=60)
    def locked() -> str:
        return "ran"

    @huey.task()
    @huey.rate_limit("few", limit=1, per=10**9)
    def few() -> str:
        return "ran"

    huey.pre_execute("before")(lambda task: seen.append("before"))
    huey.post_execute("after")(lambda task, value, error: seen.append(str(value)))
    with huey.lock_task("one"):
        locked()
        assert huey.is_locked("one") and work(huey, 1) == [None]
    assert work(huey) == ["ran"] and not huey.is_locked("one")
    few(), few()
    assert work(huey) == ["ran", None] and huey.scheduled_count() == 1, "it waits for the next window"
    assert seen == ["before", "None", "before", "ran", "before", "ran", "before", "None"]
    assert huey.flush_locks("one") == set()


def test_results_are_read_once_or_kept_and_errors_are_raised(huey) -> None:
    add = huey.task(name="add")(lambda x, y: x + y)
    fails = huey.task(name="fails")(lambda: 1 / 0)
    result, wrong, missing = add(1, 2), fails(), add(0, 0)
    missing.revoke()
    work(huey)
    assert result.get(preserve=True) == 3 and result.is_ready()
    assert huey.result(result.id, preserve=True) == 3
    with pytest.raises(TaskException, match="ZeroDivisionError"):
        wrong.get()
    with pytest.raises(ResultTimeout):
        missing.get(blocking=True, timeout=0.01)
    again = result.reschedule(delay=0)
    work(huey)
    assert again.get(blocking=True, timeout=PATIENCE) == 3


def test_immediate_mode_leaves_the_store_alone(make, path) -> None:
    huey = make(immediate=True)
    add = huey.task(name="add")(lambda x, y: x + y)
    total = huey.task(name="total")(sum)
    assert add(1, 2).get() == 3
    assert huey.enqueue(chord([add.s(1, 2), add.s(3, 4)], total)).get() == 10
    assert not path.exists()
    huey.immediate = False
    add(1, 2)
    assert path.exists() and work(huey) == [3]


def test_a_store_that_has_failed_is_opened_anew(make, monkeypatch) -> None:
    huey = make(sync="always")
    task = huey.task()(lambda: 7)
    task()
    broker = huey.storage._opener.broker

    def fail(*given: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(RealDisk, "sync", fail)
        with pytest.raises(mq.StoreFailed):
            task()
    assert huey.storage._opener.broker is not broker
    assert set(work(huey)) == {7}


def test_many_threads_work_on_one_huey(huey, broker) -> None:
    """1,000 tasks; a task ends, and its thread takes the next one."""
    ran: list[int] = []
    task = huey.task()(ran.append)
    for number in range(1_000):
        task(number)
    threads = [threading.Thread(target=work, args=(huey,)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(ran) == list(range(1_000)) and broker.queue("app").stats().acked == 1_000
