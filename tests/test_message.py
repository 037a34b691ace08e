"""Message and Delivery: bodies, receipts, and the endings of a with-block."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

import mq

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]


class Order(msgspec.Struct):
    id: int
    total: float


@dataclasses.dataclass
class Point:
    x: int
    y: int


class BytesOfMine(bytes):
    pass


class Stopped(BaseException):
    """As KeyboardInterrupt: not an Exception."""


@pytest.fixture
def queue(broker) -> mq.Queue:
    return broker.queue("mail")


def sent(queue: mq.Queue, body: object) -> mq.Delivery:
    queue.publish(body)
    delivery = queue.receive(timeout=0)
    assert delivery
    return delivery


# ── bodies without a type ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\0\xff", bytes(range(256)) * 300, "", "snow ☃ \0 \U0001f600", None, True, False,
        0, -1, 2**63, 2**64 - 1, -(2**63), 1.5, [], [1, [2, b"3"]], {}, {"a": {"b": [None]}},
        {1: 2, "x": b"y"}, {"wide": list(range(70_000))},
    ],
    ids=lambda body: f"{type(body).__name__}-{str(body)[:12]!a}",
)  # fmt: skip
def test_a_body_comes_back_as_it_was_sent(queue, body):
    """P3."""
    got = sent(queue, body).body
    assert got == body
    assert type(got) is type(body)


@pytest.mark.parametrize(
    "body",
    [b"abc", bytearray(b"abc"), memoryview(b"abc"), memoryview(b"a.b.c.")[::2], BytesOfMine(b"abc")],
    ids=["bytes", "bytearray", "memoryview", "a view with gaps", "a subclass"],
)  # fmt: skip
def test_every_kind_of_bytes_comes_back_as_bytes(queue, body):
    got = sent(queue, body)
    assert got.body == b"abc"
    assert type(got.body) is bytes
    assert got.raw == b"abc"


def test_a_bytearray_is_stored_as_it_was_when_published(queue):
    body = bytearray(b"before")
    queue.publish(body)
    body[:] = b"after!"
    assert queue.receive(timeout=0).body == b"before"


def test_a_subclass_of_str_comes_back_as_str(queue):
    got = sent(queue, type("Sub", (str,), {})("abc")).body
    assert (got, type(got)) == ("abc", str)


@pytest.mark.parametrize(
    ("body", "comes_back"),
    [
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (frozenset([3]), [3]),
        (uuid.UUID(int=5), str(uuid.UUID(int=5))),
        (Decimal("1.50"), "1.50"),
        (datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),
        (datetime(2024, 1, 2, 3, 4, 5).date(), "2024-01-02"),
        (Order(1, 9.5), {"id": 1, "total": 9.5}),
        (Point(1, 2), {"x": 1, "y": 2}),
        ({"at": (1, {"deep": (2,)})}, {"at": [1, {"deep": [2]}]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_msgpack_does_to_what_it_does_not_know(queue, body, comes_back):
    assert sent(queue, body).body == comes_back


def test_an_aware_datetime_has_a_place_in_msgpack(queue):
    now = datetime(2024, 1, 2, 3, 4, 5, 678_000, UTC)
    assert sent(queue, now).body == now


def test_structures_are_stored_as_msgpack(queue):
    assert msgspec.msgpack.decode(sent(queue, {"a": [1]}).raw) == {"a": [1]}


# ── bodies with a type ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("type", "body"),
    [
        (Order, Order(1, 9.5)),
        (Point, Point(1, 2)),
        (int, 7),
        (float, 1.5),
        (bool, True),
        (str, "text"),
        (bytes, b"\xff"),
        (list[int], [1, 2]),
        (tuple[int, str], (1, "a")),
        (set[str], {"a"}),
        (dict[str, Order], {"one": Order(1, 2.0)}),
        (uuid.UUID, uuid.UUID(int=5)),
        (Decimal, Decimal("1.50")),
        (datetime, datetime(2024, 1, 2, tzinfo=UTC)),
        (Order | None, None),
        (Any, {"x": [1]}),
        (Any, "text"),
        (Any, b"bytes"),
        (object, [1]),
    ],
    ids=str,
)
def test_a_typed_body_comes_back_as_its_type(broker, type, body):
    got = sent(broker.queue("typed", type=type), body).body
    assert got == body
    assert got.__class__ is body.__class__


@pytest.mark.parametrize(
    ("type", "body"),
    [
        pytest.param(Order, {"id": "one", "total": 1}, id="a wrong field"),
        pytest.param(Order, {"id": 1}, id="a missing field"),
        pytest.param(Order, b"raw", id="bytes for a structure"),
        pytest.param(Order, "text", id="text for a structure"),
        pytest.param(int, "7", id="text for a number"),
        pytest.param(int, 1.5, id="a float for an int"),
        pytest.param(str, b"text", id="bytes for text"),
        pytest.param(bytes, "aGk=", id="text for bytes, though it is base64"),
        pytest.param(bytes, {"a": 1}, id="a structure for bytes"),
        pytest.param(list[int], [1, "2"], id="a wrong element"),
        pytest.param(uuid.UUID, "no uuid", id="text that is no UUID"),
    ],
)
def test_a_body_that_does_not_fit_is_a_bad_body_and_harms_nobody(broker, type, body):
    plain, typed = broker.queue("q"), broker.queue("q", type=type)
    good = {Order: Order(1, 2.0), int: 7, str: "x", bytes: b"x"}.get(type)
    if good is None:
        good = [5] if type == list[int] else uuid.UUID(int=1)
    typed.publish(good)
    plain.publish(body)
    typed.publish(good)
    first, bad, last = typed.receive_many(5, timeout=0)
    assert (first.body, last.body) == (good, good)
    with pytest.raises(mq.BadBody, match=f"message {bad.id} in queue 'q' does not fit .*message.raw"):
        _ = bad.body
    assert bad.raw == plain.get(bad.id).raw
    assert plain.get(bad.id).body == body
    bad.ack()
    assert typed.stats().in_flight == 2


def test_a_body_that_is_nested_deeper_than_this_process_can_read_is_a_bad_one(broker):
    """Another process may have raised its recursion limit to publish it."""
    queue = broker.queue("q")
    queue.publish(msgspec.Raw(b"\x91" * 100_000 + b"\x90"))  # lists in lists
    with pytest.raises(mq.BadBody, match="recursion"):
        print(queue.receive(timeout=0).body)


def test_a_body_is_not_decoded_before_it_is_read(broker):
    broker.queue("q").publish("seven")
    delivery = broker.queue("q", type=int).receive(timeout=0)
    assert delivery.raw == b"seven"
    delivery.ack()


def test_a_body_is_decoded_once(broker):
    delivery = sent(broker.queue("q", type=Order), Order(1, 2.0))
    assert delivery.body is delivery.body


def test_a_body_can_be_read_after_the_broker_is_closed(broker):
    delivery = sent(broker.queue("q", type=Order), Order(1, 2.0))
    broker.close()
    assert delivery.body == Order(1, 2.0)
    assert delivery.receipt


def test_text_fits_a_type_that_is_written_as_text(broker):
    broker.queue("q").publish(str(uuid.UUID(int=9)))
    assert broker.queue("q", type=uuid.UUID).receive(timeout=0).body == uuid.UUID(int=9)


# ── what a message tells ───────────────────────────────────────────────────────────


def test_a_delivery_tells_what_is_known(queue, clock):
    published = clock.now
    id = queue.publish("hello")
    clock.advance(3)
    delivery = queue.receive(timeout=0, visibility_timeout=10)
    assert (delivery.id, delivery.queue, delivery.attempts) == (id, "mail", 1)
    assert (delivery.state, delivery.raw, delivery.body) == ("in_flight", b"hello", "hello")
    assert delivery.created_at == datetime.fromtimestamp(published, UTC)
    assert delivery.due_at == datetime.fromtimestamp(published + 13, UTC)
    assert delivery.created_at.tzinfo is UTC


def test_a_message_cannot_be_settled(queue):
    queue.publish("hello")
    [message] = queue.peek()
    assert not isinstance(message, mq.Delivery)
    assert not hasattr(message, "ack")
    assert not hasattr(message, "receipt")
    assert isinstance(queue.receive(timeout=0), mq.Message)


def test_its_text_says_what_it_is_and_not_what_is_in_it(queue):
    delivery = sent(queue, "the secret")
    assert repr(delivery) == f"<Delivery {delivery.id} in 'mail': in_flight, attempts 1, 10 bytes>"


@pytest.mark.parametrize("name", ["body", "queue", "created_at", "due_at", "receipt"])
def test_what_is_derived_cannot_be_set(queue, name):
    with pytest.raises(AttributeError):
        setattr(sent(queue, "x"), name, "y")


def test_a_delivery_is_true_so_that_a_drain_can_be_written(queue):
    assert sent(queue, b"")


def test_two_deliveries_of_one_message_differ_in_their_receipts(queue, clock):
    first = sent(queue, "x")
    clock.advance(31)
    second = queue.receive(timeout=0)
    assert first.id == second.id
    assert first.receipt != second.receipt
    assert first != second
    assert len({first, second}) == 2


# ── with message: ──────────────────────────────────────────────────────────────────


def counts(queue: mq.Queue) -> tuple[int, int, int, int]:
    stats = queue.stats()
    return stats.ready, stats.in_flight, stats.delayed, stats.acked


GONE, READY, DELAYED = (0, 0, 0, 1), (1, 0, 0, 0), (0, 0, 1, 0)


def test_the_end_of_the_block_acks(queue):
    with sent(queue, "x") as delivery:
        assert isinstance(delivery, mq.Delivery)
    assert counts(queue) == GONE


def test_leaving_early_acks(queue):
    def handler() -> str:
        with sent(queue, "x"):
            return "done"

    assert handler() == "done"
    assert counts(queue) == GONE


def test_an_exception_nacks_and_is_raised_again(queue):
    error = ValueError("no such customer")
    with pytest.raises(ValueError) as raised, sent(queue, "x"):
        raise error
    assert raised.value is error
    assert not hasattr(error, "__notes__")
    assert counts(queue) == DELAYED
    assert queue.stats().failed == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, Stopped])
def test_an_interruption_releases_and_is_raised_again(queue, kind):
    with pytest.raises(kind), sent(queue, "x"):
        raise kind
    assert counts(queue) == READY
    assert queue.stats().failed == 0
    assert queue.receive(timeout=0).attempts == 1


@pytest.mark.parametrize(
    ("settle", "after"),
    [
        pytest.param(lambda queue, delivery: delivery.ack(), GONE, id="ack"),
        pytest.param(lambda queue, delivery: delivery.nack(delay=5), DELAYED, id="nack"),
        pytest.param(lambda queue, delivery: delivery.release(), READY, id="release"),
        pytest.param(lambda queue, delivery: queue.ack_many([delivery]), GONE, id="ack_many"),
    ],
)
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_delivery_settled_by_hand_is_left_alone(queue, settle, after, error):
    def block() -> None:
        with sent(queue, "x") as delivery:
            settle(queue, delivery)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            block()
    else:
        block()
    assert counts(queue) == after


def test_an_extended_delivery_is_still_settled_at_the_end(queue):
    with sent(queue, "x") as delivery:
        delivery.extend(100)
    assert counts(queue) == GONE


def test_a_stale_delivery_is_said_at_the_end_of_a_good_block(queue, clock):
    """The work was or will be repeated: that must not pass in silence."""
    with pytest.raises(mq.StaleReceipt), sent(queue, "x"):
        clock.advance(31)
        other = queue.receive(timeout=0)
    assert counts(queue) == (0, 1, 0, 0)
    other.ack()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_stale_delivery_does_not_mask_the_exception(queue, clock, kind):
    error = kind("first")
    with pytest.raises(kind) as raised, sent(queue, "x"):
        clock.advance(31)
        other = queue.receive(timeout=0)
        raise error
    assert raised.value is error
    assert ["mq: message" in note for note in error.__notes__] == [True]
    assert counts(queue) == (0, 1, 0, 0)
    other.ack()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_broker_closed_inside_does_not_mask_the_exception(broker, queue, kind):
    with pytest.raises(kind) as raised, sent(queue, "x"):
        broker.close()
        raise kind("first")
    assert raised.value.args == ("first",)
    assert "closed" in raised.value.__notes__[0]


def test_a_broker_closed_inside_a_good_block_is_said(broker, queue):
    with pytest.raises(mq.Closed), sent(queue, "x"):
        broker.close()


def test_an_exception_that_cannot_be_printed_is_not_masked(queue):
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even that")

    with pytest.raises(Mute), sent(queue, "x"):
        raise Mute
    assert counts(queue) == DELAYED


def test_a_very_long_reason_does_not_matter(queue):
    with pytest.raises(ValueError), sent(queue, "x"):
        raise ValueError("so much " * 100_000)
    assert counts(queue) == DELAYED


def test_a_block_inside_a_loop_settles_each_message(queue, clock):
    queue.publish_many(range(5))
    done = []
    while message := queue.receive(timeout=0):
        try:
            with message:
                if message.body == 2 and message.attempts == 1:
                    raise ValueError
                done.append(message.body)
        except ValueError:
            pass
    assert done == [0, 1, 3, 4]
    clock.advance(5)
    with queue.receive(timeout=0) as message:
        assert (message.body, message.attempts) == (2, 2)
    assert queue.stats()[:3] == (0, 0, 0)
