"""Consumers: functions that are called with what comes into a queue, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest

import mq
from mq.workers.counts import Counts
from mq.workers.handler import Handler, Wanted
from mq.workers.slot import ThreadSlot
from mq.workers.strategy import STRATEGIES

PATIENCE = 60.0  # seconds after which a test that hangs has failed


class Order(msgspec.Struct):
    id: int


@pytest.fixture
def broker() -> Iterator[mq.Broker]:
    with mq.open(":memory:") as broker:
        yield broker


def run_all(broker: mq.Broker) -> None:
    broker.run(until_empty=True, grace=5)


# ── what a handler is given ────────────────────────────────────────────────────────


def test_a_handler_is_given_the_body_in_the_type_that_it_names(broker: mq.Broker) -> None:
    seen: list[Order] = []

    @broker.consumer("orders")
    def bill(order: Order) -> None:
        seen.append(order)

    broker.queue("orders").publish(Order(7))
    run_all(broker)
    assert seen == [Order(7)]
    assert broker.queue("orders").stats().acked == 1


def test_a_handler_is_given_the_delivery_if_it_names_that(broker: mq.Broker) -> None:
    seen: list[tuple[type, Any, int]] = []

    @broker.consumer("orders")
    def bill(delivery: mq.Delivery[Order]) -> None:
        seen.append((type(delivery), delivery.body, delivery.attempts))

    broker.queue("orders").publish(Order(7))
    run_all(broker)
    assert seen == [(mq.Delivery, Order(7), 1)]


def test_a_handler_without_annotation_is_given_the_body(broker: mq.Broker) -> None:
    seen: list[Any] = []
    broker.consumer("a")(lambda body: seen.append(body))
    broker.consumer("b")(partial(lambda where, body: where.append(body), seen))
    broker.queue("a").publish({"x": 1})
    broker.queue("b").publish(b"raw")
    run_all(broker)
    assert sorted(seen, key=str) == [b"raw", {"x": 1}]


def test_a_batch_is_a_list(broker: mq.Broker) -> None:
    batches: list[list[int]] = []

    @broker.consumer("orders", batch=4)
    def bill(orders: list[Order]) -> None:
        batches.append([each.id for each in orders])

    broker.queue("orders").publish_many([Order(n) for n in range(10)])
    run_all(broker)
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert broker.queue("orders").stats().acked == 10


def test_a_coroutine_function_runs_as_a_task(broker: mq.Broker) -> None:
    together = 0
    most = 0

    @broker.consumer("orders", concurrency=3)
    async def bill(order: Order) -> None:
        nonlocal together, most
        together += 1
        most = max(most, together)
        while most < 3:  # the others come meanwhile
            await asyncio.sleep(0)
        together -= 1

    broker.queue("orders").publish_many([Order(n) for n in range(6)])
    run_all(broker)
    assert most == 3
    assert broker.queue("orders").stats().acked == 6


def test_a_handle_says_the_type(broker: mq.Broker) -> None:
    seen: list[Order] = []
    orders = broker.queue("orders", type=Order)
    broker.consumer(orders)(seen.append)
    orders.publish(Order(1))
    run_all(broker)
    assert seen == [Order(1)]


@pytest.mark.parametrize(
    ("function", "batch", "said"),
    [
        (lambda: None, None, "takes none"),
        (lambda a, b: None, None, "takes 2"),
        (3, None, "a function"),
    ],
)
def test_what_is_no_handler_is_refused(
    broker: mq.Broker, function: Any, batch: int | None, said: str
) -> None:
    with pytest.raises(mq.UsageError, match=said):
        broker.consumer("orders", batch=batch)(function)


def takes_a_delivery_of_tasks(delivery: mq.AsyncDelivery[int]) -> None: ...
def takes_a_message(message: mq.Message[int]) -> None: ...
def takes_a_delivery_or_none(delivery: mq.Delivery[int] | None) -> None: ...
def takes_several(deliveries: list[mq.Delivery[int]]) -> None: ...


@pytest.mark.parametrize(
    "function", [takes_a_delivery_of_tasks, takes_a_message, takes_a_delivery_or_none, takes_several]
)
def test_what_asks_for_another_delivery_than_it_may_have_is_refused(
    broker: mq.Broker, function: Callable[..., None]
) -> None:
    """As the type of a body no message would fit it, and all would die."""
    with pytest.raises(mq.UsageError, match=r"gets a body, or an mq\.Delivery, .* not .*mq\."):
        broker.consumer("orders")(function)


def test_a_batch_that_is_not_annotated_as_a_list_is_refused(broker: mq.Broker) -> None:
    def bill(order: Order) -> None: ...

    with pytest.raises(mq.UsageError, match=r"list\["):
        broker.consumer("orders", batch=3)(bill)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"batch": 0},
        {"prefetch": 0},
        {"linger": -1},
        {"linger": 1.0},
        {"strategy": "best"},
    ],
)
def test_an_option_that_cannot_be_right_is_refused(broker: mq.Broker, options: dict[str, Any]) -> None:
    with pytest.raises(mq.UsageError):
        broker.consumer("orders", **options)


def test_handlers_of_one_queue_have_one_strategy(broker: mq.Broker) -> None:
    broker.consumer("orders", strategy="random")(print)
    with pytest.raises(mq.UsageError, match="'random' was chosen before"):
        broker.consumer("orders")(print)


def test_another_brokers_queue_is_refused(broker: mq.Broker) -> None:
    with mq.open(":memory:") as other, pytest.raises(mq.UsageError, match="this broker"):
        broker.consumer(other.queue("orders"))(print)


# ── what becomes of the message ────────────────────────────────────────────────────


def test_a_handler_that_raises_nacks_and_does_not_end_the_worker(
    broker: mq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.queue("orders", max_attempts=1)

    @broker.consumer("orders")
    def bill(order: Order) -> None:
        if order.id == 1:
            raise ValueError("no such customer")

    broker.queue("orders").publish_many([Order(1), Order(2)])
    run_all(broker)
    (dead,) = broker.queue("orders.dead").peek()
    assert [each.reason for each in dead.failures] == ["ValueError: no such customer"]
    assert broker.queue("orders").stats().acked == 1
    (record,) = [each for each in caplog.records if each.name == "mq.worker"]
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert str(dead.id) in record.getMessage()


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_it_raises(broker: mq.Broker, error: BaseException) -> None:
    broker.queue("orders", max_attempts=1)

    @broker.consumer("orders")
    def bill(order: Order) -> None:
        raise error

    broker.queue("orders").publish(Order(1))
    run_all(broker)
    assert broker.queue("orders.dead").stats().ready == 1


def test_retry_and_reject_say_what_is_to_happen(broker: mq.Broker) -> None:
    attempts: list[int] = []

    @broker.consumer("orders")
    def bill(delivery: mq.Delivery[Order]) -> None:
        attempts.append(delivery.attempts)
        if delivery.attempts < 3:
            raise mq.Retry(0, "not yet")
        assert [each.reason for each in delivery.failures] == ["not yet", "not yet"]
        raise mq.Reject("never")

    broker.queue("orders").publish(Order(1))
    run_all(broker)
    assert attempts == [1, 2, 3]
    (dead,) = broker.queue("orders.dead").peek()
    assert dead.failures[-1].reason == "never"


@pytest.mark.parametrize("error", [mq.Retry(-1), mq.Retry("5"), mq.Reject(7)])  # type: ignore[arg-type]
def test_what_makes_no_sense_in_retry_or_reject_is_a_failure(broker: mq.Broker, error: Exception) -> None:
    """Else the message would be extended for as long as the process lives."""
    broker.queue("orders", max_attempts=1)

    @broker.consumer("orders")
    def bill(order: int) -> None:
        raise error

    broker.queue("orders").publish(1)
    run_all(broker)
    assert broker.queue("orders.dead").stats().ready == 1


def test_a_settlement_that_the_store_refuses_is_tried_again(
    broker: mq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mq.workers.slot.AGAIN_SECONDS", 0)
    orders = broker.queue("orders")
    refusals = iter([mq.DiskFull("data", "no room"), mq.StoreLocked("data", "busy")])
    ack_many = orders.ack_many

    def refuse(messages: Any) -> None:
        if error := next(refusals, None):
            raise error
        ack_many(messages)

    monkeypatch.setattr(orders, "ack_many", refuse)
    broker.consumer(orders)(lambda order: None)
    orders.publish(1)
    run_all(broker)
    assert orders.stats().acked == 1


def test_a_cancellation_of_the_handlers_own_is_a_failure(broker: mq.Broker) -> None:
    broker.queue("orders", max_attempts=1)

    @broker.consumer("orders")
    async def bill(order: int) -> None:
        raise asyncio.CancelledError

    broker.queue("orders").publish(1)
    run_all(broker)
    assert broker.queue("orders.dead").stats().ready == 1


def test_a_body_that_does_not_fit_is_a_failure(broker: mq.Broker) -> None:
    broker.queue("orders", max_attempts=1)
    broker.consumer("orders")(takes_an_order)
    broker.queue("orders").publish({"id": "seven"})
    run_all(broker)
    (dead,) = broker.queue("orders.dead").peek()
    assert "does not fit" in dead.failures[0].reason


def takes_an_order(order: Order) -> None:
    raise AssertionError("it does not fit")


def test_what_the_handler_settled_stays_so(broker: mq.Broker) -> None:
    @broker.consumer("orders")
    def bill(delivery: mq.Delivery[Order]) -> None:
        delivery.reject("by hand")
        raise ValueError("and then")

    broker.queue("orders").publish(Order(1))
    run_all(broker)
    (dead,) = broker.queue("orders.dead").peek()
    assert [each.reason for each in dead.failures] == ["by hand"]


def test_a_batch_that_fails_part_way_nacks_the_rest(
    broker: mq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.queue("orders", max_attempts=1)

    @broker.consumer("orders", batch=3)
    def bill(orders: list[mq.Delivery[Order]]) -> None:
        orders[0].ack()
        raise ValueError("half-way")

    broker.queue("orders").publish_many([Order(1), Order(2), Order(3)])
    run_all(broker)
    assert broker.queue("orders").stats().acked == 1
    assert [each.body["id"] for each in broker.queue("orders.dead").peek()] == [2, 3]
    assert "took longer" not in caplog.text


@pytest.mark.parametrize("is_async", [False, True])
def test_a_body_that_does_not_fit_fails_alone_in_a_batch(broker: mq.Broker, is_async: bool) -> None:
    """It would take the others of each batch that it is in to the dead letters, and none was ever tried."""
    batches: list[list[int]] = []
    queue = broker.queue("orders", max_attempts=1)

    def bill(orders: list[Order]) -> None:
        batches.append([each.id for each in orders])
        if len(batches) == 2:
            raise ValueError("these fail")

    async def bill_async(orders: list[Order]) -> None:
        bill(orders)

    broker.consumer("orders", batch=3)(bill_async if is_async else bill)
    queue.publish_many(
        [Order(1), {"id": "two"}, Order(3), Order(4), Order(5), {"id": "six"}, "seven", "eight"]
    )
    run_all(broker)
    assert batches == [[1, 3], [4, 5]]
    assert (queue.stats().acked, queue.stats().failed) == (2, 6)
    dead = broker.queue("orders.dead").peek()
    assert [("does not fit" in each.failures[0].reason, each.body) for each in dead] == [
        (True, {"id": "two"}), (False, {"id": 4}), (False, {"id": 5}), (True, {"id": "six"}), (True, "seven"),
        (True, "eight"),
    ]  # fmt: skip
    assert broker._consumers.registry.counts() == Counts(0, 2, 6)


def test_a_function_that_returns_an_awaitable_is_a_failure(broker: mq.Broker) -> None:
    async def later(order: Any) -> None: ...

    broker.queue("orders", max_attempts=1)
    broker.consumer("orders")(lambda order: later(order))
    broker.queue("orders").publish(1)
    run_all(broker)
    assert "async def" in broker.queue("orders.dead").peek()[0].failures[0].reason


def test_a_handler_that_was_too_slow_is_told(broker: mq.Broker, caplog: pytest.LogCaptureFixture) -> None:
    """Without `extend` the message may be delivered again meanwhile; then the ack is not this one's."""
    orders = broker.queue("orders")

    @broker.consumer("orders", extend=False)
    def bill(delivery: mq.Delivery[int]) -> None:
        if delivery.body == 1:
            orders.publish(2)
            orders.ack_many([delivery.receipt])  # as another would, who has it by now

    orders.publish(1)
    run_all(broker)
    assert "took longer" in caplog.text


def test_a_call_that_is_given_up_before_its_thread_began_is_not_made() -> None:
    """Its message was released, and another worker may have it by now."""
    seen: list[int] = []
    go, done = threading.Event(), threading.Semaphore(0)

    def handle(held: Any) -> None:
        seen.append(held.id)
        assert go.wait(PATIENCE)

    options: Any = {"concurrency": 1, "batch": None, "linger": 0, "prefetch": None, "extend": False}
    source: Any = None
    slot = ThreadSlot(Handler(handle, Wanted(True, None), source, **options), [], lambda _: done.release())
    first, second, third = ([SimpleNamespace(id=n, _settled=True)] for n in range(3))
    for call in (first, second, third):
        slot.begin(call)  # type: ignore[arg-type]
    slot.gone = second  # type: ignore[assignment]
    go.set()
    for _ in (first, third):
        assert done.acquire(timeout=PATIENCE)
    slot.end()
    assert seen == [0, 2]


# ── middleware ─────────────────────────────────────────────────────────────────────


def test_middleware_is_around_every_call_the_first_outermost(broker: mq.Broker) -> None:
    seen: list[str] = []

    def wrap(name: str) -> Callable[[mq.Delivery[Any], Callable[[], object]], object]:
        def around(delivery: mq.Delivery[Any], call_next: Callable[[], object]) -> object:
            seen.append(f"{name} {delivery.queue}")
            result = call_next()
            seen.append(f"{name} {result}")
            return result

        return around

    broker.middleware(wrap("outer"))
    broker.middleware(wrap("inner"))
    broker.consumer("orders")(lambda order: "done")
    broker.queue("orders").publish(1)
    run_all(broker)
    assert seen == ["outer orders", "inner orders", "inner done", "outer done"]


def test_middleware_of_a_coroutine_may_await(broker: mq.Broker) -> None:
    seen: list[object] = []

    async def around(delivery: mq.Delivery[Any], call_next: Callable[[], Any]) -> object:
        result = await call_next()
        seen.append(result)
        return result

    async def handle(order: int) -> str:
        return f"did {order}"

    broker.middleware(around)
    broker.consumer("orders")(handle)
    broker.queue("orders").publish(1)
    run_all(broker)
    assert seen == ["did 1"]


def test_an_error_of_a_middleware_is_the_handlers(broker: mq.Broker) -> None:
    def around(delivery: mq.Delivery[Any], call_next: Callable[[], object]) -> object:
        raise mq.Reject("not allowed")

    broker.middleware(around)
    broker.consumer("orders")(lambda order: None)
    broker.queue("orders").publish(1)
    run_all(broker)
    assert broker.queue("orders.dead").stats().ready == 1


# ── strategies ─────────────────────────────────────────────────────────────────────


def two_handlers(broker: mq.Broker, strategy: Any, busy: int = 0, **options: Any) -> Counter[str]:
    """Run two handlers on one queue over 40 messages; the first sits on *busy* of its own until the end."""
    counts = Counter(a=0, b=0)
    left = threading.Semaphore(0)

    def count(name: str) -> Callable[[object], None]:
        def handle(body: object) -> None:
            counts[name] += 1
            if sum(counts.values()) == 40:  # perhaps by the one that sits, whose thread has begun last
                left.release(busy or 1)
            if name == "a" and counts["a"] <= busy:
                assert left.acquire(timeout=PATIENCE)

        return handle

    broker.consumer("q", strategy=strategy, **options)(count("a"))
    broker.consumer("q", strategy=strategy, **options)(count("b"))
    broker.queue("q").publish_many(list(range(40)))
    run_all(broker)
    return counts


def test_round_robin_is_fair_by_turns(broker: mq.Broker) -> None:
    assert two_handlers(broker, "round_robin", prefetch=40) == {"a": 20, "b": 20}


def test_least_busy_gives_to_the_one_that_has_fewest(broker: mq.Broker) -> None:
    counts = two_handlers(broker, "least_busy", busy=1)
    assert counts == {"a": 1, "b": 39}


def test_random_gives_to_any(broker: mq.Broker) -> None:
    counts = two_handlers(broker, "random", prefetch=40)
    assert sum(counts.values()) == 40
    assert min(counts["a"], counts["b"]) > 3  # one in ten million runs has fewer


class Loaded(NamedTuple):
    """A slot, as a strategy sees it."""

    load: int

    @property
    def has_room(self) -> bool:
        return self.load < 3


@pytest.mark.parametrize(
    ("strategy", "loads", "last", "picked"),
    [
        ("round_robin", [2, 0, 0], 2, 0),
        ("round_robin", [0, 2, 0], 0, 1),
        ("round_robin", [0, 3, 1], 0, 2),
        ("round_robin", [1, 3, 3], 0, 0),
        ("round_robin", [3, 3, 3], 0, None),
        ("least_busy", [2, 1, 2], 2, 1),
        ("least_busy", [1, 2, 1], 0, 2),
        ("least_busy", [1, 2, 1], 2, 0),
        ("least_busy", [3, 3, 3], 0, None),
        ("random", [3, 2, 3], 0, 1),
        ("random", [3, 3, 3], 0, None),
    ],
)
def test_a_strategy_picks_among_those_that_have_room(
    strategy: Any, loads: list[int], last: int, picked: int | None
) -> None:
    slots: Any = [Loaded(load) for load in loads]
    assert STRATEGIES[strategy](slots, last) == picked


@pytest.mark.parametrize("prefetch", [6, 7])
def test_prefetch_bounds_what_is_held(broker: mq.Broker, prefetch: int) -> None:
    orders = broker.queue("orders")
    most = 0

    @broker.consumer("orders", concurrency=2, prefetch=prefetch)
    def bill(order: int) -> None:
        nonlocal most
        most = max(most, orders.stats().in_flight)

    orders.publish_many(list(range(50)))
    run_all(broker)
    assert 2 < most <= prefetch


# ── subscribers ────────────────────────────────────────────────────────────────────


def test_subscribers_get_what_is_published_each_group_once(broker: mq.Broker) -> None:
    seen: list[tuple[str, str]] = []

    def note(name: str) -> Callable[[str], None]:
        return lambda body: seen.append((name, body))

    broker.subscriber("orders.*", group="mail")(note("mail"))
    broker.subscriber("orders.*", group="mail")(note("mail"))
    broker.subscriber("orders.#")(note("alone"))
    broker.topic("orders.created").publish("one")
    run_all(broker)
    assert sorted(seen) == [("alone", "one"), ("mail", "one")]


def test_a_subscribers_own_queue_goes_with_the_run_and_the_groups_stays(broker: mq.Broker) -> None:
    broker.subscriber("a")(print)
    broker.subscriber("a", group="mail")(print)
    assert len(broker.queues()) == 2
    run_all(broker)
    assert broker.queues() == ["mail"]
    assert broker.subscriptions("a") == [("a", "mail")]


# ── run ────────────────────────────────────────────────────────────────────────────


def test_run_without_a_consumer_is_refused(broker: mq.Broker) -> None:
    with pytest.raises(mq.UsageError, match="consumer"):
        broker.run()


def test_run_ends_when_the_broker_is_closed(broker: mq.Broker) -> None:
    broker.consumer("orders")(lambda order: broker.close())
    broker.queue("orders").publish(1)
    broker.run()


def test_run_works_off_the_main_thread(broker: mq.Broker) -> None:
    seen: list[int] = []
    broker.consumer("orders")(seen.append)
    worker = threading.Thread(target=run_all, args=(broker,))
    broker.queue("orders").publish(1)
    worker.start()
    worker.join(PATIENCE)
    assert not worker.is_alive()
    assert seen == [1]


def test_run_runs_once_at_a_time(broker: mq.Broker) -> None:
    refused: list[mq.UsageError] = []

    def again(order: int) -> None:
        try:
            broker.run()
        except mq.UsageError as error:
            refused.append(error)

    broker.consumer("orders")(again)
    broker.queue("orders").publish(1)
    run_all(broker)
    assert "running already" in str(refused[0])
    run_all(broker)


def test_it_waits_for_what_is_delayed_until_it_is_empty(broker: mq.Broker) -> None:
    seen: list[int] = []
    broker.consumer("orders")(seen.append)
    broker.queue("orders").publish(1, delay=0.05)
    run_all(broker)
    assert seen == [1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_work_finish_and_releases_the_rest(broker: mq.Broker, number: signal.Signals) -> None:
    """SEMANTICS 2: a graceful shutdown is no failed attempt."""
    before = signal.getsignal(number)
    orders = broker.queue("orders")
    done: list[int] = []

    @broker.consumer("orders", prefetch=3)
    def bill(order: int) -> None:
        if order == 1:
            os.kill(os.getpid(), number)
            while orders.stats().in_flight > 1:  # until the others are released
                pass
        done.append(order)

    orders.publish_many([1, 2, 3, 4])
    broker.run(grace=30)
    assert done == [1]
    assert [each.attempts for each in orders.peek()] == [0, 0, 0]
    assert signal.getsignal(number) is before


def test_a_second_signal_stops_now(broker: mq.Broker) -> None:
    orders = broker.queue("orders")
    end = threading.Event()

    @broker.consumer("orders")
    def bill(order: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        end.wait(PATIENCE)

    orders.publish(1)
    broker.run(grace=3600)
    assert [each.attempts for each in orders.peek()] == [0]
    end.set()


def test_a_task_is_cancelled_when_grace_is_over_and_its_message_released(broker: mq.Broker) -> None:
    orders = broker.queue("orders")
    cancelled = threading.Event()

    @broker.consumer("orders")
    async def bill(order: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    orders.publish(1)
    broker.run(grace=0)
    assert [each.attempts for each in orders.peek()] == [0]
    assert cancelled.wait(PATIENCE)
