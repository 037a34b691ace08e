"""Whatever is done to a store, in whatever order, it does what two pages of plain Python do.

Hypothesis invents histories over several queues, topics and schedules with small segments: every operation
with every option, time that passes or is set back, a second handle on the same store,
closing and opening again, and opening again as after a kill.  After each step all that
can be seen is compared with the model: P2, P3, P4, P5.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from heapq import merge
from pathlib import Path
from typing import Any

import pytest
from engines import ENGINES, Engine
from fakes import FakeClock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from test_schedules_model import Model as Scheduled

import mq
from mq.engine import backfill, scheduler, sizes

LIVING = ["a", "b"]
TICKED = {"s": "ticks", "u": "b.ticks"}  # schedules, and where each publishes
QUEUES = [*LIVING, "a.dead", "b.dead", *TICKED.values()]
TIMES = [
    (7, "one"),
    (7, "skip"),
    (3600, "one"),
    (86_400, "all"),
]  # of schedules: every …; missed
TOPICS = {"t.x": ["t.x", "t.*", "t.#", "#"], "t.y": ["t.*", "t.#", "#", "t.y.#"]}  # and the patterns that fit
PATTERNS = sorted({*TOPICS["t.x"], *TOPICS["t.y"]})
BACKOFF = mq.Backoff(initial=2, factor=2, maximum=8, jitter=0)
KEPT_FAILURES = 5
ALL = 10_000
STATES = ("ready", "delayed", "in_flight")

queues = st.sampled_from([*LIVING, *LIVING, *QUEUES])
bodies = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20),
    st.lists(st.integers(-5, 2**40), max_size=5),
    st.integers(0, 2000).map(lambda size: b"x" * size),  # some larger than a segment
)
seconds = st.sampled_from([0, 0.001, 1, 2, 5, 29, 30, 31, 100])
picks = st.integers(0, 1000)
publishing = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.sampled_from([0, 1, 255]),
        "delay": st.sampled_from([0, 5, 100]),
        "ttl": st.sampled_from([3, 60]),
        "group": st.sampled_from(["g", "h"]),
        "headers": st.just({"k": "v"}),
    },
)
options = st.one_of(
    st.fixed_dictionaries({"visibility_timeout": st.sampled_from([5.0, 30.0, 60.0])}),
    st.fixed_dictionaries({"max_attempts": st.sampled_from([None, 1, 2])}),
    st.fixed_dictionaries({"ttl": st.sampled_from([None, 20.0])}),
    st.fixed_dictionaries({"expired": st.sampled_from(["drop", "dead_letter"])}),
    st.fixed_dictionaries({"max_length": st.sampled_from([None, 3])}),
    st.fixed_dictionaries({"overflow": st.sampled_from(["reject", "drop_oldest"])}),
    st.fixed_dictionaries({"dedup_window": st.sampled_from([0.0, 50.0])}),
    st.fixed_dictionaries({"delay": st.sampled_from([0.0, 5.0])}),
)


@dataclass
class Entry:
    """One message.  Times in milliseconds."""

    body: object
    priority: int = 0
    group: str | None = None
    due: int = 0  # wall time
    expires: int = 0  # wall time; 0: never
    headers: dict[str, str] = field(default_factory=dict)
    rests: int = 0  # store time
    attempts: int = 0
    token: object = None  # which delivery is the current one; None: nobody has it
    deadline: int = 0  # store time
    origin: str | None = None
    failures: list[tuple[int, str]] = field(default_factory=list)

    def fail(self, reason: str) -> None:
        self.failures.append((self.attempts, reason))
        del self.failures[1 : 1 - KEPT_FAILURES]

    def shown(self, now: tuple[int, int]) -> Entry:
        """As a look shows it: a delivery that has timed out has failed, though no record says so yet."""
        seen = replace(self, failures=[*self.failures])
        if self.token is not None and self.deadline <= now[0]:
            seen.fail("the visibility timeout passed")
        return seen

    @property
    def returns(self) -> int:
        return self.deadline + int(BACKOFF.delay(self.attempts, 0) * 1000)


@dataclass
class Model:
    """One queue: its messages by id, its options and totals."""

    options: dict[str, Any] = field(default_factory=dict)
    paused: bool = False
    messages: dict[int, Entry] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    dedup: dict[str, tuple[int, int]] = field(default_factory=dict)  # id and until when, store time
    subscriptions: dict[str, tuple[dict[str, str], int]] = field(
        default_factory=dict
    )  # headers, from which id
    published: int = 0
    acked: int = 0
    failed: int = 0
    expired: int = 0
    dead_lettered: int = 0
    dropped: int = 0

    def option(self, name: str) -> Any:
        defaults = {
            "visibility_timeout": 30.0,
            "dedup_window": 300.0,
            "expired": "drop",
            "overflow": "reject",
            "delay": 0.0,
        }
        return self.options.get(name, defaults.get(name))

    def state(self, entry: Entry, now: tuple[int, int]) -> str:
        if entry.token is None:
            return "delayed" if entry.due > now[1] or entry.rests > now[0] else "ready"
        if entry.deadline > now[0]:
            return "in_flight"
        return "delayed" if entry.returns > now[0] else "ready"

    def rank(self, id: int) -> tuple[int, int]:
        return -self.messages[id].priority, id

    def candidates(self, now: tuple[int, int], without: set[int] = frozenset()) -> list[int]:
        """What may be delivered, in order: of a group the one that somebody had, or else the first."""
        found = []
        groups: dict[str, list[int]] = {}
        for id in sorted(self.messages.keys() - without):
            entry = self.messages[id]
            if entry.group is not None:
                groups.setdefault(entry.group, []).append(id)
            elif self.state(entry, now) == "ready":
                found.append(id)
        for ids in groups.values():
            first = next((id for id in ids if self.messages[id].token is not None), ids[0])
            if self.state(self.messages[first], now) == "ready":
                found.append(first)
        return sorted(found, key=self.rank)

    def listed(self, now: tuple[int, int]) -> list[int]:
        """All that is ready, in the order in which it will be delivered; what is blocked at the end."""
        order: list[int] = []
        while following := self.candidates(now, set(order)):
            order.append(following[0])
        blocked: dict[str | None, list[int]] = {}  # priority chooses between groups, never inside one
        for id in sorted(self.messages.keys() - set(order)):
            if self.state(self.messages[id], now) == "ready":
                blocked.setdefault(self.messages[id].group, []).append(id)
        return order + list(merge(*blocked.values(), key=self.rank))

    def batch(self, now: tuple[int, int], limit: int, per_group: int | None) -> list[int]:
        """What `receive_many` takes: consecutive ones of a group, in the order of their ids."""
        order: list[int] = []
        ended: set[str | None] = set()
        while len(order) < limit:
            following = [id for id in self.candidates(now, set(order)) if self.group(id) not in ended]
            if not following:
                break
            id = following[0]
            before = [
                each for each in order if self.group(id) is not None and self.group(each) == self.group(id)
            ]
            if before and (
                len(before) == per_group or id < before[-1] or self.messages[id].token is not None
            ):
                ended.add(self.group(id))
            else:
                order.append(id)
        return order

    def group(self, id: int) -> str | None:
        return self.messages[id].group

    def release_behind(self, id: int, group: str | None, spared: Container[object] = ()) -> None:
        """*id* went back: so do those that were held together with it, behind it."""
        for other, entry in self.messages.items():
            if group is None or entry.group != group or other <= id:
                continue
            if entry.token is not None and entry.token not in spared:
                entry.token, entry.due, entry.rests = None, 0, 0
                entry.attempts -= 1

    def deliver(self, id: int, token: object, deadline: int) -> Entry:
        entry = self.messages[id]
        if entry.token is not None:
            self.failed += 1
            entry.fail("the visibility timeout passed")
            self.release_behind(id, entry.group)
        entry.attempts += 1
        entry.token, entry.deadline, entry.due, entry.rests = token, deadline, 0, 0
        return entry


@dataclass
class Topic:
    """What one topic retains."""

    count: int | None = None  # None: nothing
    messages: dict[int, tuple[Entry, dict[str, Any]]] = field(default_factory=dict)  # as they were published

    def publish(self, id: int, entry: Entry, said: dict[str, Any]) -> None:
        if self.count is not None:
            self.messages[id] = replace(entry), said
            self.messages = self.retained()  # what is over never comes back, with a wider limit either

    def retained(self) -> dict[int, tuple[Entry, dict[str, Any]]]:
        return dict(sorted(self.messages.items())[-self.count :]) if self.count is not None else {}


@dataclass
class Held:
    """A delivery that somebody got, current or not."""

    queue: str
    id: int
    receipt: mq.Receipt
    delivery: mq.Delivery | None  # None: it was got before a restart


class Store(RuleBasedStateMachine):
    kind: type[Engine]

    @initialize(segment_bytes=st.sampled_from([1024, 1500, 4096]))
    def start(self, segment_bytes: int) -> None:
        self.clock = FakeClock()
        self.store_ms = 0  # the latest time that was seen
        self.ahead_ms = 0  # the wall clock
        self.segment_bytes = segment_bytes
        self.directory = Path(tempfile.mkdtemp(prefix="mq-model-"))
        self.engine = self.kind(self.directory)
        self.models = {name: Model() for name in QUEUES}
        self.topics = {name: Topic() for name in TOPICS}
        self.copies: list[tuple[str, Entry]] = []  # of messages that are in the queue already
        self.last_id = 0  # that a topic gave out
        self.schedules: dict[str, tuple[Scheduled, object, dict[str, Any]]] = {}  # with body and options
        self.held: list[Held] = []
        self.other: mq.Broker | None = None
        self._open()
        for name in QUEUES:
            self.broker.queue(name, backoff=BACKOFF)
        # So that there is one from the beginning, of each that few rules make.
        self.update_meta("a", "k", "x", None)
        self.schedule("s", (3600, "one"), b"tick", {})
        self.retain("t.x", 4)
        self.subscribe("a", "t.*", {}, None, backfill.MANY)

    def _open(self) -> None:
        self.broker = self.engine.open(
            sync="never", segment_bytes=self.segment_bytes, clock=self.clock, background=False
        )
        clock = self.broker._store.clock
        wall_ms = clock.wall_ms
        clock.wall_ms = lambda: wall_ms() + self.ahead_ms

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
            shutil.rmtree(self.directory)

    # ── helpers ────────────────────────────────────────────────────────────────────

    def now(self) -> tuple[int, int]:
        """Store time and wall time: only the second ever goes back."""
        ms = int(self.clock.now * 1000)
        self.store_ms = max(self.store_ms, ms)
        return self.store_ms, ms + self.ahead_ms

    def queue(self, name: str) -> mq.Queue:
        return self.broker.queue(name)

    def got(self, name: str, delivery: mq.Delivery, id: int, timeout: int) -> None:
        """The store delivered; the model says what it must have been."""
        entry = self.models[name].deliver(id, delivery.receipt, self.now()[0] + timeout)
        assert delivery.id == id
        self.same(delivery, entry)
        self.held.append(Held(name, id, delivery.receipt, delivery))

    def same(self, message: mq.Message, entry: Entry) -> None:
        assert message.body == entry.body
        assert type(message.body) is type(entry.body)
        assert (message.attempts, message.priority, message.group, dict(message.headers), message.origin) == (
            entry.attempts, entry.priority, entry.group, entry.headers, entry.origin,
        )  # fmt: skip
        assert [(each.attempt, each.reason) for each in message.failures] == entry.failures

    def pick(self, number: int) -> tuple[Held, Entry | None]:
        """A delivery that somebody once got, and its message if it is the current delivery."""
        held = self.held[-1 - number % min(len(self.held), 12)]
        entry = self.models[held.queue].messages.get(held.id)
        return held, entry if entry and entry.token == held.receipt else None

    def bury(self, name: str, id: int, reason: str) -> None:
        model = self.models[name]
        entry = model.messages.pop(id)
        entry.fail(reason)
        model.dead_lettered += 1
        self.arrive(f"{name}.dead", id, entry)
        entry.origin = name

    def arrive(self, name: str, id: int, entry: Entry) -> None:
        ttl = self.models[name].option("ttl")
        entry.expires = self.now()[1] + int(ttl * 1000) if ttl else 0
        entry.attempts, entry.token, entry.due, entry.rests = 0, None, 0, 0
        self.models[name].published += 1
        if id in self.models[name].messages:
            self.copies.append((name, entry))
        else:
            self.models[name].messages[id] = entry

    def find_copies(self) -> None:
        """A message cannot be in a queue twice: a copy is there, with an id that only the store knows."""
        while self.copies:
            name, entry = self.copies.pop()
            model, queue = self.models[name], self.queue(name)
            there = [each for state in STATES for each in queue.peek(ALL, state=state)]
            new = [each for each in there if each.id not in model.messages and each.body == entry.body]
            model.messages[max(each.id for each in new)] = entry

    def fall_due(self) -> None:
        """What nobody asks for: in the store, and in the model."""
        self.do_ticks()
        store, now = self.broker._store, self.now()

        def fall_due() -> None:
            for name in store.replica.state.names():
                store.replica.state.named(name).advance(store.clock.now())
            while store.replica.state.board.next <= now[0]:
                store.committer.do_due()

        store.turn.take(fall_due)
        for name in QUEUES:
            model = self.models[name]
            for id, entry in sorted(model.messages.items()):
                if entry.token is not None and entry.deadline <= now[0]:
                    model.release_behind(id, entry.group)
            for id, entry in sorted(model.messages.items()):
                if entry.token is not None and entry.deadline > now[0]:
                    continue
                attempts_max = model.option("max_attempts")
                if entry.token is not None and attempts_max and entry.attempts >= attempts_max:
                    model.failed += 1
                    self.bury(name, id, "the visibility timeout passed")
                elif 0 < entry.expires <= now[1]:
                    model.expired += 1
                    if model.option("expired") == "dead_letter" and name in LIVING:
                        self.bury(name, id, "its time to live was over")
                    else:
                        del model.messages[id]

    def do_ticks(self) -> None:
        """What is due by schedules comes first, with ids that only the store knows."""
        scheduler.tick(self.broker._store)
        for name, (scheduled, body, said) in self.schedules.items():
            queue = TICKED[name]
            there = [each.id for state in STATES for each in self.queue(queue).peek(ALL, state=state)]
            new = sorted({*there} - self.models[queue].messages.keys())
            assert len(new) == scheduled.ticks(self.now()[1])
            for id in new:
                self.take_in(queue, id, body, said)

    def room(self, name: str, count: int, acked: Container[int] = ()) -> list[int] | None:
        """The ids that have to go for *count* more; None if there is no room.  *acked* go anyway."""
        model = self.models[name]
        limit = model.option("max_length")
        over = len(model.messages) + count - limit if limit else 0
        if over <= 0:
            return []
        waiting = sorted(id for id in model.messages if id not in acked and self.waits(name, id))
        if model.option("overflow") == "reject" or over > len(waiting) or count > limit:
            return None
        return waiting[:over]

    def waits(self, name: str, id: int) -> bool:
        """Whether the message is there, and not in flight."""
        entry = self.models[name].messages.get(id)
        return entry is not None and self.models[name].state(entry, self.now()) != "in_flight"

    def take_in(self, name: str, id: int, body: object, said: dict[str, Any]) -> None:
        model, now = self.models[name], self.now()
        assert id > max(model.messages, default=-1) or id in model.messages, "ids grow"
        ttl = said.get("ttl", model.option("ttl"))
        delay = int(said.get("delay", model.option("delay")) * 1000)
        model.messages[id] = Entry(
            body, said.get("priority", 0), said.get("group"), now[1] + delay if delay else 0,
            now[1] + int(ttl * 1000) if ttl else 0, said.get("headers", {}),
        )  # fmt: skip
        model.published += 1

    # ── topics ─────────────────────────────────────────────────────────────────────

    @rule(name=st.sampled_from([*TOPICS]), count=st.sampled_from([None, 1, 4, 100]))
    def retain(self, name: str, count: int | None) -> None:
        self.broker.topic(name, retain_count=count)
        topic = self.topics[name]
        topic.count = count
        topic.messages = topic.retained()

    @rule(name=st.sampled_from([*TOPICS]), body=bodies, said=publishing)
    def publish_to_topic(self, name: str, body: object, said: dict[str, Any]) -> None:
        getting = [
            queue
            for queue in LIVING
            if any(
                pattern in TOPICS[name] and match.items() <= said.get("headers", {}).items()
                for pattern, (match, _) in self.models[queue].subscriptions.items()
            )
        ]
        gone = {queue: self.room(queue, 1) for queue in getting}
        topic = self.broker.topic(name)
        if None in gone.values():
            with pytest.raises(mq.QueueFull):
                topic.publish(body, **said)
            return
        for queue, ids in gone.items():
            for id in ids or ():
                del self.models[queue].messages[id]
                self.models[queue].dropped += 1
        id = self.last_id = topic.publish(body, **said)
        for queue in getting:
            self.take_in(queue, id, body, said)
        now = self.now()[1]
        due = now + int(said["delay"] * 1000) if said.get("delay") else 0
        expires = now + int(said["ttl"] * 1000) if "ttl" in said else 0
        self.topics[name].publish(id, Entry(
            body, said.get("priority", 0), said.get("group"), due, expires, said.get("headers", {}),
        ), said)  # fmt: skip

    @rule(
        name=st.sampled_from(LIVING), pattern=st.sampled_from(PATTERNS),
        match=st.sampled_from([{}, {}, {"k": "v"}]), since=st.one_of(st.none(), st.none(), picks),
        many=st.sampled_from([1, backfill.MANY]),
    )  # fmt: skip
    def subscribe(
        self, name: str, pattern: str, match: dict[str, str], since: int | None, many: int
    ) -> None:  # fmt: skip
        model, now = self.models[name], self.now()
        after = None
        retained = {
            id: (topic, entry)
            for topic, fitting in TOPICS.items()
            if pattern in fitting
            for id, (entry, _) in self.topics[topic].retained().items()
        }
        if since is not None:
            ids = [0, *sorted(retained)]
            after = ids[since % len(ids)]
        coming = {
            id: entry
            for id, (topic, entry) in sorted(retained.items())
            if after is not None and id > after and pattern not in model.subscriptions
            and match.items() <= entry.headers.items() and not 0 < entry.expires <= now[1]
            and id not in model.messages and not any(
                earlier in TOPICS[topic] and id > bound_at and needs.items() <= entry.headers.items()
                for earlier, (needs, bound_at) in model.subscriptions.items()
            )
        }  # fmt: skip
        limit = model.option("max_length")
        over = len(model.messages) + len(coming) - limit if limit and coming else 0
        if over > 0 and model.option("overflow") == "reject":
            with pytest.raises(mq.QueueFull):
                self.queue(name).subscribe(pattern, match=match, since=after)
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backfill, "MANY", many)  # so many are put aside first
            patch.setattr(backfill, "ASIDE_IDS", 2)
            self.queue(name).subscribe(pattern, match=match, since=after)
        ttl = model.option("ttl")
        for id in list(coming)[max(0, over) :]:
            model.messages[id] = replace(coming[id])
            if coming[id].due <= now[1]:
                model.messages[id].due = 0
            if ttl and not coming[id].expires:
                model.messages[id].expires = now[1] + int(ttl * 1000)
            model.published += 1
        begins = self.last_id if after is None else max(1, after)
        before, bound_at = model.subscriptions.get(pattern, (match, begins))
        if not before.items() <= match.items():
            bound_at = self.last_id
        model.subscriptions[pattern] = match, bound_at

    @rule(name=st.sampled_from(LIVING), pattern=st.sampled_from(PATTERNS))
    def unsubscribe(self, name: str, pattern: str) -> None:
        known = self.models[name].subscriptions.pop(pattern, None)
        assert self.queue(name).unsubscribe(pattern) is (known is not None)

    @rule(name=st.sampled_from([*TOPICS]), since=picks, limit=st.one_of(st.none(), st.integers(0, 5)))
    def read_history(self, name: str, since: int, limit: int | None) -> None:
        ids = sorted(self.topics[name].retained())
        after = [0, *ids][since % (len(ids) + 1)]
        found = [message.id for message in self.broker.topic(name).history(since=after, limit=limit)]
        assert found == [id for id in ids if id > after][:limit]
        found = [message.id for message in self.broker.topic(name).history(limit=limit)]
        assert found == ids[len(ids) - limit if limit is not None and limit < len(ids) else 0 :]

    @precondition(lambda self: {*LIVING} <= {*self.broker.queues()})
    @rule()
    def swap_names(self) -> None:
        """Each queue gets the other's name: all goes along, dead letters and handles too."""
        for was, now in (("a", "third"), ("b", "a"), ("third", "b")):
            self.queue(was).rename(now)
        names = dict(zip(QUEUES, ("b", "a", "b.dead", "a.dead", *TICKED.values()), strict=True))
        self.models = {names[name]: model for name, model in self.models.items()}
        for model in self.models.values():
            for entry in model.messages.values():
                entry.origin = entry.origin and names[entry.origin]
        self.held = [replace(each, queue=names[each.queue]) for each in self.held]

    # ── schedules, and texts ───────────────────────────────────────────────────────

    @rule(name=st.sampled_from([*TICKED]), times=st.sampled_from(TIMES), body=bodies, said=publishing)
    def schedule(self, name: str, times: tuple[int, Any], body: object, said: dict[str, Any]) -> None:
        every, missed = times
        self.broker.schedule(name, TICKED[name], body, every=every, missed=missed, **said)
        known = self.schedules.get(name)
        begun = Scheduled(every * 1000, missed, self.now()[1] + every * 1000, 0)
        if known and known[0].every == begun.every:
            begun.next = known[0].next
        self.schedules[name] = begun, body, said

    @rule(name=st.sampled_from([*TICKED]))
    def unschedule(self, name: str) -> None:
        assert self.broker.unschedule(name) is (self.schedules.pop(name, None) is not None)

    @rule(
        name=st.sampled_from(LIVING), key=st.sampled_from(["k", "l"]),
        text=st.sampled_from([None, "", "x", "y" * 700]), expect=st.sampled_from([None, "", "x"]),
    )  # fmt: skip
    def update_meta(self, name: str, key: str, text: str | None, expect: str | None) -> None:
        meta = self.models[name].meta
        is_so = meta.get(key) == expect
        assert self.queue(name).update_meta({key: text}, expect={key: expect}) is is_so
        if is_so and text is None:
            meta.pop(key, None)
        elif is_so:
            meta[key] = text

    # ── publishing and receiving ───────────────────────────────────────────────────

    @rule(name=queues, several=st.lists(bodies, min_size=1, max_size=4), said=publishing, one=st.booleans())
    def publish(self, name: str, several: list[object], said: dict[str, Any], one: bool) -> None:
        several = several[:1] if one else several
        gone = self.room(name, len(several))
        queue = self.queue(name)
        if gone is None:
            with pytest.raises(mq.QueueFull):
                queue.publish(several[0], **said) if one else queue.publish_many(several, **said)
            return
        for id in gone:
            del self.models[name].messages[id]
        self.models[name].dropped += len(gone)
        ids = [queue.publish(several[0], **said)] if one else queue.publish_many(several, **said)
        for id, body in zip(ids, several, strict=True):
            self.take_in(name, id, body, said)

    @rule(name=st.sampled_from(LIVING), body=bodies, key=st.sampled_from(["k", "l"]))
    def publish_once(self, name: str, body: object, key: str) -> None:
        model = self.models[name]
        id, until = model.dedup.get(key, (0, 0))
        if until > self.now()[0]:
            assert self.queue(name).publish(body, dedup_id=key) == id
            return
        gone = self.room(name, 1)
        if gone is None:
            with pytest.raises(mq.QueueFull):
                self.queue(name).publish(body, dedup_id=key)
            return
        for each in gone:
            del model.messages[each]
        model.dropped += len(gone)
        id = self.queue(name).publish(body, dedup_id=key)
        self.take_in(name, id, body, {})
        model.dedup[key] = id, self.now()[0] + int(model.option("dedup_window") * 1000)

    @rule(name=queues, timeout=st.one_of(st.none(), st.just(0), seconds))
    def receive(self, name: str, timeout: float | None) -> None:
        model = self.models[name]
        expected = [] if model.paused else model.candidates(self.now())
        delivery = self.queue(name).receive(timeout=0, visibility_timeout=timeout)
        assert (delivery is None) == (not expected)
        if delivery:
            seconds = model.option("visibility_timeout") if timeout is None else timeout
            self.got(name, delivery, expected[0], int(seconds * 1000))

    @rule(
        name=queues, limit=st.integers(1, 6), per_group=st.sampled_from([1, 2, 3, None, None]),
        timeout=st.one_of(st.none(), seconds),
    )  # fmt: skip
    def receive_many(self, name: str, limit: int, per_group: int | None, timeout: float | None) -> None:
        model = self.models[name]
        expected = [] if model.paused else model.batch(self.now(), limit, per_group)
        deliveries = self.queue(name).receive_many(
            limit, timeout=0, visibility_timeout=timeout, per_group=per_group
        )
        assert [delivery.id for delivery in deliveries] == expected
        held = model.option("visibility_timeout") if timeout is None else timeout
        for delivery, id in zip(deliveries, expected, strict=True):
            self.got(name, delivery, id, int(held * 1000))

    @rule()
    def receive_from_several(self) -> None:
        expected = [
            (name, ids[0])
            for name in reversed(QUEUES)
            if not self.models[name].paused and (ids := self.models[name].candidates(self.now()))
        ]
        delivery = self.broker.receive([self.queue(name) for name in reversed(QUEUES)], timeout=0)
        assert (delivery is None) == (not expected)
        if delivery:
            name, id = expected[0]
            assert delivery.queue == name
            self.got(name, delivery, id, int(self.models[name].option("visibility_timeout") * 1000))

    # ── settling ───────────────────────────────────────────────────────────────────

    def settled(
        self, held: Held, entry: Entry, how: str, delay: float | None = 0, reason: str = "because",
        together: Container[object] = (),
    ) -> None:  # fmt: skip
        """What the model makes of it; *together*: receipts of what is settled by the same call."""
        model, now = self.models[held.queue], self.now()
        limit = model.option("max_attempts")
        if how in ("ack", "with"):
            del model.messages[held.id]
            model.acked += 1
        elif how == "extend":
            entry.deadline = now[0] + int(delay * 1000)
        elif how == "reject" or (how == "nack" and limit and entry.attempts >= limit):
            model.failed += 1
            self.bury(held.queue, held.id, reason)
            if how == "nack":
                model.release_behind(held.id, entry.group, together)
        else:
            entry.token = None
            model.release_behind(held.id, entry.group, together)
            if how == "nack":
                model.failed += 1
                entry.fail(reason)
                if delay is None:
                    entry.rests = now[0] + int(BACKOFF.delay(entry.attempts, 0) * 1000)
                entry.due = now[1] + int(delay * 1000) if delay else 0
            else:
                entry.attempts -= 1
                entry.due = 0

    @precondition(lambda self: any(each.delivery for each in self.held[-12:]))
    @rule(
        number=picks,
        how=st.sampled_from(["ack", "nack", "back off", "release", "extend", "with", "fail", "reject"]),
        delay=seconds,
    )
    def settle(self, number: int, how: str, delay: float) -> None:
        held, entry = self.pick(number)
        delivery = held.delivery
        if delivery is None or (how == "reject" and held.queue not in LIVING):
            return
        settle = {
            "ack": delivery.ack,
            "nack": lambda: delivery.nack(delay=delay, reason="because"),
            "back off": lambda: delivery.nack(reason="because"),
            "release": delivery.release,
            "extend": lambda: delivery.extend(delay),
            "with": lambda: delivery.__exit__(None, None, None),
            "fail": lambda: delivery.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None),
            "reject": lambda: delivery.reject("because"),
        }[how]
        if entry is None:
            if how == "fail" or (how == "with" and delivery._settled):
                settle()
                return
            with pytest.raises(mq.StaleReceipt) as raised:
                settle()
            assert raised.value.ids == (held.id,)
            return
        settle()
        if how == "back off":
            self.settled(held, entry, "nack", None)
        else:
            self.settled(held, entry, how, delay)

    @precondition(lambda self: self.held)
    @rule(
        name=queues, numbers=st.lists(picks, max_size=6), as_text=st.booleans(),
        how=st.sampled_from(["ack", "nack", "release", "reject", "extend"]),
    )  # fmt: skip
    def settle_many(self, name: str, numbers: list[int], as_text: bool, how: str) -> None:
        claims, stale, done = [], [], set()
        picked = [self.pick(number) for number in numbers]
        together = {held.receipt for held, _ in picked}
        for held, entry in picked:
            if how == "reject" and held.queue not in LIVING:
                continue
            ours = held.delivery is not None and held.delivery._queue._store is self.broker._store
            claims.append(held.delivery if ours and not as_text else held.receipt)
            if entry is None or (held.receipt in done and how != "extend"):
                stale.append(held.id)
            else:
                done.add(held.receipt)
                self.settled(held, entry, how, 7, together=together)
        queue = self.queue(name)
        call = {
            "ack": lambda: queue.ack_many(claims),
            "nack": lambda: queue.nack_many(claims, delay=7, reason="because"),
            "release": lambda: queue.release_many(claims),
            "reject": lambda: queue.reject_many(claims, "because"),
            "extend": lambda: queue.extend_many(claims, 7),
        }[how]
        if stale:
            with pytest.raises(mq.StaleReceipt) as raised:
                call()
            assert raised.value.ids == tuple(stale)
        else:
            call()

    @precondition(lambda self: self.held)
    @rule(numbers=st.lists(picks, max_size=6), extends=st.booleans())
    def settle_by_message(self, numbers: list[int], extends: bool) -> None:
        """Whichever delivery is in force, if any."""
        for number in numbers:
            held, _ = self.pick(number)
            entry = self.models[held.queue].messages.get(held.id)
            if entry and (entry.token is not None or not extends):
                self.settled(held, entry, "extend" if extends else "ack", 7)
        receipts = [self.pick(number)[0].receipt for number in numbers]
        queue = self.queue("a")
        queue.extend_many(receipts, 7, fenced=False) if extends else queue.ack_many(receipts, fenced=False)

    @rule(name=st.sampled_from(LIVING), body=bodies, said=publishing, numbers=st.lists(picks, max_size=2))
    def transaction(self, name: str, body: object, said: dict[str, Any], numbers: list[int]) -> None:
        """P4: all of it, or none."""
        taken = {held.receipt: (held, entry) for held, entry in map(self.pick, numbers)} if self.held else {}
        stale = [held.id for held, entry in taken.values() if entry is None]
        acked = {held.id for held, entry in taken.values() if entry and held.queue == name}
        gone = self.room(name, 1 - len(acked), acked) if len(acked) < 2 else []
        queue = self.queue(name)
        try:
            with self.broker.transaction() as tx:
                tx.publish(queue, body, **said)
                for held, _ in taken.values():
                    tx.ack(held.receipt)
        except mq.StaleReceipt as error:
            assert error.ids == tuple(stale)
            return
        except mq.QueueFull:
            assert gone is None
            return
        assert not stale
        assert gone is not None
        for held, entry in taken.values():
            self.settled(held, entry, "ack")
        for each in gone:
            del self.models[name].messages[each]
        self.models[name].dropped += len(gone)
        self.take_in(name, tx.ids[0], body, said)

    # ── what waits ─────────────────────────────────────────────────────────────────

    def some_id(self, name: str, number: int) -> int:
        ids = sorted(self.models[name].messages)
        return ids[number % len(ids)] if ids else 5

    @rule(name=queues, number=picks)
    def cancel(self, name: str, number: int) -> None:
        id = self.some_id(name, number)
        waits = self.waits(name, id)
        assert self.queue(name).cancel(id) is waits
        if waits:
            del self.models[name].messages[id]

    @rule(name=queues, number=picks, delay=seconds)
    def reschedule(self, name: str, number: int, delay: float) -> None:
        id = self.some_id(name, number)
        waits = self.waits(name, id)
        assert self.queue(name).reschedule(id, delay=delay) is waits
        if waits:
            entry = self.models[name].messages[id]
            if entry.token is not None:
                self.models[name].failed += 1
                entry.fail("the visibility timeout passed")
                entry.token = None
            entry.rests = 0
            entry.due = self.now()[1] + int(delay * 1000) if delay else 0

    @rule(name=st.sampled_from(["a.dead", "b.dead"]), number=st.one_of(st.none(), picks), away=st.booleans())
    def replay(self, name: str, number: int | None, away: bool) -> None:
        model = self.models[name]
        ids = None if number is None else [self.some_id(name, number)]
        to = "b" if away else None
        going = {
            id: to or entry.origin
            for id, entry in model.messages.items()
            if self.waits(name, id) and (ids is None or id in ids) and (to or entry.origin)
        }
        homeless = [id for id in ids or () if self.waits(name, id) and not model.messages[id].origin]
        if homeless and not to:
            with pytest.raises(mq.UsageError):
                self.queue(name).replay(ids)
            return
        for target in LIVING:
            limit = self.models[target].option("max_length")
            count = list(going.values()).count(target)
            if limit and count and len(self.models[target].messages) + count > limit:
                with pytest.raises(mq.QueueFull):
                    self.queue(name).replay(ids, to=to)
                return
        assert self.queue(name).replay(ids, to=to) == len(going)
        for id, target in going.items():
            entry = model.messages.pop(id)
            self.arrive(target, id, entry)
            entry.origin, entry.failures = None, []

    @rule(name=queues, in_flight=st.booleans())
    def purge(self, name: str, in_flight: bool) -> None:
        now, model = self.now(), self.models[name]
        gone = [
            id
            for id, entry in model.messages.items()
            if in_flight or not (entry.token and entry.deadline > now[0])
        ]
        assert self.queue(name).purge(in_flight=in_flight) == len(gone)
        for id in gone:
            del model.messages[id]

    @rule(name=st.sampled_from(LIVING))
    def delete(self, name: str) -> None:
        self.queue(name).delete()
        self.models[name] = Model()
        self.queue(name).publish("again")
        self.broker.queue(name, backoff=BACKOFF)
        [message] = self.queue(name).peek()
        self.take_in(name, message.id, "again", {})

    @rule(name=queues)
    def pause_or_resume(self, name: str) -> None:
        model = self.models[name]
        model.paused = not model.paused
        self.queue(name).pause() if model.paused else self.queue(name).resume()

    @rule(name=st.sampled_from(LIVING), changes=options)
    def declare(self, name: str, changes: dict[str, Any]) -> None:
        self.broker.queue(name, **changes)
        self.models[name].options |= changes

    # ── time, and what else happens to a process ───────────────────────────────────

    @rule(by=seconds)
    def time_passes(self, by: float) -> None:
        self.clock.advance(by)

    @rule(by=st.sampled_from([1, 40, 10_000]))
    def the_clock_is_set_back(self, by: float) -> None:
        self.now()  # the store has seen the time until here
        for broker in [self.broker, *([self.other] if self.other else [])]:
            broker._store.clock.store_ms()
        self.clock.advance(-by)

    @rule(by=st.sampled_from([-10_000_000, -40_000, -1000, 1000, 6000, 10_000_000]))
    def the_wall_clock_jumps(self, by: int) -> None:
        """And store time does not."""
        self.ahead_ms += by

    @rule()
    def the_clock_jumps_behind_what_a_segment_can_count(self) -> None:
        self.clock.advance(50 * 86_400)

    @rule(checkpoint_bytes=st.sampled_from([0, 4 << 20]))
    def space_is_given_back(self, checkpoint_bytes: int) -> None:
        self.broker._store.maintenance.run(checkpoint_bytes)

    @rule()
    def flush(self) -> None:
        self.broker.flush()

    @precondition(lambda self: "sharing" not in self.engine.lacks)
    @rule()
    def another_handle(self) -> None:
        """As another process has it: nothing is shared but the log."""
        first = self.broker
        if self.other is None:
            self._open()
            self.other = first
        else:
            self.broker, self.other = self.other, self.broker
        self.broker._store.clock._latest_ms = self.store_ms

    def _forget(self) -> None:
        """The next process has only the receipts; its time begins with the last in the log."""
        self.held = [Held(each.queue, each.id, each.receipt, None) for each in self.held]
        self.store_ms = self.broker._store.clock.store_ms()

    @rule()
    def close_and_open(self) -> None:
        self.broker.close()
        if self.other:
            self.other.close()
            self.other = None
        self._open()
        self._forget()

    @rule()
    def kill_and_open(self) -> None:
        self.engine.abandon(self.broker)
        if self.other:
            self.engine.abandon(self.other)
            self.other = None
        self._open()
        self._forget()

    # ── what must hold after every step ────────────────────────────────────────────

    @invariant()
    def it_is_the_model(self) -> None:
        if not hasattr(self, "broker"):
            return
        self.fall_due()
        self.find_copies()
        now = self.now()
        assert self.broker.queues() == sorted(QUEUES)
        for name, model in self.models.items():
            self.compare(name, model, now)
        found = {each.name: round(each.next_at.timestamp() * 1000) for each in self.broker.schedules()}
        assert found == {name: scheduled.next for name, (scheduled, *_) in self.schedules.items()}
        live, retained = self.broker._store.replica.state, 0
        for name, topic in self.topics.items():
            found = list(self.broker.topic(name).history())
            assert [message.id for message in found] == [*topic.retained()]
            for message, (entry, _) in zip(found, topic.retained().values(), strict=True):
                assert message.topic == name
                self.same(message, entry)
            retained += len(held.waiting) if (held := live.topic(name)) else 0
        assert live.topics() == {name for name, topic in self.topics.items() if topic.count}
        assert live.total() == sum(len(model.messages) for model in self.models.values()) + retained

    def compare(self, name: str, model: Model, now: tuple[int, int]) -> None:
        queue = self.queue(name)
        assert queue.meta() == model.meta
        shown: dict[str, list[mq.Message]] = {}
        for state in STATES:
            shown[state] = queue.peek(ALL, state=state)
            for message, id in zip(shown[state], self.expected(model, state, now), strict=True):
                assert message.id == id
                assert message.state == state
                self.same(message, model.messages[id].shown(now))
        stats = queue.stats()
        assert stats[:3] == (len(shown["ready"]), len(shown["in_flight"]), len(shown["delayed"]))
        assert stats.bytes == sum(message._size for each in shown.values() for message in each)
        store = self.broker._store
        held = store.replica.state.named(name)
        assert not held.total() or held.number in store.replica.state.board.stocked
        for message in (message for each in shown.values() for message in each):
            assert sizes.size_of(store.replica.log, held.position(message.id)) == message._size
        assert stats[5:] == (
            model.paused, model.published, model.acked, model.failed, model.expired, model.dead_lettered,
            model.dropped,
        )  # fmt: skip
        ready = [model.messages[id] for id in model.candidates(now)]
        assert bool(stats.oldest_age) <= bool(ready or shown["ready"])

    def expected(self, model: Model, state: str, now: tuple[int, int]) -> Iterator[int]:
        if state == "ready":
            return iter(model.listed(now))
        ids = [id for id, entry in model.messages.items() if model.state(entry, now) == state]

        def when(id: int) -> tuple[int, int]:
            entry = model.messages[id]
            if entry.token is None:
                return (entry.rests - now[0] + now[1] if entry.rests > now[0] else entry.due), id
            return (entry.deadline if state == "in_flight" else entry.returns - now[0] + now[1]), id

        return iter(sorted(ids, key=when))


SETTINGS = settings(
    max_examples=10,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.conformance
@pytest.mark.parametrize("kind", ENGINES.values(), ids=ENGINES)
def test_it_does_what_the_model_does(kind: type[Engine]) -> None:
    machine = type("Store", (Store,), {"kind": kind})
    run_state_machine_as_test(machine, settings=SETTINGS)
