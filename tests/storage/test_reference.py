"""What a reader that was written from FORMAT.md alone reads out of a store is what mq says is there.

After a life that writes every kind of record and every bit of flags; and after each step of the
histories that test_model.py invents.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import reference
import test_model
from engines import FileEngine
from fakes import FakeClock, open_on
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

import mq
from mq.engine.carrying import copy
from mq.engine.passage import move_here
from mq.storage.real_disk import RealDisk

ALL = 10_000
STATES = ("ready", "delayed", "in_flight")


def same(broker: mq.Broker) -> None:
    """Each message in its queue and place, with all that is to know of it; what is next; the totals."""
    now = broker._store.clock.now()
    log = reference.read_log(Path(broker.path))
    held = reference.State(log)
    read, skew = held.by_name(), log[-1].wall - log[-1].created
    calendar = broker._store.replica.state.calendar
    assert held.schedules.keys() == {each.schedule.name for each in calendar}
    for entry in calendar:
        known = dict(held.schedules[entry.schedule.name])
        known.pop("body")
        assert known == msgspec.structs.asdict(entry.schedule)
    assert sorted(read) == broker.queues()
    for name, queue in read.items():
        handle, state = broker.queue(name), broker._store.replica.state.named(name)
        shown = {where: handle.peek(ALL, state=where) for where in STATES}
        places = {id: queue.place(each, now.store, now.wall, skew) for id, each in queue.messages.items()}
        there = {id: queue.messages[id] for id, place in places.items() if place[0] != "expired"}
        assert {id: facts(each.shown(now.store), *places[id], skew) for id, each in there.items()} == {
            each.id: facts_of(each) for found in shown.values() for each in found
        }
        assert queue.next(now.store, now.wall) == state.heads(now, ALL)

        receipts = {id: each.receipt for id, each in queue.messages.items() if each.receipt is not None}
        assert receipts == {id: flight.receipt for id, flight in state.flights.items()}
        assert {key: seen for key, seen in queue.dedup.items() if seen[1] > now.store} == {
            key: (seen.id, seen.until) for key, seen in state.dedup.items() if seen.until > now.store
        }
        assert queue.patterns == {
            each.pattern: (each.match, each.bound_at) for each in state.subscriptions.values()
        }
        assert queue.idle_until == state.idle.until
        stats, options = handle.stats(), handle.options()
        assert stats.bytes == sum(each.size for each in queue.messages.values())
        totals = [queue.totals[total] for total in reference.TOTALS]
        assert [queue.declared["paused"], *totals] == list(stats[5:])
        declared = {key: queue.declared[key] for key in options} | {
            "backoff": mq.Backoff(*queue.declared["backoff"])
        }
        assert {**declared, "dead_letter": declared["dead_letter"] or f"{name}.dead"} == options


def facts(message: reference.Message, where: str, until: int | None, skew: int) -> tuple[Any, ...]:
    return (
        where, until, message.created, message.body, type(message.body), message.attempts, message.priority,
        message.group, message.headers, message.origin, message.topic,
        [(at + skew, attempt, reason) for at, attempt, reason in message.failures],
        message.received and message.received[1], message.expires,
    )  # fmt: skip


def ms_of(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def facts_of(message: mq.Message) -> tuple[Any, ...]:
    return (
        message.state, message._due_ms, message._created_ms, message.body, type(message.body),
        message.attempts, message.priority, message.group, dict(message.headers), message.origin,
        message.topic,
        [(round(each.at.timestamp() * 1000), each.attempt, each.reason) for each in message.failures],
        ms_of(message.first_received_at), ms_of(message.expires_at) or 0,
    )  # fmt: skip


def a_life(path: Path, clock: FakeClock) -> mq.Broker:
    """Everything that queues do, with room given back in between."""
    broker = open_on(
        RealDisk(), path, sync="never", segment_bytes=4096, clock=clock, background=False, exclusive=True
    )
    backoff = mq.Backoff(initial=3, factor=3, maximum=20, jitter=0.5)
    work = broker.queue("work", visibility_timeout=30, max_attempts=3, backoff=backoff, dedup_window=500)
    for body in (b"\x00\xff", "größe", {"a": [1, 2.5, None]}, ""):
        work.publish(body)
    work.publish("first", priority=9, headers={"trace": "ä"})
    work.publish("later", delay=1000, group="delayed")
    work.publish("passing", ttl=50)
    work.publish_many(["g1", "g2", "g3"], group="g")
    once = work.publish("once", dedup_id="order-1")
    assert work.publish("twice", dedup_id="order-1") == once
    same(broker)

    # Attempts that fail, in each way there is; some are tried again, some never.
    work.receive(timeout=0).nack(reason="no " + "ä" * 600)
    work.receive(timeout=0).nack(delay=500)
    work.receive(timeout=0).release()
    work.receive(timeout=0).extend(5000)
    work.receive(timeout=0).reject("hopeless")
    for _ in range(4):
        work.receive_many(2, timeout=0)
        same(broker)
        clock.advance(31)
        same(broker)  # they have timed out, and back off
        clock.advance(40)
        same(broker)
    timed_out = work.receive_many(1, timeout=0, visibility_timeout=1)
    clock.advance(1.5)
    assert not timed_out or work.reschedule(timed_out[0].id, delay=7)
    same(broker)

    # Batches of more than one record; damage of one would bring 128 back.
    many = broker.queue("many", delete_when_idle=3600, delete_when_abandoned=7200)
    many.publish_many(list(range(300)))
    many.ack_many(many.receive_many(290, timeout=0)[:200])
    clock.advance(2000)
    many.receive(timeout=0)
    same(broker)

    # Limits, expiry, cancelling, delays; a transaction over two queues.
    short = broker.queue(
        "short", max_length=3, overflow="drop_oldest", ttl=20, expired="dead_letter", dead_letter="old"
    )
    short.publish_many(["a", "b"])
    short.publish_many(["c", "d"])
    assert short.cancel(short.publish("cancelled", priority=3))
    assert short.reschedule(short.publish("rescheduled"), delay=60)
    with broker.transaction() as tx:
        tx.publish(short, {"in": "tx"}, priority=1, group="t")
        tx.publish(work, "with it", headers={})
        tx.nack(many.receive(timeout=0), delay=5)
        tx.ack(many.receive(timeout=0))
    same(broker)
    clock.advance(21)
    same(broker)  # they have expired, and nobody came by
    settled = broker.queue("settled", delivery="at_most_once")
    settled.publish_many(["here", "and there"])
    assert settled.receive(timeout=0)
    same(broker)

    # Dead letters go back; one of a group that is in flight elsewhere, too.
    dead = broker.queue("work.dead")
    assert dead.replay(to="short") or dead.peek()
    broker.queue("short", max_length=None)
    old = broker.queue("old")
    assert old.replay([old.peek()[-1].id], to="many") == 1  # where nothing expires
    assert old.replay()
    same(broker)

    # As they are to another queue, and in from another store.
    broker.queue("elsewhere", ttl=9)
    move_here(broker._store, "work", "elsewhere", 3, lambda count: None)
    same(broker)
    move_here(broker._store, "elsewhere", "work", None, lambda count: None)
    with mq.open(":memory:", clock=clock) as other:
        foreign = other.queue("foreign", max_attempts=2)
        foreign.publish("known", dedup_id="f-1", priority=2, headers={"a": "b"})
        foreign.publish("forgotten", dedup_id="f-2", delay=50)
        foreign.receive(timeout=0).nack(delay=0, reason="there")
        copy(other._store, broker._store, "foreign", "foreign", lambda count: None)
        foreign.receive(timeout=0).nack(reason="again")
        copy(other._store, broker._store, "foreign.dead", "foreign.dead", lambda count: None)
    assert broker.queue("foreign").publish("known", dedup_id="f-1")
    same(broker)

    # Who had it last goes first in its group, though an older one has come back meanwhile.
    group = broker.queue("group")
    group.publish_many(["older", "newer"], group="g")
    group.receive(timeout=0).reject()
    group.receive(timeout=0, visibility_timeout=1)
    assert broker.queue("group.dead").replay()
    clock.advance(5)
    same(broker)
    for attempt in range(7):  # of which some are forgotten
        group.receive(timeout=0).nack(delay=0 if attempt < 6 else 90_000, reason=f"attempt {attempt}")

    # Queues that are cleared, go, and whose numbers are used again.
    kept = broker.queue("cleared")
    kept.publish_many(["goes as well", "stays", "goes", "goes too"])
    kept.receive(timeout=0, visibility_timeout=1)
    kept.receive(timeout=0, visibility_timeout=90_000)
    clock.advance(2)
    kept.purge()
    gone = broker.queue("gone")
    gone.publish("with the queue", dedup_id="with the queue")
    gone.delete()
    anew = broker.queue("anew", dedup_window=10_000)
    anew.ack_many([anew.publish("under its number", dedup_id="remembered") and anew.receive(timeout=0)])
    kept.pause()
    resting = broker.queue("resting", backoff=mq.Backoff(initial=500, maximum=900))
    resting.publish_many(["rests", "rests in its group"], group="r")
    resting.receive(timeout=0).nack(reason="not now")
    # What is published to a topic: in several queues, by options and times of their own; two dead letters of
    # one message; and a queue that subscribes no more.
    slow = broker.queue("slow", delay=900, ttl=80_000)
    eu = broker.queue("eu", max_attempts=1, dead_letter="topics.dead")
    us = broker.queue("us", max_attempts=1, dead_letter="topics.dead", expired="dead_letter")
    for queue in (slow, eu, us):
        queue.subscribe("orders.#")
        queue.subscribe("orders.eu", match={"a": "b"})
    slow.unsubscribe("orders.eu")
    orders = broker.topic("orders.eu")
    for body in (b"bytes", "text", {"a": [1]}, "more", "last"):
        orders.publish(body, headers={"a": "b"})
    orders.publish("urgent", priority=7, group="t")
    orders.publish("later", delay=50_000)
    assert orders.publish("once", dedup_id="o") == orders.publish("twice", dedup_id="o")
    broker.topic("nobody").publish("is there")
    eu.receive(timeout=0).nack(reason="dies")
    us.receive(timeout=0).nack(reason="dies too")
    us.receive(timeout=0, visibility_timeout=90_000)
    eu.receive(timeout=0).ack()
    same(broker)
    orders.publish("short", ttl=1)
    clock.advance(2)
    same(broker)
    broker.queue("many").publish("expired and exhausted are what is done here")
    same(broker)

    # Settled behind a declaration: that counts, though the messages go with the head.
    last = many.receive_many(5, timeout=0)
    broker.queue("many", visibility_timeout=60)
    many.ack_many(last)
    same(broker)

    # Schedules: one that ticks, is changed, and ticks late; one that goes; one to a topic.
    broker.schedule(
        "beat", "ticks", b"\x00raw", every=0.25, missed="all", headers={"a": "b"}, ttl=80_000, delay=3
    )
    broker.schedule("report", orders, {"a": [1]}, cron="0 9 * * *", tz="Europe/Berlin", priority=3, group="s")
    broker.schedule("gone", "ticks", "text", every=900, missed="skip")
    clock.advance(0.6)
    for _ in range(5):
        broker.queue("ticks").publish("does what is due")
    broker.schedule("beat", "ticks", "another body", every=0.25, missed="all")
    broker.unschedule("gone")
    same(broker)

    # Other names, which schedules, options and dead letters follow; and an old name that is used again.
    for name in ("ticks", "old", "group"):
        broker.queue(name).rename(f"{name} of yore")
    again = broker.queue("group", max_attempts=1)
    again.publish("dies where the other one did")
    again.receive(timeout=0).nack()
    same(broker)
    return broker


def entries(path: Path) -> list[reference.Entry]:
    return [entry for segment in reference.read_log(path) for entry in segment.entries]


def test_what_the_reference_reads_is_what_mq_holds(tmp_path: Path, clock: FakeClock) -> None:
    """Live, while room is given back a segment at a time, closed, and opened again."""
    path = tmp_path / "s"
    broker = a_life(path, clock)
    kinds: set[str] = set()
    bits: set[tuple[str, int]] = set()
    places: set[tuple[int, bool]] = set()
    for _ in range(12):
        for entry in entries(path):
            kinds.add(entry.kind)
            bits |= {(entry.kind, bit) for bit in (0x10, 0x20, 0x40, 0x80) if entry.flags & bit}
            if entry.kind == "RELOCATE":
                places.add((entry.fields[3], bool(entry.flags & reference.CHANGED)))
        broker._store.maintenance.cleaning.clean()
        same(broker)
    assert kinds == set(reference.KINDS.values()) - {"LOST", "CLOCK", "BACKFILL"}
    assert bits == {
        (k, bit)
        for k, known in reference.FLAGS.items()
        for bit in (0x10, 0x20, 0x40, 0x80)
        if known & bit and k != "BACKFILL"
    }
    # What is in flight or backs off was delivered, and when it was first is a change.
    both = {(place, changed) for place in range(2) for changed in (False, True)}
    assert places == both | {(2, True), (3, True)}
    broker.close()
    assert entries(path)[-1].kind == "CLOSED"
    with mq.open(path, clock=clock, sync="never", segment_bytes=4096) as broker:
        same(broker)


@pytest.mark.parametrize("kind", ["DELIVER", "ACK", "PUBLISH", "DECLARE", "FANOUT"])
def test_what_a_repair_leaves_is_read_the_same(kind: str, tmp_path: Path, clock: FakeClock) -> None:
    """The longest record of a kind is damaged, and LOST is put over it."""
    path = tmp_path / "s"
    a_life(path, clock).close()
    *_, lsn = max((len(entry.rest), entry.lsn) for entry in entries(path) if entry.kind == kind)
    segment = next(each for each in reversed(reference.read_log(path)) if each.base <= lsn)
    with (path / "log" / f"{segment.base:020}.seg").open("r+b") as log:
        log.seek(72 + lsn - segment.base + 24)
        log.write(b"\xee")
    with mq.open(path, clock=clock, sync="never", segment_bytes=4096, recover="salvage") as broker:
        same(broker)
    assert "LOST" in {entry.kind for entry in entries(path)}


def test_a_group_that_was_cut_off_is_not_read(tmp_path: Path, clock: FakeClock) -> None:
    """And behind the recovery of that there is more than zeros, which a fence voids."""
    killed, path = tmp_path / "killed", tmp_path / "s"
    broker = a_life(killed, clock)
    broker.queue("work").publish_many(["one", "two", "three"])
    shutil.copytree(killed, path, ignore=shutil.ignore_patterns("wake"))
    broker.close()
    last = reference.read_log(path)[-1]
    with (path / "log" / f"{last.base:020}.seg").open("r+b") as log:
        log.seek(72 + last.entries[-1].lsn - last.base)
        log.write(bytes(24 + 5))
    bodies = [
        each.body for each in reference.State(reference.read_log(path)).by_name()["work"].messages.values()
    ]
    assert not {"one", "two", "three"} & {body for body in bodies if isinstance(body, str)}
    with mq.open(path, clock=clock, sync="never", segment_bytes=4096) as broker:
        same(broker)
        broker.queue("work").publish("behind the fence")
        same(broker)


class Histories(test_model.Store):
    """What test_model.py invents, on a disk, and read by the reference after each step."""

    kind = FileEngine

    @initialize(segment_bytes=st.sampled_from([1024, 4096]))
    def start(self, segment_bytes: int) -> None:
        super().start(segment_bytes)

    @invariant()
    def the_reference_reads_the_same(self) -> None:
        if hasattr(self, "broker"):
            same(self.broker)


TestHistories = Histories.TestCase
TestHistories.settings = settings(parent=test_model.SETTINGS, max_examples=8)
