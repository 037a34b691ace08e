"""What a type checker must accept, and infer.  Read by tests/test_types.py, and never run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, assert_type

import msgspec

import mq


class Order(msgspec.Struct):
    id: int


def everything() -> None:
    with mq.open("data", sync=0.5, exclusive=True, recover="salvage", mode=0o660, clock=None) as broker:
        assert_type(broker, mq.Broker)
        assert_type((broker.path, broker.store_id), tuple[str, str])
        assert_type(broker.queue("anything"), mq.Queue[Any])
        orders = broker.queue("orders", type=Order, max_attempts=5, backoff=mq.Backoff(), expired="drop")
        assert_type(orders, mq.Queue[Order])
        assert_type(orders.name, str)

        assert_type(orders.publish(Order(1), delay=1, group="a", headers={"a": "b"}, dedup_id="x"), int)
        assert_type(
            orders.publish(Order(1), at=None, group=None, dedup_id=None), int
        )  # what a program may not have
        assert_type(orders.publish_many([Order(1)], priority=3, timeout=0.5), list[int])

        assert_type(orders.receive(), mq.Delivery[Order])
        assert_type(orders.receive(1.0), mq.Delivery[Order] | None)
        assert_type(orders.receive(timeout=0, visibility_timeout=3), mq.Delivery[Order] | None)
        assert_type(broker.receive([orders], 3), mq.Delivery[Order] | None)
        several = orders.receive_many(5, 0)
        assert_type(several, list[mq.Delivery[Order]])
        assert_type(orders.receive_many(5, linger=0.5, per_group=None), list[mq.Delivery[Order]])

        orders.ack_many(several)
        orders.ack_many([several[0].receipt, several[1]])
        orders.nack_many(several, delay=1, reason="x")
        orders.ack_many(several, fenced=False)
        orders.release_many([several[0].receipt, several[1]])
        orders.reject_many(several, "x")
        orders.extend_many(several, 3, fenced=False)

        for message in orders:
            with message as held:
                assert_type(held, mq.Delivery[Order])
            assert_type(message.body, Order)
            assert_type(message.receipt, mq.Receipt)
            assert_type(message.failures, tuple[mq.Failure, ...])
            assert_type(message.state, mq.State)
            assert_type(message.due_at, datetime | None)
            assert_type(message.first_received_at, datetime | None)
            assert_type(message.expires_at, datetime | None)
            message.ack()
            message.nack(delay=1, reason="x")
            message.reject("x")
            message.extend(3)

        assert_type(orders.peek(3, state="delayed"), list[mq.Message[Order]])
        assert_type(orders.get(3), mq.Message[Order] | None)
        assert_type(orders.options(), mq.QueueOptions)
        assert_type(orders.stats(), mq.Stats)
        assert_type(broker.stats(), mq.StoreStats)
        assert_type(broker.stats(["orders"]), mq.StoreStats)
        assert_type(broker.queues(prefix="or", after="a", limit=3), list[str])
        assert_type(broker.generation, int)
        assert_type(orders.meta(), Mapping[str, str])
        assert_type(orders.update_meta({"a": "1", "b": None}, expect={"a": None}), bool)
        mixed = [Order(1), mq.Outgoing(Order(2), {"priority": 1, "dedup_id": "x"})]
        assert_type(broker.queue("orders", delay=3).publish_many(mixed, delay=1), list[int])
        assert_type(orders.reschedule(3, at=datetime.now(UTC)), bool)
        assert_type(orders.purge(in_flight=True), int)
        assert_type(orders.replay([1], to="elsewhere"), int)

        with broker.transaction() as tx:
            assert_type(tx, mq.Transaction)
            tx.publish(orders, Order(1), priority=2)
            tx.publish("orders", {"id": 1})
            tx.ack(several[0])
            tx.nack(several[1].receipt, delay=3)
        assert_type(tx.ids, list[int])


def with_options(queue: mq.Queue[bytes], options: mq.PublishOptions) -> int:
    try:
        return queue.publish(b"x", **options)
    except mq.StaleReceipt as error:
        assert_type(error.ids, tuple[int, ...])
        raise
    except mq.CorruptStore as error:
        assert_type((error.path, error.offset, error.reason), tuple[str, int | None, str])
        raise


def a_message_of_orders_is_one_of_objects(queue: mq.Queue[Order]) -> mq.Message[object] | None:
    return queue.get(1)


def what_errors_tell(locked: mq.StoreLocked, again: mq.Retry) -> None:
    assert_type((locked.pid, locked.reason), tuple[int | None, str])
    assert_type((again.delay, again.reason), tuple[float | None, str])
