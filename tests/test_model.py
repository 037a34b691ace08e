"""Whatever is done to a store, in whatever order, it does what a page of plain Python does.

Hypothesis invents histories over several queues with small segments: every operation,
time that passes or is set back, closing and opening again, and opening again as after a
kill.  After each step all that can be seen is compared with the model: P2, P3, P5.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes import FakeClock, open_on
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import mq
from mq.storage.disk import MemoryDisk, RealDisk

QUEUES = ["a", "b", "c"]
VISIBILITY_TIMEOUT = 30_000
ALL = 10_000

queues = st.sampled_from(QUEUES)
bodies = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20),
    st.lists(st.integers(-5, 2**40), max_size=5),
    st.integers(0, 2000).map(lambda size: b"x" * size),  # some larger than a segment
)
seconds = st.sampled_from([0, 0.001, 1, 5, 29, 30, 31, 100])
picks = st.integers(0, 1000)


@dataclass
class Entry:
    """One message.  Times in milliseconds."""

    body: object
    attempts: int = 0
    token: object = None  # which delivery is the current one; None: nobody has it
    deadline: int = 0  # store time
    due: int = 0  # wall time

    def state(self, store_ms: int, wall_ms: int) -> str:
        if self.token is not None:
            return "in_flight" if self.deadline > store_ms else "ready"
        return "delayed" if self.due > wall_ms else "ready"


@dataclass
class Model:
    """One queue: its messages by id, and its totals."""

    timeout: int = VISIBILITY_TIMEOUT
    messages: dict[int, Entry] = field(default_factory=dict)
    published: int = 0
    acked: int = 0
    failed: int = 0

    def publish(self, id: int, body: object) -> None:
        assert id > max(self.messages, default=-1), "ids grow"
        self.messages[id] = Entry(body)
        self.published += 1

    def ready(self, now: tuple[int, int]) -> list[int]:
        return sorted(id for id, entry in self.messages.items() if entry.state(*now) == "ready")

    def deliver(self, id: int, token: object, deadline: int) -> Entry:
        entry = self.messages[id]
        if entry.token is not None:
            self.failed += 1
        entry.attempts += 1
        entry.token, entry.deadline = token, deadline
        return entry


@dataclass
class Held:
    """A delivery that somebody got, current or not."""

    queue: str
    id: int
    receipt: mq.Receipt
    delivery: mq.Delivery | None  # None: it was got before a restart


class Store(RuleBasedStateMachine):
    @initialize(segment_bytes=st.sampled_from([1024, 1500, 4096]), memory=st.booleans())
    def start(self, segment_bytes: int, memory: bool) -> None:
        self.clock = FakeClock()
        self.store_ms = 0  # the latest time that was seen
        self.segment_bytes = segment_bytes
        self.directory = None if memory else Path(tempfile.mkdtemp(prefix="mq-model-"))
        self.generation = 0
        self.models = {name: Model() for name in QUEUES}
        self.declared: set[str] = set()
        self.held: list[Held] = []
        self.unsettled: set[tuple[str, int]] = set()
        self.abandoned: list[mq.Broker] = []
        self._open(":memory:" if memory else self.directory / "0")

    def _open(self, path: object) -> None:
        self.broker = open_on(
            MemoryDisk() if path == ":memory:" else RealDisk(),
            path,
            sync="never",
            segment_bytes=self.segment_bytes,
            clock=self.clock,
            background=False,
        )

    def teardown(self) -> None:
        if hasattr(self, "broker"):
            for broker in [self.broker, *self.abandoned]:
                broker.close()
            if self.directory:
                shutil.rmtree(self.directory)

    # ── helpers ────────────────────────────────────────────────────────────────────

    def now(self) -> tuple[int, int]:
        """Store time and wall time: only the second ever goes back."""
        wall = int(self.clock.now * 1000)
        self.store_ms = max(self.store_ms, wall)
        return self.store_ms, wall

    def queue(self, name: str) -> mq.Queue:
        return self.broker.queue(name)

    def got(self, name: str, delivery: mq.Delivery, id: int, timeout: int) -> None:
        """The store delivered; the model says what it must have been."""
        entry = self.models[name].deliver(id, delivery.receipt, self.now()[0] + timeout)
        assert delivery.id == id
        assert delivery.body == entry.body
        assert type(delivery.body) is type(entry.body)
        assert delivery.attempts == entry.attempts
        self.held.append(Held(name, id, delivery.receipt, delivery))

    def pick(self, number: int) -> tuple[Held, Entry | None]:
        """A delivery that somebody once got, and its message if it is the current delivery."""
        held = self.held[-1 - number % min(len(self.held), 12)]
        entry = self.models[held.queue].messages.get(held.id)
        return held, entry if entry and entry.token == held.receipt else None

    # ── publishing and receiving ───────────────────────────────────────────────────

    @rule(name=queues, body=bodies)
    def publish(self, name: str, body: object) -> None:
        self.models[name].publish(self.queue(name).publish(body), body)
        self.declared.add(name)

    @rule(name=queues, several=st.lists(bodies, max_size=6))
    def publish_many(self, name: str, several: list[object]) -> None:
        ids = self.queue(name).publish_many(several)
        for id, body in zip(ids, several, strict=True):
            self.models[name].publish(id, body)
        if several:
            self.declared.add(name)

    @rule(name=queues, timeout=st.one_of(st.none(), seconds))
    def receive(self, name: str, timeout: float | None) -> None:
        expected = self.models[name].ready(self.now())
        delivery = self.queue(name).receive(timeout=0, visibility_timeout=timeout)
        assert (delivery is None) == (not expected)
        if delivery:
            ms = self.models[name].timeout if timeout is None else int(timeout * 1000)
            self.got(name, delivery, expected[0], ms)

    @rule(name=queues, limit=st.integers(1, 6))
    def receive_many(self, name: str, limit: int) -> None:
        expected = self.models[name].ready(self.now())[:limit]
        deliveries = self.queue(name).receive_many(limit, timeout=0)
        assert [delivery.id for delivery in deliveries] == expected
        for delivery, id in zip(deliveries, expected, strict=True):
            self.got(name, delivery, id, self.models[name].timeout)

    # ── settling ───────────────────────────────────────────────────────────────────

    @precondition(lambda self: any(each.delivery for each in self.held[-12:]))
    @rule(
        number=picks, how=st.sampled_from(["ack", "nack", "release", "extend", "with", "fail"]), delay=seconds
    )
    def settle(self, number: int, how: str, delay: float) -> None:
        held, entry = self.pick(number)
        delivery = held.delivery
        if delivery is None:
            return
        settle = {
            "ack": delivery.ack,
            "nack": lambda: delivery.nack(delay=delay, reason="because"),
            "release": delivery.release,
            "extend": lambda: delivery.extend(delay),
            "with": lambda: delivery.__exit__(None, None, None),
            "fail": lambda: delivery.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None),
        }[how]
        now, model = self.now(), self.models[held.queue]
        if entry is None:
            if how == "fail" or (how == "with" and delivery._settled):
                settle()
                return
            with pytest.raises(mq.StaleReceipt) as raised:
                settle()
            assert raised.value.ids == (held.id,)
            return
        settle()
        if how in ("ack", "with"):
            del model.messages[held.id]
            model.acked += 1
        elif how == "extend":
            entry.deadline = now[0] + int(delay * 1000)
        else:
            entry.token = None
            if how == "nack":
                model.failed += 1
                entry.due = now[1] + int(delay * 1000) if delay else 0
            else:
                entry.attempts -= 1
                entry.due = 0

    @precondition(lambda self: self.held)
    @rule(name=queues, numbers=st.lists(picks, max_size=6), as_text=st.booleans())
    def ack_many(self, name: str, numbers: list[int], as_text: bool) -> None:
        claims, stale = [], []
        for number in numbers:
            held, entry = self.pick(number)
            claims.append(held.receipt if as_text or held.delivery is None else held.delivery)
            if entry is None:
                stale.append(held.id)
            else:
                del self.models[held.queue].messages[held.id]
                self.models[held.queue].acked += 1
        if stale:
            with pytest.raises(mq.StaleReceipt) as raised:
                self.queue(name).ack_many(claims)
            assert raised.value.ids == tuple(stale)
        else:
            self.queue(name).ack_many(claims)

    @rule(name=queues)
    def purge(self, name: str) -> None:
        now, model = self.now(), self.models[name]
        gone = [id for id, entry in model.messages.items() if entry.state(*now) != "in_flight"]
        assert self.queue(name).purge() == len(gone)
        for id in gone:
            del model.messages[id]

    @rule(name=queues, timeout=st.sampled_from([5, 30, 60]))
    def declare(self, name: str, timeout: float) -> None:
        self.broker.queue(name, visibility_timeout=timeout)
        self.models[name].timeout = timeout * 1000
        self.declared.add(name)

    # ── time, and what else happens to a process ───────────────────────────────────

    @rule(by=seconds)
    def time_passes(self, by: float) -> None:
        self.clock.advance(by)

    @rule(by=st.sampled_from([1, 40, 10_000]))
    def the_clock_is_set_back(self, by: float) -> None:
        self.now()  # the store has seen the time until here
        self.broker._store.clock.store_ms()
        self.clock.advance(-by)

    @rule()
    def the_clock_jumps_behind_what_a_segment_can_count(self) -> None:
        self.clock.advance(50 * 86_400)

    @rule(checkpoint_bytes=st.sampled_from([0, 4 << 20]))
    def space_is_given_back(self, checkpoint_bytes: int) -> None:
        self.broker._store.maintenance.run(checkpoint_bytes)

    @rule()
    def flush(self) -> None:
        self.broker.flush()

    def _forget(self) -> None:
        """The next process has only the receipts; its time begins with the last in the log."""
        self.held = [Held(each.queue, each.id, each.receipt, None) for each in self.held]
        self.store_ms = self.broker._store.clock.store_ms()

    @precondition(lambda self: self.directory)
    @rule()
    def close_and_open(self) -> None:
        path = self.broker.path
        self.broker.close()
        self._open(path)
        self._forget()

    @precondition(lambda self: self.directory and self.generation < 4)
    @rule()
    def kill_and_open(self) -> None:
        self.generation += 1
        path = self.directory / str(self.generation)
        shutil.copytree(self.broker.path, path)
        self.abandoned.append(self.broker)
        self._open(path)
        self._forget()

    @precondition(lambda self: self.directory)
    @rule()
    def read_beside(self) -> None:
        with mq.open(self.broker.path, read_only=True, clock=self.clock) as reader:
            for name in QUEUES:
                assert [message.id for message in reader.queue(name).peek(ALL, state="delayed")] == [
                    message.id for message in self.queue(name).peek(ALL, state="delayed")
                ]
                assert reader.queue(name).stats()[5:] == self.queue(name).stats()[5:]

    # ── what must hold after every step ────────────────────────────────────────────

    @invariant()
    def it_is_the_model(self) -> None:
        if not hasattr(self, "broker"):
            return
        now = self.now()
        assert self.broker.queues() == sorted(self.declared)
        for name, model in self.models.items():
            queue = self.queue(name)
            shown: dict[str, list[mq.Message]] = {}
            for state in ("ready", "delayed", "in_flight"):
                shown[state] = queue.peek(ALL, state=state)
                ids = [id for id, entry in model.messages.items() if entry.state(*now) == state]
                if state == "delayed":
                    ids.sort(key=lambda id: (model.messages[id].due, id))
                elif state == "in_flight":
                    ids.sort(key=lambda id: (model.messages[id].deadline, id))
                assert [message.id for message in shown[state]] == ids
                for message in shown[state]:
                    entry = model.messages[message.id]
                    assert (message.body, message.attempts, message.state) == (
                        entry.body,
                        entry.attempts,
                        state,
                    )
            stats = queue.stats()
            assert stats[:3] == (len(shown["ready"]), len(shown["in_flight"]), len(shown["delayed"]))
            assert stats.bytes == sum(len(message.raw) for each in shown.values() for message in each)
            assert (stats.published, stats.acked, stats.failed) == (
                model.published,
                model.acked,
                model.failed,
            )
            assert queue.options() == {"visibility_timeout": model.timeout / 1000}


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=15,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
