"""Django's tasks on mq, in one process: what Django's documentation promises of a backend, and of workers."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django", reason='Django is not installed: pip install "mq[django]"')
pytest.importorskip(
    "mq.contrib.django.framework", reason="Django < 6.0 has no tasks, nor is django-tasks there"
)

import django_app
from django.core.exceptions import ImproperlyConfigured, SuspiciousOperation
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import override_settings

import mq
from mq.contrib import stores
from mq.contrib.django import GivenUp, framework
from mq.contrib.django.backend import MqBackend, store_at
from mq.contrib.django.worker import Worker
from mq.storage.real_disk import RealDisk

READY, RUNNING, FAILED, SUCCESSFUL = (
    getattr(framework.TaskResultStatus, name) for name in ("READY", "RUNNING", "FAILED", "SUCCESSFUL")
)


@pytest.fixture
def configure(path: Path) -> Iterator[Callable[..., MqBackend]]:
    """Sets TASKS; returns the default backend."""
    changed: list[Any] = []

    def configure(queues: Any = ("default", "mail"), settings: Any = None, **options: Any) -> Any:
        given = {"url": path, "sync": "never", **options}
        backend = {"BACKEND": "mq.contrib.django.MqBackend", "QUEUES": list(queues), "OPTIONS": given}
        changed.append(override_settings(TASKS={"default": backend}, **(settings or {})))
        changed[-1].enable()
        return framework.task_backends["default"]

    yield configure
    for each in reversed(changed):
        each.disable()
    store_at.cache_clear()
    for shared in list(stores._brokers.values()):
        shared.close()


@pytest.fixture
def backend(configure) -> Iterator[MqBackend]:
    backend = configure()
    yield backend
    backend.store.close()


@pytest.fixture
def broker(backend) -> mq.Broker:
    return backend.store.broker


def work(**options: Any) -> str:
    """What a worker does until there is nothing to do; what it prints."""
    output = io.StringIO()
    call_command("mq_worker", until_empty=True, stdout=output, **options)
    return output.getvalue()


def take(broker: mq.Broker, queue: str = "default") -> Any:
    delivery = broker.queue(queue).receive(timeout=0)
    assert delivery is not None
    return delivery


# ── enqueueing, and results ────────────────────────────────────────────────────────


def test_a_task_is_enqueued_run_and_has_its_result(backend, broker) -> None:
    before = datetime.now(UTC)
    result = django_app.add.enqueue(1, y=2)
    assert (result.status, result.args, result.kwargs, result.backend) == (READY, [1], {"y": 2}, "default")
    assert before <= result.enqueued_at and result.started_at is None and not result.is_finished
    with pytest.raises(ValueError, match="not finished"):
        _ = result.return_value
    assert len(result.id) < 64 and result.id.startswith(f"{broker.queue('default').peek()[0].id}-")
    assert "takes tasks from default, mail" in work()
    assert result.status == READY, "it is as it was"
    result.refresh()
    assert result.status == SUCCESSFUL and result.is_finished and result.return_value == 3
    assert result.enqueued_at <= result.started_at == result.last_attempted_at <= result.finished_at
    assert result.attempts == 1 and result.errors == [] and f"-{os.getpid()}-" in result.worker_ids[0]
    found = django_app.add.get_result(result.id)
    assert found == result and found.task == django_app.add
    assert broker.queue("default").stats()[:3] == (0, 0, 0)


def test_a_durable_task_is_one_sync_also_on_commit(configure, count_syncs) -> None:
    backend = configure(sync="always", enqueue_on_commit=True)
    django_app.add.enqueue(1)
    syncs = count_syncs(backend.store.broker)
    django_app.add.enqueue(2)
    assert len(syncs) == 1
    with transaction.atomic():
        result = django_app.add.enqueue(3)
    assert len(syncs) == 2 and backend.store._results is None, "nothing waits for the disk of the results"
    assert backend.get_result(result.id).status == READY
    backend.store.close()


def test_a_result_tells_where_its_task_is(backend, broker) -> None:
    result = django_app.add.enqueue(1)
    assert backend.get_result(result.id) == result
    delivery = take(broker)
    assert backend.get_result(result.id).status == RUNNING
    delivery.nack(delay=60)
    assert backend.get_result(result.id).status == READY
    broker.queue("default").cancel(delivery.id)
    with pytest.raises(framework.TaskResultDoesNotExist):
        backend.get_result(result.id)


def test_ids_are_not_guessed(backend, broker) -> None:
    result = django_app.add.enqueue(1)
    number, _, secret = result.id.partition("-")
    for id in (number, secret, f"{number}-", f"{number}-x", f"{int(number) + 1}-{secret}", "", "-", "x" * 99,
               f"message/{secret}", "9" * 30 + "-x", "٣-x", "*-" + secret, "\ud800"):  # fmt: skip
        with pytest.raises(framework.TaskResultDoesNotExist):
            backend.get_result(id)
    work()
    with pytest.raises(framework.TaskResultDoesNotExist):
        backend.get_result(f"{number}-x")


def test_a_result_of_another_task_is_no_result_of_this_one(backend) -> None:
    result = django_app.mail.enqueue("ann")
    with pytest.raises(Exception, match="Task does not match"):
        django_app.add.get_result(result.id)
    assert django_app.mail.get_result(result.id).task.priority == 7


def test_the_asynchronous_forms_do_the_same(backend) -> None:
    async def all_of_them() -> None:
        result = await django_app.add_async.aenqueue(1, 2)
        await asyncio.to_thread(work)
        await result.arefresh()
        assert result.return_value == 3
        assert (await django_app.add_async.aget_result(result.id)).return_value == 3
        assert (await backend.aget_result(result.id)).status == SUCCESSFUL

    asyncio.run(all_of_them())


def test_priority_and_deferral_are_those_of_messages(backend, broker) -> None:
    late = datetime.now(UTC) + timedelta(hours=1, microseconds=1)
    results = [django_app.add.using(priority=priority).enqueue(priority) for priority in (0, -100, 100, 1)]
    deferred = django_app.add.using(run_after=late).enqueue(1)
    queue = broker.queue("default")
    order = [backend.load(message).args for message in queue.peek()]
    assert order == [[100], [1], [0], [-100]]
    (message,) = queue.peek(state="delayed")
    assert late <= message.due_at < late + timedelta(milliseconds=2)
    found = backend.get_result(deferred.id)
    assert found.status == READY and found.task.run_after == late
    queue.reschedule(message.id)
    work()
    assert [backend.get_result(each.id).return_value for each in results] == [0, -100, 100, 1]
    assert backend.get_result(deferred.id).return_value == 1


def test_without_time_zones_a_deferral_is_local_time(configure) -> None:
    backend = configure(settings={"USE_TZ": False, "TIME_ZONE": "Asia/Tokyo"})
    django_app.add.using(run_after=datetime(2040, 1, 1, 9)).enqueue(1)
    (message,) = backend.store.queue("default").peek(state="delayed")
    assert message.due_at == datetime(2040, 1, 1, tzinfo=UTC)
    backend.store.close()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: django_app.add.using(queue_name="other"), "other"),
        (lambda: django_app.add.using(priority=101), "priority"),
        (lambda: django_app.add.using(run_after=datetime(2040, 1, 1)), "aware"),
        (lambda: django_app.renamed.enqueue(), "django_app.plain is not the name of this task"),
        (lambda: django_app.task(lambda: None).enqueue(), "is not the name|module level"),
    ],
)
def test_a_task_that_no_worker_could_run_is_refused(backend, make, reason) -> None:
    with pytest.raises(framework.InvalidTask, match=reason):
        make()
    assert not list(backend.store.broker.queues())


def test_arguments_are_json(backend) -> None:
    with pytest.raises(TypeError):
        django_app.add.enqueue(datetime.now(UTC))
    big = django_app.add.enqueue(1 << 100, y=0)
    text = django_app.mail.enqueue("ä\ud800"[:1] + "\0\U0001f600")
    work()
    assert backend.get_result(big.id).return_value == 1 << 100
    assert backend.get_result(text.id).return_value == "ä\0\U0001f600"


def test_signals_come_with_the_backend_as_sender(backend) -> None:
    seen: list[Any] = []

    def note(name: str, sender: Any, task_result: Any, **given: Any) -> None:
        seen.append((name, sender, task_result.id, task_result.status))

    receivers = [
        (signal, partial(note, name))
        for name, signal in (
            ("enqueued", framework.task_enqueued),
            ("started", framework.task_started),
            ("finished", framework.task_finished),
        )
    ]
    for signal, receiver in receivers:
        signal.connect(receiver)
    try:
        good, bad = django_app.add.enqueue(1), django_app.fail.enqueue("why")
        work()
    finally:
        for signal, receiver in receivers:
            signal.disconnect(receiver)
    assert {each[1] for each in seen} == {MqBackend}
    assert [(name, status) for name, _, id, status in seen if id == good.id] == [
        ("enqueued", READY), ("started", RUNNING), ("finished", SUCCESSFUL),
    ]  # fmt: skip
    assert [status for _, _, id, status in seen if id == bad.id] == [READY, RUNNING, FAILED]


# ── on commit ──────────────────────────────────────────────────────────────────────


def test_a_task_is_enqueued_when_a_transaction_commits(backend, broker) -> None:
    with transaction.atomic():
        transaction.on_commit(partial(django_app.add.enqueue, 1))
        assert broker.queues() == []
    assert broker.queue("default").stats().ready == 1


def test_the_backend_waits_for_the_commit_if_it_is_told_to(configure) -> None:
    backend = configure(enqueue_on_commit=True)
    with transaction.atomic():
        result = django_app.add.enqueue(1)
        assert result.id and result.enqueued_at is None
        with pytest.raises(framework.TaskResultDoesNotExist):
            result.refresh()
    assert result.enqueued_at and backend.get_result(result.id).status == READY
    work()
    assert backend.get_result(result.id).return_value == 1
    assert backend.store.results.count("django/message/") == 0
    with pytest.raises(RuntimeError), transaction.atomic():
        django_app.add.enqueue(2)
        raise RuntimeError
    assert backend.store.queue("default").stats().published == 1
    assert "-" in django_app.add.enqueue(3).id, "there is no transaction"
    backend.store.close()


# ── what becomes of tasks ──────────────────────────────────────────────────────────


def test_a_task_that_raises_has_failed_and_is_acked(backend, broker) -> None:
    failed, left, wrong = (
        django_app.fail.enqueue("why"),
        django_app.leave.enqueue(),
        django_app.answer.enqueue("no JSON"),
    )
    work()
    for result, kind in ((failed, ZeroDivisionError), (left, SystemExit), (wrong, TypeError)):
        result.refresh()
        (error,) = result.errors
        assert result.status == FAILED and error.exception_class is kind and result.finished_at
        with pytest.raises(ValueError, match="failed"):
            _ = result.return_value
    assert (
        "in fail\n" in failed.errors[0].traceback and "ZeroDivisionError: why" in failed.errors[0].traceback
    )
    assert broker.queue("default").stats()[:3] == (0, 0, 0) and broker.queue("default").stats().failed == 0


@pytest.mark.parametrize(("kind", "value"), [("tuple", [1, [2]]), ("none", None)])
def test_values_are_json(backend, kind, value) -> None:
    result = django_app.answer.enqueue(kind)
    work()
    assert backend.get_result(result.id).return_value == value


def test_a_task_that_raises_retry_is_tried_again(backend, broker) -> None:
    result = django_app.attempt.enqueue(3)
    work(worker_id="w")
    result.refresh()
    assert result.return_value == [3, result.id] and result.worker_ids == ["w"] * 3
    assert [error.exception_class for error in result.errors] == [mq.Retry] * 2
    assert result.started_at < result.last_attempted_at


def test_a_task_that_waits_for_another_attempt_is_ready(backend, broker) -> None:
    result = django_app.attempt.enqueue(3)
    delivery = take(broker)
    with pytest.raises(mq.Retry):
        Worker(backend, "w").work(delivery)
    delivery.nack(delay=60)
    result.refresh()
    assert (result.status, result.attempts, len(result.errors)) == (READY, 1, 1)
    assert result.finished_at is None


def test_a_task_that_raises_reject_is_a_dead_letter_and_can_be_replayed(backend, broker) -> None:
    result = django_app.reject.enqueue()
    work()
    assert backend.get_result(result.id).status == FAILED
    (letter,) = broker.queue("default.dead").peek()
    assert letter.failures[-1].reason == "hopeless"
    broker.queue("default.dead").replay()
    work()
    result.refresh()
    assert result.status == FAILED and result.attempts == 2, "it was called again"


def test_a_task_that_was_given_up_has_failed(configure) -> None:
    backend = configure(max_attempts=2)
    result = django_app.add.enqueue(5)
    queue = backend.store.queue("default")
    for _ in range(2):
        take(backend.store.broker).nack(delay=0, reason="visibility timeout")
    result.refresh()
    assert result.status == FAILED and result.finished_at
    (error,) = result.errors
    assert (
        error.exception_class is GivenUp
        and "attempt 2" in error.traceback
        and "visibility" in error.traceback
    )
    backend.store.broker.queue("default.dead").replay()
    assert backend.get_result(result.id).status == READY
    work()
    assert backend.get_result(result.id).return_value == 5 and queue.stats().ready == 0
    backend.store.close()


def test_a_task_whose_result_is_stored_is_not_called_again(backend, broker, tmp_path) -> None:
    """Its worker died behind storing it, and before the ack."""
    log = str(tmp_path / "log")
    result = django_app.run.enqueue(log, 1)
    worker = Worker(backend, "w")
    first = take(broker)
    worker.work(first)
    first.nack(delay=0, reason="died")
    again = take(broker)
    with again:
        worker.work(again)
    assert Path(log).read_text() == "1\n" and backend.get_result(result.id).attempts == 1
    assert broker.queue("default").stats()[:3] == (0, 0, 0)


def test_a_task_that_raised_reject_is_a_dead_letter_also_if_its_worker_died_before(backend, broker) -> None:
    result = django_app.reject.enqueue()
    delivery = take(broker)
    with pytest.raises(mq.Reject):
        Worker(backend, "w").work(delivery)
    delivery.nack(delay=0, reason="died")
    work()
    (letter,) = broker.queue("default.dead").peek()
    assert letter.failures[-1].reason == "hopeless" and backend.get_result(result.id).attempts == 1


def test_what_is_no_task_is_a_dead_letter(backend, broker) -> None:
    django_app.add.enqueue(1)
    (message,) = broker.queue("default").peek()
    text = message.body
    bodies = ["no JSON", "[]", "{}", b"\xff"]
    bodies += [text.replace("django_app.add", path) for path in ("os.system", "django_app.gone")]
    bodies += [text.replace('"default"', '"other"')]
    broker.queue("default").publish_many(bodies)
    work()
    reasons = [letter.failures[-1].reason for letter in broker.queue("default.dead").peek()]
    assert len(reasons) == len(bodies) and all("no task can be made of it" in reason for reason in reasons)
    assert "os.system is no task" in reasons[4]
    for letter in broker.queue("default.dead").peek()[:4]:
        with pytest.raises(framework.TaskResultDoesNotExist):
            backend.get_result(f"{letter.id}-x")
    assert broker.queue("default").stats().acked == 1


def test_a_result_whose_task_is_gone_says_so(backend, broker) -> None:
    result = django_app.add.enqueue(1)
    (message,) = broker.queue("default").peek()
    broker.queue("default").publish(message.body.replace("django_app.add", "os.system"))
    other = broker.queue("default").peek()[1]
    with pytest.raises(SuspiciousOperation, match=r"os\.system is no task"):
        backend.get_result(result.id.replace(str(message.id), str(other.id)))


def test_results_go_after_their_time(configure, monkeypatch) -> None:
    backend = configure(result_ttl=60)
    ended, waiting = django_app.add.enqueue(1), django_app.mail.enqueue("ann")
    work(queue=["default"])
    clock = backend.store.results._clock
    monkeypatch.setattr(backend.store.results, "_clock", lambda: clock() + 61)
    with pytest.raises(framework.TaskResultDoesNotExist):
        ended.refresh()
    waiting.refresh()
    assert waiting.status == READY
    backend.store.close()


# ── a full disk, a store that fails ────────────────────────────────────────────────


def test_on_a_full_disk_a_task_is_refused_and_those_there_are_run(backend, monkeypatch) -> None:
    first = django_app.add.enqueue(1)

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RealDisk, "allocate", full)
    with pytest.raises(mq.DiskFull):
        for _ in range(64):
            django_app.mail.enqueue("x" * (4 << 20))
    work(queue=["default"])
    assert backend.get_result(first.id).return_value == 1


def test_a_task_whose_result_cannot_be_stored_comes_again(backend, broker, monkeypatch) -> None:
    result = django_app.add.enqueue(1)
    keep = backend.keep
    full = [True]

    def once_full(result: Any) -> None:
        if result.is_finished and full:
            full.pop()
            raise mq.DiskFull("data", "no space left")
        keep(result)

    monkeypatch.setattr(backend, "keep", once_full)
    delivery = take(broker)
    with pytest.raises(mq.DiskFull), delivery:
        Worker(backend, "w").work(delivery)
    (message,) = broker.queue("default").peek(state="delayed")
    broker.queue("default").reschedule(message.id)
    work()
    assert backend.get_result(result.id).return_value == 1 and backend.get_result(result.id).attempts == 2


def test_a_store_that_has_failed_is_opened_anew(configure, monkeypatch) -> None:
    backend = configure(sync="always")
    django_app.add.enqueue(1)

    def fail(*given: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(RealDisk, "sync", fail)
        with pytest.raises(mq.StoreFailed):
            django_app.add.enqueue(2)
    result = django_app.add.enqueue(3)
    work()
    assert backend.get_result(result.id).return_value == 3
    backend.store.close()


# ── settings, checks, the command ──────────────────────────────────────────────────


def test_what_it_supports(backend) -> None:
    assert all(
        getattr(backend, f"supports_{name}") for name in ("defer", "priority", "async_task", "get_result")
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"url": ""}, "which store"),
        ({"url": None}, "which store"),
        ({"url": "mq:///x?hots=1"}, "hots is no option"),
        ({"hots": 1}, "hots is no option"),
        ({"sync": "sometimes"}, "sync is"),
    ],
)
def test_settings_that_are_wrong_are_refused(configure, options, reason) -> None:
    with pytest.raises(ImproperlyConfigured, match=reason):
        configure(**options)


def test_options_are_those_of_the_queues(configure, path) -> None:
    backend = configure(url=f"mq:///{path}?max_attempts=3", visibility_timeout=7)
    django_app.add.enqueue(1)
    options = backend.store.queue("default").options()
    assert (options["max_attempts"], options["visibility_timeout"]) == (3, 7)
    backend.store.close()


def test_a_backend_without_queues_takes_those_of_any_name(configure) -> None:
    backend = configure(queues=[])
    results = [django_app.add.using(queue_name=name).enqueue(1) for name in ("a", "b")]
    assert all(backend.get_result(each.id).status == READY for each in results)
    with pytest.raises(CommandError, match="say which"):
        work()
    work(queue=["a", "b"])
    assert all(backend.get_result(each.id).return_value == 1 for each in results)
    backend.store.close()


def test_a_dead_task_has_failed_also_where_its_queue_comes_behind_that_of_the_dead_letters(configure) -> None:
    backend = configure(queues=[])
    backend.store.broker.queue("z", dead_letter="a")
    result = django_app.add.using(queue_name="z").enqueue(1)
    take(backend.store.broker, "z").reject()
    assert backend.get_result(result.id).status == FAILED
    backend.store.close()


def test_a_check_warns_of_a_worker_that_is_not_there(backend) -> None:
    assert list(backend.check()) == []
    with override_settings(INSTALLED_APPS=[]):
        (warning,) = backend.check()
    assert warning.id == "mq.W001" and "INSTALLED_APPS" in warning.hint
    call_command("check")


def test_a_worker_is_of_a_backend_of_mq(configure) -> None:
    configure()
    immediate = {
        "BACKEND": MqBackend.__mro__[1].__module__.replace("base", "immediate") + ".ImmediateBackend"
    }
    with override_settings(TASKS={"default": immediate}), pytest.raises(CommandError, match="is not of mq"):
        work()
    with pytest.raises(Exception, match="other"):
        work(backend="other")


def test_threads_share_a_store(backend) -> None:
    """1,000 tasks, by producers of four threads, each with a backend of its own, and a worker of four."""
    results: list[Any] = []

    def produce(first: int) -> None:
        assert framework.task_backends["default"].store is backend.store
        results.extend(django_app.add.enqueue(first + number) for number in range(250))

    threads = [threading.Thread(target=produce, args=(first,)) for first in range(0, 1_000, 250)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    work(concurrency=4)
    values = [backend.get_result(each.id).return_value for each in results]
    assert sorted(values) == list(range(1_000)) and backend.store.queue("default").stats().acked == 1_000
