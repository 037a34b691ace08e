"""Every argument of every call, given by subclasses and liars: done, or refused and nothing done.

Whatever they say, what is in the log is what recovery takes: after each call that wrote
something the store is opened afresh, and the messages of a queue beside it are there.
"""

from __future__ import annotations

import enum
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import liars
import pytest
from click.testing import CliRunner
from fakes import FakeClock
from liars import (
    BACKOFFS,
    BODIES,
    HEADERS,
    INSTANTS,
    LABELS,
    STRANGE,
    Boom,
    Several,
    breaking,
    numbers,
    texts,
)

import mq
from mq.api.options import BatchOptions, PublishOptions, QueueOptions, check_options
from mq.cli import cli
from mq.engine.commands import declare

pytestmark = pytest.mark.usefixtures("no_power_fails")

Values = dict[str, Callable[[], Any]]
Call = Callable[["Bench", Any], object]


class Bench:
    """A store with a queue to be tried, and another one that must not notice."""

    BESIDE = ("one", "two")

    def __init__(self, path: Any) -> None:
        self.path = path
        self.clock = FakeClock()
        self.broker = mq.open(path / "data", sync="never", clock=self.clock)
        self.other = self.broker.queue("other")
        self.other.publish_many(self.BESIDE, headers={"a": "b"})
        self.count = 0
        self.prepare()

    def prepare(self) -> None:
        """A queue that nothing was done to, with one message in flight, one that waits, and a dead one."""
        self.count += 1
        self.queue = self.broker.queue(f"tried-{self.count}")
        self.queue.publish_many(["dead", "held", "waits"])
        self.queue.receive(timeout=0).reject()
        self.held = self.queue.receive(timeout=0)
        self.dead = self.broker.queue(f"tried-{self.count}.dead")

    def try_(self, call: Call, value: Any) -> bool:
        """Whether it was done.  The caller's own exceptions may come out of it, and those of mq."""
        log = self.broker._store.replica.log
        before = log.end
        try:
            call(self, value)
        except (mq.MqError, Boom) as error:
            assert not isinstance(error, mq.StorageError | mq.Closed), error
            if isinstance(error, mq.UsageError):
                text = str(error)
                assert text.isprintable(), text
                assert len(text) < 500, text
            assert log.end == before, "it was refused, and something was done"
            return False
        if log.end != before:
            self.check()
            self.prepare()
        return True

    def check(self) -> None:
        """Recovery takes the log, and the queue beside is what it was."""
        with mq.open(self.path / "data", read_only=True, clock=self.clock) as again:
            assert sorted(again.queues()) == sorted(self.broker.queues())
            found = again.queue("other").peek()
            assert tuple(message.body for message in found) == self.BESIDE
            assert all(message.headers == {"a": "b"} for message in found)
            tried = again.queue(self.queue.name)
            assert tried.stats() == self.queue.stats()
            assert tried.options() == self.queue.options()
            for state in ("ready", "delayed", "in_flight"):
                for message in tried.peek(100, state=state):
                    assert message.due_at or state == "ready"
                    assert type(message.group) in (str, type(None))


@pytest.fixture
def bench(tmp_path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.broker.close()
    result = CliRunner().invoke(cli, ["verify", "--store", str(tmp_path / "data")])
    assert result.exit_code == 0, result.output
    with mq.open(tmp_path / "data") as again:
        assert again.queue("other").stats().ready == 2


ARGUMENTS: dict[str, tuple[Call, Values]] = {}


def given(name: str, values: Values, call: Call) -> None:
    ARGUMENTS[name] = call, STRANGE | values


def declaring(name: str) -> Call:
    return lambda bench, value: (
        declare(bench.queue._store, bench.queue._channel, check_options({name: value}))
        or bench.broker.queue(bench.queue.name, **{name: value})
    )


def publishing(name: str) -> Call:
    return lambda bench, value: bench.queue.publish("x", **{name: value})


def publishing_many(name: str) -> Call:
    return lambda bench, value: bench.queue.publish_many(["x", "y"], **{name: value})


def in_transaction(do: Callable[[mq.Transaction, Bench, Any], None]) -> Call:
    def call(bench: Bench, value: Any) -> None:
        with bench.broker.transaction() as tx:
            tx.publish(bench.queue, "with it")
            do(tx, bench, value)

    return call


def named(call: Call) -> Call:
    """*call* with an option of that name; Python itself may refuse it, by a TypeError."""

    def tried(bench: Bench, name: Any) -> None:
        try:
            call(bench, {name: 5})
        except TypeError as error:
            raise Boom from error

    return tried


SECONDS, COUNTS, PRIORITIES = numbers(5), numbers(3), numbers(7)
QUEUE_OPTIONS: dict[str, Values] = {
    "visibility_timeout": SECONDS, "max_attempts": COUNTS, "backoff": BACKOFFS, "dead_letter": texts("grave"),
    "ttl": SECONDS, "expired": texts("drop") | texts("dead_letter"), "max_length": COUNTS,
    "max_bytes": numbers(10_000), "overflow": texts("reject") | texts("drop_oldest"), "dedup_window": SECONDS,
    "delivery": texts("at_least_once") | texts("at_most_once"), "delete_when_idle": SECONDS,
}  # fmt: skip
PUBLISH_OPTIONS: dict[str, Values] = {
    "priority": PRIORITIES, "delay": SECONDS, "at": INSTANTS, "ttl": SECONDS, "group": LABELS,
    "headers": HEADERS, "timeout": SECONDS, "dedup_id": LABELS,
}  # fmt: skip
MESSAGES: Values = {
    "breaks": lambda: breaking(),
    "several": lambda: Several([], [5]),
    "others the second time": lambda: Several([b"x"], [5]),
}
# An argument that is new here is tried with numbers and texts, until it has values of its own.
ANYTHING = numbers(5) | texts("x")
QUEUE_OPTIONS = dict.fromkeys(QueueOptions.__annotations__, ANYTHING) | QUEUE_OPTIONS
PUBLISH_OPTIONS = (
    dict.fromkeys([*BatchOptions.__annotations__, *PublishOptions.__annotations__], ANYTHING)
    | PUBLISH_OPTIONS
)
for name, values in QUEUE_OPTIONS.items():
    given(f"queue {name}", values, declaring(name))
for name, values in PUBLISH_OPTIONS.items():
    given(f"publish {name}", values, publishing(name))
    given(f"transaction publish {name}", values, in_transaction(
        lambda tx, bench, value, name=name: tx.publish(bench.queue, "x", **{name: value})))  # fmt: skip
    if name != "dedup_id":
        given(f"publish_many {name}", values, publishing_many(name))
given("queue name", texts("name"), lambda bench, value: bench.broker.queue(value).publish("x"))
given("queue type", {}, lambda bench, value: bench.broker.queue("typed", type=value))
given(
    "queue, an option's name",
    texts("ttl"),
    named(lambda bench, options: bench.broker.queue("new", **options)),
)
given(
    "publish, an option's name",
    texts("ttl"),
    named(lambda bench, options: bench.queue.publish("x", **options)),
)
given("publish body", BODIES, lambda bench, value: bench.queue.publish(value))
given("publish body with more", BODIES, lambda bench, value: bench.queue.publish(value, priority=1))
given("publish_many bodies", MESSAGES, lambda bench, value: bench.queue.publish_many(value))
given("publish_many body", BODIES, lambda bench, value: bench.queue.publish_many(["x", value]))
given("receive timeout", SECONDS, lambda bench, value: value is None or bench.queue.receive(value))
given("receive visibility_timeout", SECONDS,
      lambda bench, value: bench.queue.receive(0, visibility_timeout=value))  # fmt: skip
given("receive_many limit", COUNTS, lambda bench, value: bench.queue.receive_many(value, 0))
given("receive_many timeout", SECONDS,
      lambda bench, value: value is None or bench.queue.receive_many(1, value))  # fmt: skip
given("receive_many visibility_timeout", SECONDS,
      lambda bench, value: bench.queue.receive_many(1, 0, visibility_timeout=value))  # fmt: skip
given("receive_many linger", SECONDS, lambda bench, value: bench.queue.receive_many(1, 0, linger=value))
given("receive_many per_group", COUNTS, lambda bench, value: bench.queue.receive_many(1, 0, per_group=value))
given("broker.receive queues", MESSAGES, lambda bench, value: bench.broker.receive(value, 0))
given("broker.receive queue", {}, lambda bench, value: bench.broker.receive([bench.queue, value], 0))
given("broker.receive timeout", SECONDS,
      lambda bench, value: value is None or bench.broker.receive([bench.queue], value))  # fmt: skip
given("nack delay", SECONDS, lambda bench, value: bench.held.nack(delay=value))
given("nack reason", texts("why"), lambda bench, value: bench.held.nack(reason=value))
given("reject reason", texts("why"), lambda bench, value: bench.held.reject(value))
given("extend seconds", SECONDS, lambda bench, value: bench.held.extend(value))
for verb in ("ack_many", "nack_many", "release_many", "reject_many", "extend_many"):
    given(f"{verb} messages", MESSAGES, lambda bench, value, verb=verb: getattr(bench.queue, verb)(value))
    given(f"{verb} message", LABELS, lambda bench, value, verb=verb: getattr(bench.queue, verb)([value]))
given("nack_many delay", SECONDS, lambda bench, value: bench.queue.nack_many([bench.held], delay=value))
given("nack_many reason", LABELS, lambda bench, value: bench.queue.nack_many([bench.held], reason=value))
given("reject_many reason", LABELS, lambda bench, value: bench.queue.reject_many([bench.held], value))
given("extend_many seconds", SECONDS, lambda bench, value: bench.queue.extend_many([bench.held], value))
given("peek limit", COUNTS, lambda bench, value: bench.queue.peek(value))
given("peek state", texts("ready") | texts("in_flight"), lambda bench, value: bench.queue.peek(state=value))
given("get id", COUNTS, lambda bench, value: bench.queue.get(value))
given("cancel id", COUNTS, lambda bench, value: bench.queue.cancel(value))
given("reschedule id", COUNTS, lambda bench, value: bench.queue.reschedule(value, delay=1))
given("reschedule delay", SECONDS,
      lambda bench, value: bench.queue.reschedule(bench.queue.peek()[0].id, delay=value))  # fmt: skip
given("reschedule at", INSTANTS,
      lambda bench, value: bench.queue.reschedule(bench.queue.peek()[0].id, at=value))  # fmt: skip
given("replay ids", MESSAGES, lambda bench, value: bench.dead.replay(value))
given("replay id", COUNTS, lambda bench, value: bench.dead.replay([value]))
given("replay to", texts("other-than-that"), lambda bench, value: bench.dead.replay(to=value))
given("transaction publish to", texts("other-than-that"),
      in_transaction(lambda tx, bench, value: tx.publish(value, "x")))  # fmt: skip
given("transaction publish body", BODIES,
      in_transaction(lambda tx, bench, value: tx.publish(bench.queue, value)))  # fmt: skip
given("transaction ack", LABELS, in_transaction(lambda tx, bench, value: tx.ack(value)))
given("transaction nack", LABELS, in_transaction(lambda tx, bench, value: tx.nack(value)))
given("transaction nack delay", SECONDS,
      in_transaction(lambda tx, bench, value: tx.nack(bench.held, delay=value)))  # fmt: skip
given("transaction nack reason", texts("why"),
      in_transaction(lambda tx, bench, value: tx.nack(bench.held, reason=value)))  # fmt: skip


@pytest.mark.parametrize(("call", "values"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_an_argument_that_is_not_what_it_looks_like(bench, call, values):
    done = {name for name, make in values.items() if bench.try_(call, make())}
    assert {name for name in done if name.startswith("poses as ")} == set(), "by its __class__ alone"


OPEN: dict[str, Values] = {
    "sync": texts("always") | texts("never") | numbers(5), "exclusive": numbers(1), "read_only": numbers(0),
    "recover": texts("refuse") | texts("salvage"), "segment_bytes": numbers(1 << 20), "clock": {},
}  # fmt: skip
OPEN = {name: ANYTHING for name in inspect.signature(mq.open).parameters if name != "path"} | OPEN


@pytest.mark.parametrize(("name", "values"), OPEN.items(), ids=OPEN)
def test_opening_with_what_is_not_what_it_looks_like(bench, tmp_path, name, values):
    for number, make in enumerate((STRANGE | values).values()):
        path = tmp_path / str(number)
        try:
            mq.open(path, **{name: make()}).close()
        except (mq.UsageError, Boom):
            assert not path.exists()
        except mq.StorageError:
            assert name == "read_only", "there is nothing to be read"
        else:
            assert path.exists()


def test_a_path_is_asked_once(bench, tmp_path):
    names = [str(tmp_path / name) for name in ("first", "second", "third")]
    with mq.open(liars.Path(*names)) as broker:
        assert broker.path == names[0]
        broker.queue("mail").publish("x")
    lies = texts(names[1])
    for make in lies.values():
        with mq.open(make()) as broker:
            assert broker.path == names[1]
            assert type(broker.path) is str
    for bad in (
        liars.Path(5),
        liars.Path(None),
        liars.Path("a\0b"),
        liars.Path("\ud800"),
        liars.Path(liars._boom),
    ):
        with pytest.raises((mq.UsageError, Boom)):
            mq.open(bad)
    for name, make in STRANGE.items():
        if "text" not in name:
            with pytest.raises((mq.UsageError, Boom)):
                mq.open(make())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "first", "second"]


def test_everything_at_once(bench):
    """Any options together, each as some liar gives it."""
    chance = random.Random(9)
    done = 0
    for _ in range(60):
        makers = {
            name: list(values.values()) for name, values in (PUBLISH_OPTIONS | {"body": BODIES}).items()
        }
        chosen = {name: chance.choice(each)() for name, each in makers.items() if chance.random() < 0.4}
        body = chosen.pop("body", "x")
        options = {
            name: chance.choice(list(values.values()))()
            for name, values in QUEUE_OPTIONS.items()
            if chance.random() < 0.2
        }
        bench.try_(lambda bench, value: bench.broker.queue(bench.queue.name, **value), options)
        done += bench.try_(lambda bench, value: bench.queue.publish(value[0], **value[1]), (body, chosen))
    assert done > 3


# ── what they are taken for ────────────────────────────────────────────────────────


class Word(str, enum.Enum):  # noqa: UP042  a StrEnum would print as its text
    DROP = "drop"
    DEAD = "dead_letter"
    REJECT = "reject"
    ONCE = "at_most_once"
    NAME = "jobs"


def test_an_enum_of_text_is_its_text(bench):
    queue = bench.broker.queue(
        Word.NAME, expired=Word.DROP, overflow=Word.REJECT, delivery=Word.ONCE, dead_letter=Word.DEAD
    )
    queue.publish("x", group=Word.DROP, headers={Word.DEAD: Word.ONCE})
    with mq.open(bench.path / "data", read_only=True) as again:
        assert "jobs" in again.queues()
        found = again.queue("jobs")
        assert found.options() == queue.options()
        assert found.options()["expired"] == "drop"
        assert found.options()["delivery"] == "at_most_once"
        [message] = found.peek()
        assert (message.group, message.headers) == ("drop", {"dead_letter": "at_most_once"})


@pytest.mark.parametrize("name", [name for name in STRANGE | numbers(5) if name.startswith(("int", "float"))])
def test_a_number_is_the_number_that_it_holds(bench, name):
    value = (STRANGE | numbers(5))[name]
    queue = bench.broker.queue("new", visibility_timeout=value(), ttl=value())
    assert (queue.options()["visibility_timeout"], queue.options()["ttl"]) == (5.0, 5.0)
    with suppress(mq.UsageError):  # of a float, which counts nothing
        queue = bench.broker.queue("new", max_attempts=value(), max_length=value())
        assert (queue.options()["max_attempts"], queue.options()["max_length"]) == (5, 5)
    id = queue.publish("x", delay=value())
    assert (queue.get(id).due_at - queue.get(id).created_at).total_seconds() == 5


@pytest.mark.parametrize("name", [name for name in BODIES if name.startswith(("str", "bytes", "bytearray"))])
def test_a_body_is_what_it_holds(bench, name):
    expected = "text" if name.startswith("str") else b"bytes"
    for options in ({}, {"priority": 1}):
        id = bench.queue.publish(BODIES[name](), **options)
        assert bench.queue.get(id).body == expected


def test_headers_are_what_they_listed_first(bench):
    id = bench.queue.publish("x", headers=HEADERS["items change"]())
    assert bench.queue.get(id).headers == {"a": "b"}
