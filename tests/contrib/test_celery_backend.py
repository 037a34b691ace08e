"""The result backend and the schedules of beat, without a worker."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("celery", reason='Celery is not installed: pip install "mq[celery]"')

from celery import Celery, beat, schedules, states
from celery.exceptions import ChordError, ImproperlyConfigured, TimeoutError
from celery.utils.functional import regen

import mq
import mq.contrib.celery
from mq.contrib.celery import ResultBackend, Scheduler
from mq.contrib.celery.beat import as_mq
from mq.contrib.kombu import Channel

PATIENCE = 120.0


@pytest.fixture
def app(path: Path) -> Iterator[Celery]:
    url = f"mq:///{path}?sync=never"
    app = Celery("tests", broker=url, backend=url, set_as_current=False)
    app.conf.task_serializer = "json"
    yield app
    app.pool.force_close_all()
    app.close()


@pytest.fixture
def backend(app: Celery) -> Iterator[ResultBackend]:
    yield app.backend
    app.backend.results.close()


# ── results ────────────────────────────────────────────────────────────────────────


def test_it_is_found_by_its_url_and_says_it(app, backend, path) -> None:
    assert isinstance(backend, ResultBackend) and backend.as_uri() == f"mq:///{path}?sync=never"
    remade, arguments, state = backend.__reduce__()[0], *backend.__reduce__()[1:3], None
    assert callable(remade) and arguments[2]["url"] == backend.url and state is None


def test_results_are_stored_read_waited_for_and_forgotten(app, backend) -> None:
    backend.store_result("a", {"x": [1]}, states.SUCCESS)
    assert backend.get_state("a") == states.SUCCESS and backend.get_result("a") == {"x": [1]}
    assert backend.get_state("none") == states.PENDING
    thread = threading.Timer(0.05, backend.store_result, ("b", 7, states.SUCCESS))
    thread.start()
    assert app.AsyncResult("b").get(timeout=PATIENCE) == 7
    thread.join()
    with pytest.raises(TimeoutError):
        app.AsyncResult("never").get(timeout=0.01)
    backend.forget("a")
    assert backend.get_state("a") == states.PENDING


def test_a_success_is_not_written_over(backend) -> None:
    """A task that was delivered again, and whose worker is then lost."""
    backend.store_result("a", 1, states.SUCCESS)
    backend.store_result("a", None, states.STARTED)
    assert backend.get_state("a") == states.SUCCESS


def test_a_state_that_is_none_of_the_last_does_not_end_the_wait(app, backend) -> None:
    backend.store_result("a", None, states.STARTED)
    thread = threading.Timer(0.05, backend.store_result, ("a", ValueError("no"), states.FAILURE))
    thread.start()
    with pytest.raises(ValueError, match="no"):
        app.AsyncResult("a").get(timeout=PATIENCE)
    thread.join()


def test_many_are_waited_for_together_in_the_order_of_the_group(app, backend) -> None:
    ids = [str(uuid.uuid4()) for _ in range(5)]
    backend.store_result(ids[0], 0, states.SUCCESS)

    def store() -> None:
        for number in (4, 2, 3, 1):
            backend.store_result(ids[number], number, states.SUCCESS)

    thread = threading.Timer(0.05, store)
    thread.start()
    results = app.ResultSet([app.AsyncResult(each) for each in ids], app=app)
    assert results.join_native(timeout=PATIENCE) == [0, 1, 2, 3, 4]
    thread.join()
    with pytest.raises(TimeoutError):
        list(backend.get_many([ids[0], "never"], timeout=0.01))


def test_on_interval_is_called_while_a_result_is_waited_for(app, backend) -> None:

    def store() -> None:
        backend.store_result("a", 1, states.SUCCESS)

    assert backend.wait_for("a", timeout=PATIENCE, interval=0.01, on_interval=store)["result"] == 1


def test_the_error_of_a_parent_comes_before_that_of_the_task_itself(app, backend) -> None:
    """Whichever is stored first: both may be there when the first of them is seen."""
    parent = app.AsyncResult("parent")
    failed = app.AsyncResult("child", parent=parent)

    def fail() -> None:
        with backend.results.transaction():
            backend.store_result("parent", ValueError("the cause"), states.FAILURE)
            backend.store_result("child", ChordError("what followed"), states.FAILURE)

    thread = threading.Timer(0.05, fail)
    thread.start()
    with pytest.raises(ValueError, match="the cause"):
        failed.get(timeout=PATIENCE)
    thread.join()


def test_a_group_that_is_never_published_raises_what_its_parent_raised(app, backend) -> None:
    group = app.GroupResult("group", [app.AsyncResult("member")], parent=app.AsyncResult("parent"))
    fail = partial(backend.store_result, "parent", ValueError("the cause"), states.FAILURE)
    thread = threading.Timer(0.05, fail)
    thread.start()
    with pytest.raises(ValueError, match="the cause"):
        group.get(timeout=PATIENCE)
    thread.join()


def test_results_whose_sync_failed_are_opened_anew(app, backend) -> None:
    backend.results._failed = OSError(5, "Input/output error")
    with pytest.raises(mq.StoreFailed):
        backend.store_result("a", 1, states.SUCCESS)
    backend.store_result("a", 1, states.SUCCESS)
    assert backend.get_result("a") == 1


def test_results_expire(app, backend) -> None:
    app.conf.result_expires = 60
    short = ResultBackend(app, url=backend.url)
    short.store_result("a", 1, states.SUCCESS)
    with short.results._reading() as connection:
        ((expires,),) = connection.execute("SELECT expires FROM results").fetchall()
    assert expires is not None
    assert short.supports_autoexpire, "so beat has no entry that cleans up"
    short.results.close()


def test_a_chord_counts_a_part_that_ran_twice_once(app, backend, path) -> None:
    """After a worker died behind storing, and before its ack."""
    ids = [str(uuid.uuid4()) for _ in range(2)]
    chord_id = str(uuid.uuid4())
    app.GroupResult(chord_id, [app.AsyncResult(each) for each in ids]).save(backend=backend)

    @app.task(shared=False)
    def body(results: list[int]) -> None: ...

    callback = body.s().set(task_id="callback")

    def end(number: int) -> None:
        backend.store_result(ids[number], number, states.SUCCESS)
        request = SimpleNamespace(id=ids[number], group=chord_id, chord=callback)
        backend.on_chord_part_return(request, states.SUCCESS, number)

    def called() -> int:
        with mq.open(path, read_only=True) as broker:
            return broker.queue("celery").stats().published

    end(0)
    end(0)
    assert backend.results.get(backend.get_key_for_chord(chord_id)) == 1
    end(1)
    assert called() == 1
    end(1)
    end(0)
    assert called() == 1, "the chord is over"
    assert backend.get_state("callback") != states.FAILURE


def test_only_the_last_part_of_a_chord_calls_also_if_another_one_runs_again(app, backend, path) -> None:
    app.GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")]).save(backend=backend)

    @app.task(shared=False)
    def body(results: list[object]) -> None: ...

    def part(id: str) -> SimpleNamespace:
        backend.store_result(id, 1, states.SUCCESS)
        return SimpleNamespace(id=id, group="g", chord=body.s().set(task_id="callback"))

    def end(id: str) -> int:
        backend.on_chord_part_return(part(id), states.SUCCESS, 1)
        with mq.open(path) as broker:
            return broker.queue("celery").stats().published

    assert [backend._is_last(part("a")), backend._is_last(part("b"))] == [False, True]
    assert end("a") == 0, "b is counted, and has not called yet"
    assert end("b") == 1, "its worker died before"
    assert backend.get_state("callback") != states.FAILURE


def test_a_chord_whose_member_ends_in_a_group_waits_for_all_of_that(app, backend, path) -> None:
    """Else its last part would be waited for by a worker that is to run it."""
    plain, *inner = (str(uuid.uuid4()) for _ in range(3))
    group = app.GroupResult(str(uuid.uuid4()), list(map(app.AsyncResult, inner)))
    chord_id = str(uuid.uuid4())
    app.GroupResult(chord_id, [app.AsyncResult(plain), group]).save(backend=backend)

    @app.task(shared=False)
    def body(results: list[object]) -> None: ...

    def end(id: str) -> int:
        backend.store_result(id, 1, states.SUCCESS)
        request = SimpleNamespace(id=id, group=chord_id, chord=body.s())
        backend.on_chord_part_return(request, states.SUCCESS, 1)
        with mq.open(path) as broker:
            return broker.queue("celery").stats().published

    backend.set_chord_size(chord_id, 2)  # as Celery before 5.7 does when the inner group is published
    assert [end(plain), end(inner[0]), end(inner[1])] == [0, 0, 1]


def test_a_chord_that_is_applied_again_is_called_again(app, backend, path) -> None:
    """Its tasks have the ids of the first time."""
    ids = [str(uuid.uuid4()) for _ in range(2)]
    chord_id = str(uuid.uuid4())

    @app.task(shared=False)
    def body(results: list[object]) -> None: ...

    for times in (1, 2):
        backend.apply_chord((chord_id, list(map(app.AsyncResult, ids))), body.s())
        for id in ids:
            backend.store_result(id, 1, states.SUCCESS)
            request = SimpleNamespace(id=id, group=chord_id, chord=body.s())
            backend.on_chord_part_return(request, states.SUCCESS, 1)
        with mq.open(path) as broker:
            assert broker.queue("celery").stats().published == times


def test_a_chord_that_is_applied_leaves_those_with_longer_names_alone(app, backend, path) -> None:
    @app.task(shared=False)
    def body(results: list[object]) -> None: ...

    def apply(chord_id: str) -> None:
        backend.apply_chord((chord_id, [app.AsyncResult(f"{chord_id}{each}") for each in "ab"]), body.s())

    def end(chord_id: str, task: str) -> None:
        backend.store_result(chord_id + task, 1, states.SUCCESS)
        request = SimpleNamespace(id=chord_id + task, group=chord_id, chord=body.s())
        backend.on_chord_part_return(request, states.SUCCESS, 1)

    apply("10")
    end("10", "a")
    apply("1")
    end("10", "b")
    with mq.open(path) as broker:
        assert broker.queue("celery").stats().published == 1


@pytest.mark.parametrize("early", [False, True])
def test_a_task_may_be_added_to_a_chord_whose_header_is_a_generator(app, backend, path, early) -> None:
    """*early*: before all of its tasks are made."""

    @app.task(shared=False)
    def body(results: list[object]) -> None: ...

    def end(id: str, index: int) -> int:
        backend.store_result(id, 1, states.SUCCESS)
        request = SimpleNamespace(id=id, group="g", group_index=index, chord=body.s())
        backend.on_chord_part_return(request, states.SUCCESS, 1)
        with mq.open(path) as broker:
            return broker.queue("celery").stats().published

    backend.apply_chord(("g", regen(map(app.AsyncResult, "ab"))), body.s())
    for add in (early, not early):
        if add:
            backend.add_to_chord("g", app.AsyncResult("c"))
        else:
            backend.set_chord_size("g", 2)
    assert [end("a", 0), end("b", 1), end("c", 0)] == [0, 0, 1]


def test_a_chord_is_counted_also_by_a_celery_without_an_expiry_of_its_own(
    path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 5.7 a chord expires with the results."""
    monkeypatch.delattr("celery.backends.base.BaseKeyValueStoreBackend.chord_expires", raising=False)
    app = Celery("tests", backend=f"mq:///{path}?sync=never", set_as_current=False)
    app.GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")]).save(backend=app.backend)
    app.backend.on_chord_part_return(SimpleNamespace(id="a", group="g", chord={}), states.SUCCESS, 1)
    assert app.backend.results.get(app.backend.get_key_for_chord("g")) == 1
    app.backend.results.close()


def test_an_option_that_is_none_is_refused(path) -> None:
    app = Celery("tests", backend=f"mq:///{path}?snyc=1", set_as_current=False)
    with pytest.raises(mq.UsageError, match="snyc is no option"):
        app.backend.get("x")


# ── schedules ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.schedule(timedelta(seconds=90)), {"every": 90.0}),
        (schedules.crontab(), {"cron": "* * * * *", "tz": "UTC"}),
        (schedules.crontab(minute="*/20", hour="8-10"), {"cron": "0,20,40 8,9,10 * * *", "tz": "UTC"}),
        (schedules.crontab(0, 0, day_of_week="sun,mon"), {"cron": "0 0 * * 0,1", "tz": "UTC"}),
        (
            schedules.crontab(0, 0, day_of_month="1-3", month_of_year="6"),
            {"cron": "0 0 1,2,3 6 *", "tz": "UTC"},
        ),
        (schedules.crontab(0, 0, day_of_month="13", day_of_week="fri"), None),
        (schedules.schedule(90, relative=True), None),
    ],
)
def test_a_schedule_of_celery_is_one_of_mq_if_it_means_the_same(app, schedule, expected) -> None:
    schedule.app = app
    assert as_mq(schedule) == expected


def entries(app: Celery, **given: Any) -> None:
    app.conf.beat_schedule = {name: {"task": "t", "schedule": each} for name, each in given.items()}


def scheduler(app: Celery) -> Scheduler:
    found = Scheduler(app)
    found.old_schedulers = None
    return found


def test_entries_are_schedules_of_the_store_and_go_with_the_configuration(app) -> None:
    app.conf.timezone = "Europe/Berlin"
    entries(app, a=60.0, b=schedules.crontab(hour=3))
    first = scheduler(app)
    kept = {each.name: each.next_at for each in first.broker.schedules()}
    assert kept.keys() == {"celery.beat/a", "celery.beat/b"}
    assert {each.tz for each in first.broker.schedules() if each.cron} == {"Europe/Berlin"}
    first.broker.schedule("of another program", "q", "x", every=60)
    entries(app, a=60.0)
    second = scheduler(app)
    found = {each.name: each.next_at for each in second.broker.schedules()}
    assert found.keys() == {"celery.beat/a", "of another program"}
    assert found["celery.beat/a"] == kept["celery.beat/a"], "the same entry goes on"
    for each in (first, second):
        each.close()


def test_a_tick_is_a_task_with_an_id_of_its_own_published_once(app) -> None:
    entries(app, a=0.02)
    app.conf.beat_schedule["a"].update(args=[1], options={"queue": "special", "expires": 60})
    beating = scheduler(app)
    tasks = beating.broker.queue("special")
    while tasks.stats().published < 2:
        assert beating.tick() == 0.0
    one, other = tasks.peek(2)
    assert json.loads(one.body)["headers"]["id"] != json.loads(other.body)["headers"]["id"]
    ticks = beating.ticks
    tick = ticks.receive(timeout=PATIENCE)
    before = tasks.stats().published
    beating._publish(tick.body, tick.id)
    tick.nack(delay=0)  # as if beat had been killed before its ack
    again = ticks.receive(timeout=PATIENCE)
    assert again.id == tick.id
    beating._publish(again.body, again.id)
    assert tasks.stats().published == before + 1
    beating.close()


@pytest.mark.parametrize("times", [1, 100], ids=["once", "until Celery gives up"])
def test_a_tick_that_cannot_be_published_is_not_lost(app, monkeypatch, caplog, times) -> None:
    """Celery tries again a few times, each time with a connection that it opens anew."""
    entries(app, a=0.02)
    app.conf.beat_schedule["a"]["options"] = {"retry_policy": {"max_retries": 2, "interval_start": 0}}
    beating = scheduler(app)
    publish, left = Channel.basic_publish, [times]

    def fail(*given: Any, **more: Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise mq.DiskFull("data", "no space left")
        publish(*given, **more)

    monkeypatch.setattr(Channel, "basic_publish", fail)
    while left[0] == times:
        beating.tick()
    if times > 1:
        assert beating.ticks.stats().failed == 1 and "which is tried again" in caplog.text
    left[0] = 0
    while beating.broker.queue("celery").stats().published < 2:
        beating.tick()
    beating.close()


def test_a_store_that_fails_under_beat_is_opened_anew(app, caplog) -> None:
    entries(app, a=0.02)
    beating = scheduler(app)
    beating.broker.close()
    while "which is tried again" not in caplog.text:
        beating.tick()
    while beating.broker.queue("celery").stats().published < 2:
        beating.tick()
    beating.close()


def test_an_entry_that_can_never_be_published_ends_no_other_one(app, caplog) -> None:
    entries(app, bad=0.02, good=0.02)
    app.conf.beat_schedule["bad"]["args"] = [object()]
    beating = scheduler(app)
    while beating.broker.queue("celery").stats().published < 2 or "task bad" not in caplog.text:
        assert beating.tick() == 0.0
    assert beating.ticks.stats().failed == 0
    beating.close()


def test_what_mq_has_no_schedule_for_is_left_to_celery(app, caplog) -> None:
    entries(
        app,
        odd=schedules.crontab(day_of_month="1", day_of_week="mon"),
        soon=schedules.schedule(0.01, relative=True),
    )
    beating = scheduler(app)
    assert beating.broker.schedules() == [] and "only this beat knows" in caplog.text
    sent: list[str] = []
    beating.apply_async = lambda entry, **given: sent.append(entry.name)  # type: ignore[method-assign]
    for _ in range(100):
        beating.tick()
        if sent:
            break
    assert set(sent) == {"soon"}
    beating.close()


def test_a_tick_of_an_entry_that_is_gone_is_dropped(app, caplog) -> None:
    entries(app)
    beating = scheduler(app)
    beating.ticks.publish("gone")
    beating.tick()
    assert beating.ticks.stats()[:3] == (0, 0, 0) and "in the configuration no longer" in caplog.text
    beating.close()


def test_beat_needs_a_broker_of_mq_and_times_that_make_sense(app) -> None:
    entries(app, a=0.001)
    with pytest.raises(ImproperlyConfigured, match="beat_schedule, a: every is at least"):
        scheduler(app)
    other = Celery("tests", broker="memory://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="set broker_url to mq"):
        scheduler(other)
    assert issubclass(Scheduler, beat.Scheduler)
    app.pool.force_close_all()
