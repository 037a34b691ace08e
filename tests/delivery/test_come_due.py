"""What comes due, one message at a time or very many at once, against looking at each message anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mq.delivery import batches, timers
from mq.delivery.agenda import BLOCK, Agenda, Agendas, InForce
from mq.delivery.attributes import Attributes
from mq.delivery.blocks import STEP_BITS
from mq.delivery.deadlines import FEW, Deadlines
from mq.delivery.moment import Moment
from mq.delivery.now import Now
from mq.delivery.queue import QueueState
from mq.delivery.records import TIMED_OUT
from mq.delivery.retry import Backoff
from mq.delivery.traits import PLAIN, Delayed, Flight

BACKOFFS = (
    Backoff(initial=0),
    Backoff(initial=0.02, jitter=0),
    Backoff(initial=0.02, maximum=0.2, jitter=0.9),
)
SAID = (
    {}, {}, {}, {"due": 15}, {"due": 40}, {"priority": 3}, {"expires": 30}, {"group": "a"}, {"group": "b"},
    {"group": "a", "expires": 25}, {"due": 20, "expires": 45}, {"due": 20, "group": "b", "priority": 3},
)  # fmt: skip
KINDS = (
    "publish", "publish", "publish", "receive", "receive", "receive many", "receive many", "extend", "nack",
    "release", "ack", "drop", "pass", "pass", "set back", "declare", "head", "heads", "counts", "listed",
    "next", "due", "oldest", "empty",
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 40), st.integers(0, 40)), max_size=60)


class Naive:
    """Looks at all messages for each question."""

    def __init__(self, queue: QueueState, now: Now) -> None:
        self.queue, self.now = queue, now
        self.ids = [*queue.delayed, *queue.flights]
        for lane in (queue.waiting, *queue.lanes.values()):
            self.ids += lane

    def entry(self, id: int) -> Flight | Delayed:
        level = next((level for level, lane in self.queue.lanes.items() if id in lane), 0)
        return (
            self.queue.delayed.get(id)
            or self.queue.flights.get(id)
            or Delayed(0, 0, id, replace(PLAIN, priority=level))
        )

    def state(self, id: int) -> str:
        found, now = self.entry(id), self.now
        if isinstance(found, Flight):
            if found.deadline > now.store or found.attempts >= self.queue.moment.attempts_max:
                return "in_flight"
            state = "delayed" if self.queue.moment.returns_at(found) > now.store else "ready"
        else:
            state = "delayed" if found.due > now.wall or found.backoff_until > now.store else "ready"
        return "expired" if 0 < found.traits.expires <= now.wall else state

    def counts(self) -> tuple[int, ...]:
        states = [self.state(id) for id in self.ids]
        return tuple(map(states.count, ("ready", "in_flight", "delayed")))

    def is_next_of_group(self, id: int) -> bool:
        group = self.entry(id).traits.group
        if group is None:
            return True
        members = [each for each in self.ids if self.entry(each).traits.group == group]
        flying = [each for each in members if each in self.queue.flights]
        alive = [each for each in members if self.state(each) != "expired"]
        return id == (flying[0] if flying else min(alive, default=None))

    def heads(self) -> list[int]:
        found = [id for id in self.ids if self.state(id) == "ready" and self.is_next_of_group(id)]
        return sorted(found, key=lambda id: id - (self.entry(id).traits.priority << STEP_BITS))

    def exhausted(self) -> set[int]:
        return {
            id
            for id, flight in self.queue.flights.items()
            if flight.deadline <= self.now.store and flight.attempts >= self.queue.moment.attempts_max
        }

    def change(self) -> float | None:
        """Seconds until a delivery times out or something is ready by itself."""
        ends = [flight.deadline - self.now.store for flight in self.queue.flights.values()]
        ends += [self.queue.moment.returns_at(each) - self.now.store for each in self.queue.flights.values()
                 if each.attempts < self.queue.moment.attempts_max]  # fmt: skip
        for entry in self.queue.delayed.values():
            ends.append(
                entry.backoff_until - self.now.store if entry.backoff_until else entry.due - self.now.wall
            )
        return min((end for end in ends if end > 0), default=None)


@pytest.fixture(autouse=True)
def tiny_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few messages are many."""
    for module in (batches, timers):
        monkeypatch.setattr(module, "BATCH_IDS", 2)


@given(STEPS)
def test_the_answers_are_those_of_looking_at_each_message(steps):
    """P5, also beside batches that are not open: what is next is the oldest that is ready."""
    queue, now, lsn = QueueState(1, "q"), Now(1, 1), 100
    queue.moment.backoff = BACKOFFS[0]

    def deliver(ids: list[int], seconds: int) -> None:
        plain = [id for id in ids if id not in queue.flights]
        if plain:
            queue.deliver_run(plain, lsn, now.store + seconds, 0)
        for id in set(ids) - set(plain):
            queue.deliver(id, lsn + 30 + ids.index(id), now.store + seconds, TIMED_OUT)

    for what, number, other in steps:
        lsn += 100
        flying = sorted(queue.flights)
        one = flying[number % len(flying)] if flying else 0
        if what == "publish":
            said = SAID[number % len(SAID)]
            said = {
                key: now.wall + value if key in ("due", "expires") else value for key, value in said.items()
            }
            if said:
                queue.publish_with(lsn, 1, Attributes(**said))
            else:
                queue.publish_run([lsn + each for each in range(1 + other % 9)], 9)
        elif what == "receive":
            head = queue.head(now)
            assert head == next(iter(Naive(queue, now).heads()), None)
            if head is not None:
                deliver([head], other % 20)
        elif what == "receive many":
            deliver(queue.heads(now, 1 + number % 12), other % 20)
        elif what == "extend" and one:
            queue.extend(one, now.store + other)
        elif what == "nack" and one:
            backoff = other % 2 > 0
            queue.nack(one, (now.store if backoff else now.wall) + other if other else 0, 0, "", backoff)
        elif what == "release" and one:
            queue.release(one)
        elif what == "ack" and one:
            queue.ack(one, 1)
        elif what == "drop" and (here := Naive(queue, now).ids):
            queue.drop(sorted(here)[number % len(here)], 1)
        elif what == "pass":
            now = Now(now.store + number, now.wall + number)
        elif what == "set back":
            now = Now(now.store, max(1, now.wall - number))
        elif what == "declare":
            changed = {"max_attempts": (None, 1, 2)[number % 3], "backoff": BACKOFFS[other % 3]}
            queue.declare(replace(queue.options, **changed), lsn)
        elif what == "head":
            assert queue.head(now) == next(iter(Naive(queue, now).heads()), None)
        elif what == "heads":
            expected = Naive(queue, now).heads()[: number + 1]
            while queue.ready.is_unsure(found := queue.heads(now, number + 1), number + 1):
                assert found == expected[: len(found)]
            assert found == expected
        elif what == "counts":
            queue.is_behind(now)
            assert queue.counts(now) == Naive(queue, now).counts()
        elif what == "listed":
            naive = Naive(queue, now)
            for state in ("ready", "in_flight", "delayed"):
                found = None
                while found is None:
                    found = queue.ids(state, now, 1000)
                assert sorted(found) == sorted(id for id in naive.ids if naive.state(id) == state)
        elif what == "oldest":
            naive = Naive(queue, now)
            # Those of a group wait for its first, but for one that is early.
            assert queue.oldest_ready(now) == min(naive.heads(), default=None)
        elif what == "empty":
            naive = Naive(queue, now)
            is_empty = all(naive.state(id) == "expired" for id in naive.ids)
            assert queue.is_empty(now) in (is_empty, False)
            queue.counts(now)
            while queue.timers.is_behind():
                queue.timers.open_any()
            assert queue.is_empty(now) == is_empty
        elif what == "next":
            queue.head(now)
            seconds, expected = queue.seconds_to_next(now), Naive(queue, now).change()
            if expected is not None:
                assert seconds is not None
                assert seconds <= expected / 1000
        elif what == "due":
            found = set()
            for _ in range(200):
                found.update(queue.due_to_go(now, 3)[1])
                if not queue.is_behind(now):
                    break
            assert found <= Naive(queue, now).exhausted()
            assert bool(set(queue.due_to_go(now, 1000)[1])) == bool(Naive(queue, now).exhausted())


def still_there(stale: set[tuple[int, int]]) -> InForce:
    return lambda times, ids: [pair for pair in zip(times, ids, strict=True) if pair not in stale]


COUNT = 10_000


def in_flight(backoff: Backoff, **options: object) -> QueueState:
    queue = QueueState(1, "q")
    queue.declare(replace(queue.options, backoff=backoff, **options), 1)
    queue.publish_run(list(range(1000, 1000 + COUNT)), COUNT)
    queue.deliver_run(list(range(1000, 1000 + COUNT)), 10**6, 100, 0)
    return queue


@pytest.mark.parametrize("backoff", BACKOFFS, ids=str)
@pytest.mark.parametrize("ms", [100, 110, 120, 200])
def test_a_receive_looks_at_few_of_very_many_that_timed_out_at_one_moment(backoff, ms, monkeypatch):
    """Each question opens one batch, and a receive those in which it looks for a message."""
    monkeypatch.setattr(batches, "BATCH_IDS", 64)
    queue, asked, returns_at = in_flight(backoff), [], Moment.returns_at
    naive = Naive(queue, Now(ms, ms))
    first = next(iter(naive.heads()), None)
    counts = naive.counts()

    def counted(self: Moment, flight: Flight) -> int:
        asked.append(flight)
        return returns_at(self, flight)

    with monkeypatch.context() as patch:
        patch.setattr(Moment, "returns_at", counted)
        assert queue.head(Now(ms, ms)) == first
    assert len(asked) <= 16 * 64
    assert queue.counts(Now(ms, ms)) == counts


def test_last_attempts_of_very_many_are_found_some_at_a_time():
    queue = in_flight(BACKOFFS[0], max_attempts=1)
    now, found = Now(100, 100), set()
    assert queue.head(now) is None
    for _ in range(COUNT):
        _, exhausted = queue.due_to_go(now, 100)
        assert len(exhausted) <= 100
        for id in exhausted:
            queue.take(id)
        found.update(exhausted)
        if not queue.flights:
            break
        assert queue.board.due(now) == 1
        queue.reset_alarms(now)
    assert len(found) == COUNT


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "run", "all", "pop", "take", "sweep"]), st.integers(0, 30)),
        max_size=60,
    )
)
def test_an_agenda_is_a_sorted_list(steps):
    agenda, there, id = Agenda[int](), list[tuple[int, int]](), 100
    for what, number in steps:
        id += 10
        if what == "pop" and there:
            agenda.pop()
            there.remove(min(there))
        elif what == "take":
            taken = [pair for times, ids in agenda.take(number) for pair in zip(times, ids, strict=True)]
            assert sorted(taken) == sorted(pair for pair in there if pair[0] <= number)
            there = [pair for pair in there if pair[0] > number]
        elif what == "sweep":
            stale = set(there[number::3])
            while agenda.sweep(still_there(stale)):
                pass
            there = [pair for pair in there if pair not in stale]
        else:
            pairs = [(number, id), (number, id + 1)]
            if what == "all":
                pairs = sorted((number + each % 7, id + each) for each in range(600))
                agenda.add_all(pairs)
            elif what == "run":
                agenda.add_run(number, [id, id + 1])
            else:
                for pair in pairs:
                    agenda.add(*pair)
            there += pairs
        assert len(agenda) == len(there)
        assert agenda.first() == min(there, default=None)
    assert list(agenda.ascending()) == sorted(there)


def test_what_comes_out_of_order_is_put_in_order():
    agenda, times = Agenda[int](), [(7919 * each) % 5000 for each in range(5000)]
    for id, when in enumerate(times):
        agenda.add(when, id)
    assert len(agenda._heap) < 1024
    assert [when for when, _ in agenda.ascending()] == sorted(times)
    parts = agenda.take(2500)
    assert sorted(when for taken, _ in parts for when in taken) == sorted(
        each for each in times if each <= 2500
    )


def test_agendas_are_looked_at_together():
    agendas = Agendas()
    assert agendas.first() is None
    agendas["a"].add(7, 1)
    agendas["b"].add(5, 2)
    assert (agendas.first(), agendas.size(), list(agendas.ascending())) == (5, 2, [(5, 2), (7, 1)])
    assert [(kind, list(ids)) for kind, _, ids in agendas.take(6)] == [("b", [2])]
    agendas.forget_empty("a")
    assert list(agendas) == ["a"]


# ── very many ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries, or deliveries, each sweep of deadlines looks at."""
    found: list[int] = []
    in_force, list_anew = Deadlines._in_force, Deadlines.list_anew

    def sweep(self, times, ids):
        found[-1] += len(times)
        return in_force(self, times, ids)

    def anew(self, after=-1):
        found[-1] += len(self._flights)
        list_anew(self, after)

    monkeypatch.setattr(Deadlines, "_in_force", sweep)
    monkeypatch.setattr(Deadlines, "list_anew", anew)
    return found


def test_very_many_are_extended_and_no_extension_looks_at_all_of_them(looked_at):
    """P11, and no neighbour waits."""
    looked_at.append(0)
    queue, ids, most = in_flight(BACKOFFS[0]), range(1000, 1000 + COUNT), 0
    for turn in range(6):
        for at in range(0, COUNT, 100):
            looked_at.append(0)
            queue.extend_run(ids[at : at + 100], [1000 + turn] * 100)
            most = max(most, queue.timers.deadlines.size())
    assert max(looked_at[1:]) < 2 * BLOCK
    assert most < 4 * COUNT
    assert queue.counts(Now(1004, 1004)) == (0, COUNT, 0)
    assert sorted(queue.ids("in_flight", Now(1004, 1004), COUNT)) == list(ids)
    assert queue.counts(Now(1005, 1005)) == (COUNT, 0, 0)


def test_what_is_received_and_acked_beside_very_many_in_flight_costs_no_memory(looked_at):
    """P11."""
    looked_at.append(0)
    queue = in_flight(BACKOFFS[0])
    for id in range(10**5, 10**5 + 4 * COUNT):
        looked_at.append(0)
        queue.publish(id, 1)
        queue.deliver(id, 10**7 + id, 50 + id, 0)
        queue.ack(id, 1)
    assert max(looked_at[1:]) < 2 * BLOCK
    assert queue.timers.deadlines.size() < 3 * COUNT


def test_few_deliveries_are_listed_anew_behind_very_many_that_were_settled(looked_at):
    looked_at.append(0)
    queue, ids = in_flight(BACKOFFS[0]), list(range(1000, 1000 + COUNT))
    queue.ack_run(ids[FEW // 2 :], [1] * len(ids[FEW // 2 :]))
    queue.publish_run(list(range(10**5, 10**5 + 100)), 100)
    queue.deliver_run(list(range(10**5, 10**5 + 100)), 10**7, 200, 0)
    assert queue.timers.deadlines.size() == FEW // 2 + 100


@pytest.mark.parametrize(
    ("options", "ms", "counts"),
    [
        pytest.param({}, 100, (COUNT, 0, 0), id="ready at once"),
        pytest.param({"backoff": BACKOFFS[1]}, 119, (0, 0, COUNT), id="in their backoff"),
        pytest.param({"backoff": BACKOFFS[2]}, 138, (COUNT, 0, 0), id="whatever their backoffs were"),
        pytest.param({"max_attempts": 1}, 100, (0, COUNT, 0), id="their last attempts"),
    ],
)
def test_all_that_timed_out_is_counted_and_hardly_looked_at(options, ms, counts, monkeypatch):
    """Also beside some that were settled, and others that are in flight still."""
    monkeypatch.setattr(batches, "BATCH_IDS", 64)
    queue = in_flight(**{"backoff": BACKOFFS[0], **options})
    gone, more = range(1000, 1000 + COUNT, 3), range(10**5, 10**5 + 100)
    queue.ack_run(list(gone), [1] * len(gone))
    queue.publish_run(list(more), 100)
    queue.deliver_run(list(more), 10**7, 1000, 0)
    opened, timed_out = [], timers.Timers._open
    monkeypatch.setattr(
        timers.Timers, "_open", lambda self, batch: opened.append(batch) or timed_out(self, batch)
    )
    now = Now(ms, ms)
    assert not queue.is_behind(now)
    ready, in_flight_now, delayed = (count - len(gone) if count else 0 for count in counts)
    assert queue.counts(now) == (ready, in_flight_now + len(more), delayed)
    assert queue.oldest_ready(now) == (1001 if ready else None)
    assert len(opened) <= 3
    assert queue.counts(now) == Naive(queue, now).counts()


def test_a_few_of_very_many_that_timed_out_are_looked_at_to_list_them(monkeypatch):
    queue, opened, timed_out = in_flight(BACKOFFS[0]), [], timers.Timers._open
    monkeypatch.setattr(batches, "BATCH_IDS", 64)
    monkeypatch.setattr(
        timers.Timers, "_open", lambda self, batch: opened.append(batch) or timed_out(self, batch)
    )
    assert queue.ids("ready", Now(100, 100), 100) == list(range(1000, 1100))
    assert queue.ids("in_flight", Now(100, 100), 100) == []
    assert len(opened) <= 4


def test_of_very_many_that_timed_out_those_that_have_expired_are_not_counted(monkeypatch):
    monkeypatch.setattr(batches, "BATCH_IDS", 2)
    queue = QueueState(1, "q")
    queue.moment.backoff = BACKOFFS[0]
    for id in range(100, 200):
        queue.publish_with(id, 1, Attributes(expires=90 if id % 3 else 900))
        queue.deliver(id, 1000 + id, 80, 0)
    for ms in (80, 90):
        assert queue.counts(Now(ms, ms)) == Naive(queue, Now(ms, ms)).counts()
