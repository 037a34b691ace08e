"""No mistake of mq writes a record that the next opening refuses: the fold is asked before the log.

Each test plants such a mistake between what a caller gives and the log.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from fakes import FakeClock, open_on
from msgspec.structs import replace

import mq
from mq.api import options
from mq.cli import cli
from mq.delivery import records, snapshot
from mq.delivery.attributes import Changes
from mq.delivery.plan import Plan
from mq.delivery.state import declaration_of
from mq.delivery.traits import changes_in
from mq.engine import moving
from mq.storage import record, segment
from mq.storage.real_disk import RealDisk

Plant = Callable[[pytest.MonkeyPatch], None]
REFUSED = r"nothing was done.*bug of mq"


class Bench:
    """A queue with a message in flight and two that wait; beside it one with a dead letter."""

    def __init__(self, path: Any) -> None:
        self.path, self.clock = path, FakeClock()
        self.broker = mq.open(path, sync="never", clock=self.clock)
        self.queue = self.broker.queue("mail", visibility_timeout=60)
        self.queue.publish_many(["held", "one", "two"])
        self.held = self.queue.receive(timeout=0)
        other = self.broker.queue("other")
        other.publish("dead")
        other.receive(timeout=0).reject()
        self.dead = self.broker.queue("other.dead")

    def transact(self) -> None:
        with self.broker.transaction() as tx:
            tx.publish("new", "x")
            tx.ack(self.held)
            tx.publish(self.queue, "y", priority=9)

    def refuses(self, plant: Plant, call: Callable[[], object]) -> None:
        """The mistake is refused, nothing is written, and the store goes on, also when it is opened anew."""
        end, before = self.broker._store.replica.log.end, self.facts(self.broker)
        with pytest.MonkeyPatch.context() as monkeypatch:
            plant(monkeypatch)
            with pytest.raises(mq.UsageError, match=REFUSED) as raised:
                call()
        assert str(raised.value).isprintable()
        assert self.broker._store.replica.log.end == end
        assert self.facts(self.broker) == before
        with mq.open(self.path, clock=self.clock) as again:
            assert self.facts(again) == before
        self.held.ack()
        assert self.queue.publish("three", priority=1)
        self.broker.close()
        with mq.open(self.path, clock=self.clock) as again:
            assert again.queue("mail").receive(timeout=0).body == "three"

    def facts(self, broker: mq.Broker) -> object:
        return [(name, broker.queue(name).stats()) for name in broker.queues()]


@pytest.fixture
def bench(tmp_path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "data")
    yield bench
    bench.broker.close()


def answer(name: str, value: object) -> Plant:
    return lambda monkeypatch: monkeypatch.setattr(options, name, lambda *args: value)


def unchecked(option: str) -> Plant:
    return lambda monkeypatch: monkeypatch.setitem(options._CHECKS, option, lambda name, value: value)


MISTAKES: dict[str, tuple[Plant, Callable[[Bench], object]]] = {
    "an option's word": (unchecked("expired"), lambda bench: bench.broker.queue("mail", expired="E.DROP")),
    "a new queue's option": (unchecked("overflow"), lambda bench: bench.broker.queue("new", overflow="E")),
    "a text for a number": (
        unchecked("max_attempts"), lambda bench: bench.broker.queue("mail", max_attempts="5")),
    "no duration": (
        unchecked("ttl"), lambda bench: bench.broker.queue("mail", ttl=float("inf"))),
    "a priority": (answer("check_priority", 300), lambda bench: bench.queue.publish("x", priority=9)),
    "the priority of a batch": (
        answer("check_priority", 300), lambda bench: bench.queue.publish_many(["x"] * 3, priority=9)),
    "a part of a transaction": (answer("check_priority", -1), Bench.transact),
    "headers": (
        answer("check_headers", {"a": 5}), lambda bench: bench.queue.publish("x", headers={"a": "5"})),
    "a group": (answer("check_text", 5), lambda bench: bench.queue.publish("x", group="g")),
    "a day": (answer("check_instant", -5), lambda bench: bench.queue.publish("x", at=5)),
}  # fmt: skip


@pytest.mark.parametrize(("plant", "call"), MISTAKES.values(), ids=MISTAKES)
def test_what_a_check_lets_through_is_refused(bench, plant, call):
    bench.refuses(plant, lambda: call(bench))


CALLS: dict[int, Callable[[Bench], object]] = {
    records.DECLARE: lambda bench: bench.queue.pause(),
    records.ACK: lambda bench: bench.queue.ack_many([bench.held.receipt]),
    records.NACK: lambda bench: bench.held.nack(reason="why"),
    records.RELEASE: lambda bench: bench.held.release(),
    records.EXTEND: lambda bench: bench.held.extend(5),
    records.PURGE: lambda bench: bench.queue.purge(),
    records.MOVE: lambda bench: bench.dead.replay(),
    records.DROP: lambda bench: bench.queue.cancel(bench.queue.peek()[0].id),
    records.RESCHEDULE: lambda bench: bench.queue.reschedule(bench.queue.peek()[0].id, delay=5),
    records.DELETE: lambda bench: bench.queue.delete(),
}


@pytest.mark.parametrize("mistake", ["half of it is missing", "a flag that is not known", "no queue"])
@pytest.mark.parametrize("kind", CALLS, ids=records.KIND_NAMES.get)
def test_a_wrong_record_of_any_kind_is_refused(bench, kind, mistake):
    if kind == records.DELETE and "half" in mistake:
        return  # of nothing

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        add = Plan.add

        def add_wrongly(plan: Plan, of: int, flags: int, queue: int, payload: bytes) -> int:
            if of == kind and "half" in mistake:
                payload = payload[: len(payload) // 2]
            elif of == kind and "flag" in mistake:
                flags |= 0xF0 & ~records.KINDS[kind].flags or 0x02
            elif of == kind:
                queue = 0
            return add(plan, of, flags, queue, payload)

        monkeypatch.setattr(Plan, "add", add_wrongly)

    bench.refuses(plant, lambda: CALLS[kind](bench))


def test_work_that_falls_due_and_goes_wrong_stops_no_other_call(bench):
    """What expires cannot be dropped, by mistake: it stays, and publishing and receiving go on."""
    bench.queue.publish("expires", ttl=5)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(records, "EXPIRED", 0x02)
        bench.clock.advance(10)
        assert bench.queue.publish("three")
        assert [each.body for each in bench.queue.receive_many(9, timeout=0)] == ["one", "two", "three"]
        assert bench.queue.stats().expired == 0
    bench.clock.advance(10)
    assert bench.queue.receive(timeout=0) is None
    assert bench.queue.stats().expired == 1


def test_the_cleaner_moves_nothing_that_could_not_be_read_again(tmp_path, monkeypatch, caplog):
    """It says so, gives no space back, and no message is lost."""
    broker = open_on(RealDisk(), tmp_path / "data", sync="never", segment_bytes=4096, background=False)
    queue = broker.queue("mail", backoff=mq.Backoff(initial=0))
    queue.publish("kept")
    queue.receive(timeout=0).nack(reason="it has a history, which moves with it")
    monkeypatch.setattr(moving, "changes_in", lambda said, *known: changes_in(said, *known) and Changes(-5))
    with caplog.at_level(logging.WARNING, "mq"):
        for _ in range(100):
            broker.queue("other").publish(bytes(200))
            broker.queue("other").receive(timeout=0).ack()
        broker.close()
    assert re.search("space is not given back.*: nothing was done", caplog.text)
    with mq.open(tmp_path / "data") as broker:
        assert broker.queue("mail").receive(timeout=0).body == "kept"


def test_a_checkpoint_that_would_not_decode_is_not_written(tmp_path, monkeypatch):
    """It is a cache: the log is read instead."""
    path = tmp_path / "data"
    with mq.open(path, sync="never") as broker:
        broker.queue("mail", ttl=60.0).publish_many(["one", "two"])
        with monkeypatch.context() as planted:
            planted.setattr(
                snapshot, "declaration_of", lambda queue: replace(declaration_of(queue), expired="E.DROP")
            )
            with pytest.raises(mq.Unsupported, match="does not say what queue 'mail' holds"):
                broker._store.maintenance.checkpoints.write()
    assert not list((path / "checkpoint").glob("*.state"))
    for read_only in (True, False):
        with mq.open(path, read_only=read_only) as broker:
            assert broker.queue("mail").stats().ready == 2
            assert broker.queue("mail").options()["ttl"] == 60.0


def test_a_checkpoint_that_does_not_decode_is_refused_by_name(tmp_path, monkeypatch):
    """`mq verify` names the file; without it, it costs time."""
    path = tmp_path / "data"
    with mq.open(path, sync="never") as broker:
        broker.queue("mail").publish_many(["one", "two"])
        with monkeypatch.context() as planted:
            planted.setattr(snapshot, "_decode", lambda *_: None)
            planted.setattr(
                snapshot, "declaration_of", lambda queue: replace(declaration_of(queue), expired="E.DROP")
            )
            broker._store.maintenance.checkpoints.write()
    with mq.open(path) as broker, pytest.raises(mq.Unsupported, match="delete the store's directory check"):
        broker.queue("mail").stats()
    result = CliRunner().invoke(cli, ["verify", "--store", str(path)])
    assert result.exit_code == 0, result.output
    assert "this checkpoint cannot be used" in result.output
    shutil.rmtree(path / "checkpoint")
    with mq.open(path) as broker:
        assert broker.queue("mail").stats().ready == 2


# ── what an older mq has written all the same ──────────────────────────────────────


def left_by_a_mistake(path: Any, clock: FakeClock, kind: int, flags: int, payload: bytes) -> int:
    """A store with such a record among others, past what looks at it; the record's position."""
    with mq.open(path, clock=clock) as broker:
        queue = broker.queue("mail", max_attempts=7)
        queue.publish("one")
        store = broker._store
        with store.turn.mutex:
            number = queue._channel.state.number
            position = store.replica.log.append(store.clock.store_ms(), kind, flags, number, payload)
            store.replica.applied = store.replica.log.end
        queue.publish("two")
    return position


MISTAKES = [
    pytest.param(
        records.DECLARE, 0, msgspec.msgpack.encode({"name": "mail", "overflow": "DROP"}), "overflow",
        id="a queue with the name of an Enum's member",
    ),
    pytest.param(
        records.PUBLISH, records.ATTRIBUTED, b"body" + b"\xc1" + (1).to_bytes(4, "little"), "publish",
        id="a message with attributes that are none",
    ),
]  # fmt: skip


@pytest.mark.parametrize("way", ["repair", "salvage"])
@pytest.mark.parametrize("kind, flags, payload, says", MISTAKES)
def test_a_record_that_recovery_refuses_is_found_and_left_out(
    tmp_path, caplog, way, kind, flags, payload, says
):
    path, clock = tmp_path / "data", FakeClock()
    position = left_by_a_mistake(path, clock, kind, flags, payload)
    with pytest.raises(mq.Unsupported, match=rf"at position {position}: .*`mq repair`"):
        mq.open(path, clock=clock)
    run = CliRunner()
    verified = run.invoke(cli, ["verify", "--json", "-s", str(path)])
    assert verified.exit_code == 4
    damage, whole = map(msgspec.json.decode, verified.stdout.splitlines())
    assert damage["offset"] == position + segment.HEADER_BYTES
    assert damage["size"] == record.HEADER_BYTES + len(payload)
    assert says in damage["reason"]
    assert damage["ids"] == [position] * (kind == records.PUBLISH)
    assert whole["verdict"] == "unreadable"
    if way == "repair":
        before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
        for options in (["--dry-run"], []):
            assert {each: each.read_bytes() for each in before} == before
            repaired = run.invoke(cli, ["repair", "-s", str(path), *options])
            assert repaired.exit_code == 0
            assert says in repaired.stdout
            assert ("quarantine" in repaired.stdout) == (not options)
    else:
        with caplog.at_level(logging.WARNING, "mq"):
            mq.open(path, clock=clock, recover="salvage").close()
        assert any(says in each.message and "quarantine" in each.message for each in caplog.records)
    assert run.invoke(cli, ["verify", "-s", str(path)]).exit_code == 0
    assert run.invoke(cli, ["repair", "-s", str(path)]).stdout == ""
    with mq.open(path, clock=clock) as broker:
        assert [each.body for each in broker.queue("mail").receive_many(9)] == ["one", "two"]
        assert broker.queue("mail").options()["max_attempts"] == 7
