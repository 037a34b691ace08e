"""dramatiq on mq in one process: broker, consumer, results, rate limits, workers as threads."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dramatiq", reason='dramatiq is not installed: pip install "mq[dramatiq]"')

import dramatiq
from dramatiq import Message, Middleware, QueueJoinTimeout, QueueNotFound, Worker, group, pipeline
from dramatiq.errors import ConnectionClosed, RateLimitExceeded
from dramatiq.middleware import GroupCallbacks, SkipMessage
from dramatiq.rate_limits import Barrier, BucketRateLimiter, ConcurrentRateLimiter, WindowRateLimiter
from dramatiq.results import ResultFailure, ResultMissing, Results, ResultTimeout

import mq
from mq.contrib import results
from mq.contrib.dramatiq import MqBroker, MqConsumer, RateLimiterBackend, ResultBackend
from mq.contrib.dramatiq.consumer import reaching

PATIENCE = 120_000  # milliseconds
AT_ONCE = 10  # milliseconds that a consumer waits for what is not there


@pytest.fixture(autouse=True)
def closed_results() -> Iterator[None]:
    yield
    for each in list(results._open):
        each.close()


@pytest.fixture
def broker(path: Path) -> Iterator[MqBroker]:
    broker = MqBroker(f"mq:///{path}", sync="never")
    dramatiq.set_broker(broker)
    yield broker
    broker.close()
    dramatiq.broker.global_broker = None


@pytest.fixture
def worker(broker: MqBroker) -> Iterator[Worker]:
    worker = Worker(broker, worker_timeout=50, worker_threads=4)
    worker.start()
    yield worker
    worker.stop()


def message(number: object = 1, queue: str = "q", **options: Any) -> Message[Any]:
    return Message(queue, "actor", (number,), {}, options)


def consumer(broker: MqBroker, prefetch: int = 1, timeout: int = PATIENCE) -> MqConsumer:
    broker.declare_queue("q")
    return broker.consume("q", prefetch, timeout)


def stats(broker: MqBroker, queue: str = "q") -> mq.Stats:
    return broker.store.queue(queue).stats()


def until(done: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while not done():
        assert time.monotonic() < end
        time.sleep(0.005)


# ── enqueueing ─────────────────────────────────────────────────────────────────────


class Seen(Middleware):
    def __init__(self) -> None:
        self.signals: list[tuple[Any, ...]] = []

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        self.signals.append(("before", message.args[0], delay))

    def after_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        self.signals.append(("after", message.args[0], delay))

    def after_declare_queue(self, broker: Any, queue_name: str) -> None:
        self.signals.append(("queue", queue_name))


def test_a_durable_message_is_one_sync(path, count_syncs) -> None:
    broker = MqBroker(path, sync="always")
    broker.enqueue(message(0))
    syncs = count_syncs(broker.store)
    for number, delay in enumerate([None, 1_000, None], 1):
        broker.enqueue(message(number), delay=delay)
        assert len(syncs) == number
    broker.close()


def test_actors_and_queues_are_declared_without_a_store(broker, path) -> None:
    seen = Seen()
    broker.add_middleware(seen)
    broker.declare_queue("q")
    broker.declare_queue("q")

    @dramatiq.actor(queue_name="other")
    def actor() -> None: ...

    assert broker.get_declared_queues() == {"q", "other"} and broker.get_declared_delay_queues() == set()
    assert broker.get_declared_actors() == {"actor"} and broker.get_actor("actor") is actor
    assert seen.signals == [("queue", "q"), ("queue", "other")]
    assert not path.exists()


def test_what_is_enqueued_comes_back_as_it_was_with_signals_around_it(broker) -> None:
    seen = Seen()
    broker.add_middleware(seen)
    first, later = message("é"), message(2)
    assert broker.enqueue(first) is first
    assert broker.enqueue(later, delay=60_000) == later, "no copy with an eta, for a queue of its own"
    assert seen.signals[0] == ("queue", "q")
    assert seen.signals[1:3] == [("before", "é", None), ("after", "é", None)]
    assert seen.signals[3:] == [("before", 2, 60_000), ("after", 2, 60_000)]
    taken = next(consumer(broker))
    assert taken is not None and taken._message == first
    (waiting,) = broker.store.queue("q").peek(state="delayed")
    assert 55 < (waiting.due_at - waiting.created_at).total_seconds() <= 60.1


def test_higher_priorities_come_first(broker) -> None:
    for number, priority in ((1, None), (2, 5), (3, 255), (4, 5)):
        broker.enqueue(message(number, broker_priority=priority))
    consuming = consumer(broker, prefetch=4)
    assert [next(consuming).args[0] for _ in range(4)] == [3, 2, 4, 1]
    with pytest.raises(mq.UsageError, match="priority is from 0"):
        broker.enqueue(message(broker_priority=256))


def test_a_delayed_message_wakes_its_consumer_when_it_is_due(broker) -> None:
    begin = time.time()
    broker.enqueue(message(), delay=100)
    assert next(consumer(broker)) is not None and time.time() - begin >= 0.1


# ── consuming ──────────────────────────────────────────────────────────────────────


def test_a_queue_that_nobody_declared_has_no_consumer(broker) -> None:
    with pytest.raises(QueueNotFound):
        broker.consume("q")


def test_a_consumer_holds_no_more_than_it_may_and_says_none_in_time(broker) -> None:
    for number in range(4):
        broker.enqueue(message(number))
    consuming = consumer(broker, prefetch=3, timeout=AT_ONCE)
    assert iter(consuming) is consuming
    taken = [next(consuming) for _ in range(4)]
    assert [each and each.args[0] for each in taken] == [0, 1, 2, None] and stats(broker)[:2] == (1, 3)
    consuming.ack(taken[1])
    assert next(consuming).args[0] == 3
    assert next(consuming) is None


def test_a_consumer_without_room_is_woken_by_an_ack_of_another_thread(broker) -> None:
    broker.enqueue(message(1))
    broker.enqueue(message(2))
    consuming = consumer(broker)
    first = next(consuming)
    thread = threading.Timer(0.05, consuming.ack, [first])
    thread.start()
    assert next(consuming).args[0] == 2
    thread.join()


def test_a_message_that_failed_goes_to_the_dead_letters_and_comes_back_by_a_replay(broker) -> None:
    broker.enqueue(message())
    consuming = consumer(broker)
    taken = next(consuming)
    taken.stuff_exception(ValueError("by design"))
    consuming.nack(taken)
    (dead,) = broker.store.queue("q.dead").peek()
    assert dead.origin == "q" and dead.failures[0].reason == "ValueError: by design"
    broker.store.queue("q.dead").replay()
    consuming.ack(next(consuming))
    assert stats(broker)[:3] == (0, 0, 0)


def test_requeued_messages_and_those_not_handed_on_are_back_in_their_places_untried(broker) -> None:
    for number in range(4):
        broker.enqueue(message(number))
    consuming = consumer(broker, prefetch=4)
    handed = [next(consuming), next(consuming)]
    consuming.requeue(handed[:1])
    consuming.close()
    consuming.close()
    assert stats(broker)[:2] == (3, 1)
    back = broker.store.queue("q").peek()
    assert [Message.decode(each.raw).args[0] for each in back] == [0, 2, 3]
    assert {each.attempts for each in back} == {0}
    consuming.requeue([])


def test_what_is_no_message_of_dramatiq_goes_to_the_dead_letters(broker, caplog) -> None:
    queue = broker.store.queue("q")
    for body in (b"\xff", "[]", '{"queue_name": "q"}'):
        queue.publish(body)
    queue.publish(message(7).encode().decode())  # as text, as `mq publish` has it
    assert next(consumer(broker, 4)).args[0] == 7
    dead = broker.store.queue("q.dead").peek()
    assert len(dead) == 3 and all("no message of dramatiq" in each.failures[0].reason for each in dead)
    assert "goes to the dead letters" in caplog.text


def test_what_cannot_go_to_the_dead_letters_now_goes_there_later(broker, monkeypatch) -> None:
    """The worker makes a consumer anew; the message is not kept until the process ends."""
    broker.store.queue("q").publish("none")
    consuming = consumer(broker)

    def locked(*given: Any, **more: Any) -> None:
        raise mq.StoreLocked("store", None)

    with monkeypatch.context() as busy, pytest.raises(ConnectionClosed):
        busy.setattr(mq.Queue, "reject_many", locked)
        next(consuming)
    consuming.close()
    assert next(consumer(broker, timeout=AT_ONCE)) is None
    assert broker.store.queue("q.dead").stats().ready == 1


def test_a_damaged_message_is_logged_and_the_next_one_comes(broker, caplog, monkeypatch) -> None:
    broker.enqueue(message())
    consuming = consumer(broker, timeout=AT_ONCE)

    def damaged(*given: Any, **more: Any) -> None:
        raise mq.CorruptStore("log", "does not pass its checksum")

    with monkeypatch.context() as disk:
        disk.setattr(mq.Queue, "receive_many", damaged)
        assert next(consuming) is None and "is damaged" in caplog.text
    assert next(consuming) is not None


def test_settling_too_late_is_logged_and_touches_no_other_delivery(broker, caplog) -> None:
    broker.enqueue(message())
    one = consumer(broker)
    late = next(one)
    one.requeue([late])
    other = consumer(broker)
    current = next(other)
    one.ack(late)
    one.nack(late)
    assert caplog.text.count("Settled too late") == 2 and stats(broker).in_flight == 1
    other.ack(current)


def test_a_lease_is_kept_while_the_process_lives(path, outlive) -> None:
    broker = MqBroker(path, sync="never", visibility_timeout=30)
    broker.enqueue(message())
    consuming = consumer(broker, prefetch=2, timeout=AT_ONCE)
    taken = next(consuming)
    outlive(lambda: broker.store.queue("q").peek(state="in_flight")[0], 30)
    assert next(consuming) is None
    assert stats(broker).in_flight == 1 and stats(broker).failed == 0
    consuming.ack(taken)
    broker.close()


# ── flush, join ────────────────────────────────────────────────────────────────────


def test_a_flush_drops_what_waits_and_leaves_what_is_in_work_and_dead(broker) -> None:
    consuming = consumer(broker)
    for number in range(3):
        broker.enqueue(message(number), delay=60_000 if number == 2 else None)
    consuming.nack(next(consuming))
    held = next(consuming)
    broker.enqueue(message(3))
    broker.enqueue(message(4, "other"))
    broker.flush_all()
    assert stats(broker)[:3] == (0, 1, 0) and stats(broker, "other").ready == 0
    assert stats(broker, "q.dead").ready == 1
    consuming.ack(held)
    broker.join("q", timeout=PATIENCE)


def test_join_waits_for_what_is_in_work_and_delayed(broker) -> None:
    consuming = consumer(broker)
    broker.join("q")
    broker.enqueue(message(), delay=50)
    with pytest.raises(QueueJoinTimeout):
        broker.join("q", timeout=AT_ONCE)
    taken = next(consuming)
    with pytest.raises(QueueJoinTimeout):
        broker.join("q", timeout=AT_ONCE)
    thread = threading.Timer(0.05, consuming.ack, [taken])
    thread.start()
    broker.join("q", timeout=PATIENCE)
    thread.join()


# ── options ────────────────────────────────────────────────────────────────────────


def test_a_url_and_a_path_mean_the_same_and_what_is_not_said_is_not_declared(path, monkeypatch) -> None:
    monkeypatch.chdir(path.parent)
    one = MqBroker("mq:///data?max_attempts=3&sync=0.5", visibility_timeout=7)
    other = MqBroker("data", sync="never")
    monkeypatch.chdir("/")
    one.enqueue(message())
    other.enqueue(message(2))
    for each in (one, other):
        options = each.store.queue("q").options()
        assert (options["max_attempts"], options["visibility_timeout"]) == (3, 7.0)
        assert each.store.path == str(path)
        each.close()
    assert repr(one) == f"<MqBroker {path}>"


@pytest.mark.parametrize(
    ("place", "given", "says"),
    [
        ("mq://", {}, "names no directory"),
        ("redis://localhost", {}, "is not a store's URL"),
        ("mq:///data?snyc=1", {}, "snyc is no option"),
        ("mq:///data?max_attempts=many", {}, "max_attempts is a whole number"),
        ("data", {"sync": "sometimes"}, "sync is"),
        (":memory:", {}, "give a directory"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(place, given, says) -> None:
    with pytest.raises(mq.UsageError, match=says):
        MqBroker(place, **given)


# ── a store that fails, or is full ─────────────────────────────────────────────────


def test_a_store_that_failed_is_opened_anew_and_what_was_taken_before_can_be_settled(
    path, fail_next_sync
) -> None:
    broker = MqBroker(path, sync="always")
    broker.enqueue(message(1))
    broker.enqueue(message(2))
    before = consumer(broker)
    taken = next(before)
    fail_next_sync()
    with pytest.raises(ConnectionClosed) as raised:
        broker.enqueue(message(3))
    assert isinstance(raised.value.__cause__, mq.StoreFailed)
    after = consumer(broker, prefetch=3)
    after.ack(taken)
    got = [next(after).args[0], next(after).args[0]]
    assert got == [2, 3] and stats(broker).acked == 1
    broker.close()


@pytest.mark.parametrize("error", [mq.StoreFailed("data", "by design"), mq.Closed("by design")])
def test_a_failure_that_comes_late_leaves_what_was_opened_since(broker, error) -> None:
    """Else that would keep no longer what a worker has."""
    with pytest.raises(ConnectionClosed), reaching(broker._opener):
        broker.close()  # for another thread has failed before
        opened = broker.store  # for a third one
        raise error
    assert broker.store is opened


def test_a_broker_that_another_part_of_the_program_closed_is_opened_anew(broker) -> None:
    broker.enqueue(message(1))
    consuming = consumer(broker, prefetch=2)
    taken = next(consuming)
    broker.store.close()
    with pytest.raises(ConnectionClosed):
        next(consuming)
    consumer(broker)
    consuming.ack(taken)
    assert stats(broker)[:2] == (0, 0)


def test_a_full_disk_refuses_messages_and_lets_what_is_there_be_worked_off(broker, monkeypatch) -> None:
    broker.enqueue(message(1))
    with monkeypatch.context() as disk:
        fill(disk)
        with pytest.raises(ConnectionClosed, match="no space left") as raised:
            broker.enqueue(message(2))
        assert isinstance(raised.value.__cause__, mq.DiskFull)
        consuming = consumer(broker, timeout=AT_ONCE)
        consuming.ack(next(consuming))
    assert next(consuming) is None


def fill(disk: pytest.MonkeyPatch, refusals: int | None = None) -> None:
    """For good, or until so many publishes are refused."""
    publish, left = mq.Queue.publish, itertools.count() if refusals is None else iter(range(refusals))

    def full(self: mq.Queue[Any], body: object, **options: Any) -> int:
        if next(left, None) is None:
            return publish(self, body, **options)
        raise mq.DiskFull("data", "no space left on the device")

    disk.setattr(mq.Queue, "publish", full)


@pytest.mark.parametrize("what", ["a retry", "the next of a pipeline", "a callback"])
def test_a_task_whose_sequel_cannot_be_stored_is_delivered_again(broker, monkeypatch, what) -> None:
    runs: list[str] = []

    @dramatiq.actor(queue_name="first", min_backoff=1, max_backoff=1)
    def first() -> int:
        runs.append("first")
        if what == "a retry" and len(runs) <= 2:
            raise ValueError("once")
        return 1

    @dramatiq.actor(queue_name="second")
    def second(*given: Any) -> None:
        runs.append("second")

    broker.store.queue("first", backoff=mq.Backoff(0.01, 1, 0.01, 0))
    sent = first.message_with_options(on_success="second" if what == "a callback" else None)
    worker = Worker(broker, worker_timeout=50, worker_threads=1)
    if what == "the next of a pipeline":
        pipeline([sent, second.message()]).run()
    else:
        broker.enqueue(sent)
    fill(monkeypatch, refusals=1)
    worker.start()
    until(lambda: len(runs) >= 3)
    broker.join("first", timeout=PATIENCE)
    broker.join("second", timeout=PATIENCE)
    worker.stop()
    assert stats(broker, "first").failed == 1
    assert runs in (["first", "first", "second"], ["first", "first", "first"])


# ── workers ────────────────────────────────────────────────────────────────────────


def test_a_worker_runs_what_dramatiq_has(broker, worker, path) -> None:
    """Retries, limits, skips, unknown actors, callbacks, pipelines, groups and their callbacks."""
    limits = RateLimiterBackend(path, sync="never")
    broker.add_middleware(Results(backend=ResultBackend(path, sync="never"), store_results=True))
    broker.add_middleware(GroupCallbacks(limits))
    done: list[Any] = []

    class Skips(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            if message.actor_name == "skipped":
                raise SkipMessage("by design")

    broker.add_middleware(Skips())

    @dramatiq.actor
    def add(x: int, y: int) -> int:
        return x + y

    @dramatiq.actor
    def skipped() -> None:
        done.append("skipped")

    @dramatiq.actor(min_backoff=1, max_backoff=1)
    def stubborn() -> int:
        done.append("stubborn")
        if done.count("stubborn") < 3:
            raise ValueError("not yet")
        return done.count("stubborn")

    @dramatiq.actor(max_retries=0)
    def fail() -> None:
        raise ZeroDivisionError("by design")

    @dramatiq.actor
    def note(*given: Any) -> None:
        done.append(given)

    def result(message: Any) -> Any:
        return message.get_result(block=True, timeout=PATIENCE)

    assert result(add.send(2, 3)) == 5
    assert result(add.send_with_options(args=(1, 1), delay=30)) == 2
    assert result(stubborn.send()) == 3
    assert result(skipped.send()) is None
    assert result(pipeline([add.message(1, 2), add.message(10), add.message(100)]).run().messages[-1]) == 113
    added = group([add.message(n, n) for n in range(5)])
    added.add_completion_callback(note.message("all"))
    assert list(added.run().get_results(block=True, timeout=PATIENCE)) == [0, 2, 4, 6, 8]
    until(lambda: ("all",) in done)
    with pytest.raises(ResultFailure, match="by design"):
        result(fail.send_with_options(on_failure="note"))
    until(lambda: any("ZeroDivisionError" in str(each) for each in done))
    broker.enqueue(Message("default", "unheard_of", (), {}, {}))
    until(lambda: stats(broker, "default.dead").ready == 2)
    broker.join("default", timeout=PATIENCE)
    reasons = [each.failures[0].reason for each in broker.store.queue("default.dead").peek()]
    assert reasons == ["ZeroDivisionError: by design", "ActorNotFound: unheard_of"]


def test_a_thousand_tasks_run_once_each_on_two_workers_of_one_store(broker, path) -> None:
    other = MqBroker(f"mq:///{path}?sync=never")
    ran: list[int] = []
    for each in (broker, other):
        each.declare_actor(
            dramatiq.Actor(ran.append, broker=each, actor_name="note", queue_name="q", priority=0, options={})
        )
    workers = [Worker(each, worker_timeout=50, worker_threads=2) for each in (broker, other)]
    for number in range(1000):
        broker.enqueue(Message("q", "note", (number,), {}, {}))
    for each in workers:
        each.start()
    broker.join("q", timeout=PATIENCE)
    assert sorted(ran) == list(range(1000)) and stats(broker).failed == 0
    for each in workers:
        each.stop()
    other.close()


def test_a_worker_that_ends_gives_back_what_it_has_not_begun(broker) -> None:
    begun, end = threading.Event(), threading.Event()

    @dramatiq.actor(queue_name="q")
    def held() -> None:
        begun.set()
        end.wait()

    for _ in range(3):
        held.send()
    worker = Worker(broker, worker_timeout=50, worker_threads=1)
    worker.start()
    begun.wait()
    until(lambda: stats(broker).in_flight == 2)

    def go_on() -> None:
        until(lambda: not any(each.running for each in worker.workers))  # they are told to stop
        end.set()

    thread = threading.Thread(target=go_on)
    thread.start()
    worker.stop()
    thread.join()
    assert stats(broker)[:3] == (2, 0, 0) and {each.attempts for each in broker.store.queue("q").peek()} == {
        0
    }


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_enqueues_and_consumes(broker) -> None:
    broker.enqueue(message(1))
    taken = next(consumer(broker))
    pid = os.fork()
    if pid == 0:
        try:
            broker.enqueue(message(2))
            consuming = consumer(broker)
            consuming.ack(next(consuming))
            broker.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert stats(broker)[:2] == (0, 1) and stats(broker).acked == 1
    taken.consumer.ack(taken)


# ── results ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def backend(path: Path) -> ResultBackend:
    return ResultBackend(f"mq:///{path}?sync=never")


def test_results_are_stored_read_waited_for_and_expire(backend, path) -> None:
    with pytest.raises(ResultMissing):
        backend.get_result(message())
    with pytest.raises(ResultTimeout):
        backend.get_result(message(), block=True, timeout=AT_ONCE)
    one, other = message(), message()
    backend.store_result(one, None, 60_000)
    backend.store_exception(other, ValueError("no"), 60_000)
    assert backend.get_result(one) is None
    with pytest.raises(ResultFailure, match="no"):
        backend.get_result(other, block=True)
    late = message()
    thread = threading.Timer(0.05, backend.store_result, [late, [1], 60_000])
    thread.start()
    assert ResultBackend(path).get_result(late, block=True, timeout=PATIENCE) == [1]
    thread.join()
    short = message()
    backend.store_result(short, 1, 1)
    until(lambda: backend._get(backend.build_message_key(short)) is dramatiq.results.backend.Missing)
    assert ResultBackend(path, namespace="mine").build_message_key(one) != backend.build_message_key(one)


def test_options_of_result_backends_that_newer_versions_of_dramatiq_have_are_passed_on(path) -> None:
    if "use_namespace_prefix_keys" not in signature(dramatiq.results.ResultBackend).parameters:
        pytest.skip("this dramatiq has no use_namespace_prefix_keys")
    named = ResultBackend(path, namespace="mine", use_namespace_prefix_keys=True)
    assert named.build_message_key(message()).startswith("mine:q:actor:")


# ── rate limits ────────────────────────────────────────────────────────────────────


@pytest.fixture
def limits(path: Path) -> RateLimiterBackend:
    return RateLimiterBackend(f"mq:///{path}?sync=never")


def test_counters_stay_within_their_bounds_and_expire(limits) -> None:
    assert limits.add("a", 1, 60_000) and not limits.add("a", 5, 60_000)
    assert limits.incr("a", 2, 3, 60_000) and not limits.incr("a", 1, 3, 60_000)
    assert limits.decr("a", 3, 0, 60_000) and not limits.decr("a", 1, 0, 60_000)
    assert limits.incr("new", 1, 1, 60_000) and not limits.decr("none", 1, 0, 60_000)
    assert limits.add("short", 1, 1)
    until(lambda: limits.add("short", 1, 60_000))


def test_a_sum_stays_within_its_bound(limits) -> None:
    keys = ["a", "b", "c"]
    assert limits.incr_and_sum("a", lambda: keys, 2, 4, 60_000)
    assert limits.incr_and_sum("b", lambda: keys, 2, 4, 60_000)
    assert not limits.incr_and_sum("c", lambda: keys, 1, 4, 60_000)
    assert limits.incr_and_sum("c", lambda: keys, 1, 5, 60_000)


def test_many_threads_of_two_backends_take_no_more_than_the_limit(limits, path) -> None:
    taken: list[bool] = []

    def take(backend: RateLimiterBackend) -> None:
        for _ in range(10):
            taken.append(backend.incr("a", 1, 25, 60_000))

    threads = [threading.Thread(target=take, args=[each]) for each in (limits, RateLimiterBackend(path)) * 2]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert taken.count(True) == 25 and len(taken) == 40


@pytest.mark.parametrize(
    "limiter",
    [
        lambda limits: ConcurrentRateLimiter(limits, "a", limit=2),
        lambda limits: BucketRateLimiter(limits, "a", limit=2, bucket=10**9),
        lambda limits: WindowRateLimiter(limits, "a", limit=2, window=1000),
    ],
    ids=["concurrent", "bucket", "window"],
)
def test_the_limiters_of_dramatiq(limits, limiter) -> None:
    mutex = limiter(limits)
    with mutex.acquire(), mutex.acquire():
        with pytest.raises(RateLimitExceeded), mutex.acquire():
            pass
        with mutex.acquire(raise_on_failure=False) as acquired:
            assert not acquired
    with mutex.acquire(raise_on_failure=False) as acquired:
        assert acquired is isinstance(mutex, ConcurrentRateLimiter)


def test_a_barrier_lets_all_parties_go_together(limits, path) -> None:
    barrier = Barrier(limits, "a", ttl=60_000)
    assert barrier.create(parties=2) and not barrier.create(parties=2)
    assert limits.wait("a@events", AT_ONCE) is False
    gone: list[bool] = []
    other = Barrier(RateLimiterBackend(path), "a", ttl=60_000)
    thread = threading.Thread(target=lambda: gone.append(other.wait(timeout=PATIENCE)))
    thread.start()
    until(lambda: limits._stored.results.get("dramatiq-limits:a") == 1)
    assert barrier.wait(block=False)
    thread.join()
    assert gone == [True]
