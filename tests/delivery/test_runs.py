"""The short ways of the fold leave what its dispatcher leaves: for one plain record, and for many at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stretches import Record, alone, together

from mq.delivery import blocks, fold, records, runs
from mq.delivery.attributes import Attributes, trailer
from mq.delivery.decode import decode
from mq.delivery.now import Now
from mq.delivery.state import State, declaration_of
from mq.delivery.traits import traits_of

SIZE = 7  # of each body
STEP = 1000  # from one record to the next: more than a record of many takes


def record(lsn: int, kind: int, payload: bytes, queue: int = 1, flags: int = 0) -> Record:
    return lsn, kind, flags, queue, 0, payload, 0, len(payload)


def publish(lsn: int, queue: int = 1, flags: int = 0) -> Record:
    return record(lsn, records.PUBLISH, bytes(SIZE), queue, flags)


def deliver(lsn: int, *ids: int, queue: int = 1, flags: int = 0) -> Record:
    return record(lsn, records.DELIVER, records.encode_deliveries(ids, 50_000 + lsn), queue, flags)


def ack(lsn: int, *ids: int, queue: int = 1, flags: int = 0) -> Record:
    payload = b"".join(records.ACK_PAYLOAD.pack(id, SIZE) for id in ids)
    return record(lsn, records.ACK, payload, queue, flags)


def told(state: State) -> dict[int, tuple]:
    """All that is true of each queue, and what is next."""
    found = {}
    for number, queue in state.queues.items():
        counts = [queue.counts(Now(at, at)) for at in (0, 60_000, 200_000)]
        heads = queue.heads(Now(200_000, 200_000), 1000)
        found[number] = (
            list(queue.waiting), [queue.position(id) for id in queue.waiting],
            dict(queue.flights.items()), dict(queue.delayed.items()),
            {priority: list(lane) for priority, lane in queue.lanes.items()},
            queue.bytes, declaration_of(queue), counts, heads, queue.total(),
        )  # fmt: skip
    return found | {0: (state.total(), state.live_bytes())}


def dispatched(history: list[Record]) -> dict[int, tuple]:
    """Each record decoded in full, and given to the dispatcher."""
    state = State()
    for lsn, kind, flags, number, _, *payload in history:
        event = decode(kind, flags, *payload)
        fold.take(state, [lsn], [(kind, flags, number, b"")], [event])
    return told(state)


def one_by_one(history: list[Record]) -> dict[int, tuple]:
    state = State()
    fold.apply(state, alone(history))
    found = told(state)
    assert found == dispatched(history)
    return found


def at_once(records: list[Record], *cuts: int) -> dict[int, tuple]:
    state = State()
    parts = pairwise([0, *cuts, len(records)])
    fold.apply(state, [together(records[a:b]) for a, b in parts if a < b])
    return told(state)


THREE = [publish(1000), publish(2000), publish(3000)]


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([*THREE, deliver(4000, 1000), ack(5000, 1000), deliver(6000, 2000)], id="as it goes"),
        pytest.param([*THREE, deliver(4000, 1000, 2000), ack(5000, 2000, 1000)], id="records about many"),
        pytest.param([*THREE, deliver(4000, 2000), deliver(5000, 1000), ack(6000, 2000)], id="out of order"),
        pytest.param([*THREE, ack(4000, 1000), deliver(5000, 1000)], id="acked before"),
        pytest.param([*THREE, ack(4000, 2000), deliver(5000, 1000), deliver(6000, 3000)], id="one is gone"),
        pytest.param([*THREE, deliver(4000, 1000), deliver(5000, 1000), ack(6000, 1000)], id="twice"),
        pytest.param(
            [*THREE, deliver(4000, 1000), ack(5000, 1000), deliver(6000, 1000), ack(7000, 1000)],
            id="again, though it is gone",
        ),
        pytest.param([*THREE, deliver(4000, 1000), ack(5000, 1000), ack(6000, 1000)], id="acked twice"),
        pytest.param([*THREE, deliver(4000, 1500), ack(5000, 1500)], id="what never was"),
        pytest.param([ack(500, 1000), *THREE, deliver(4000, 2000)], id="acked before it is published"),
        pytest.param(
            [deliver(500, 1000), *THREE, deliver(4000, 2000)], id="delivered before it is published"
        ),
        pytest.param([*THREE, ack(4000), deliver(5000, 1000)], id="a record about none"),
        pytest.param(
            [*THREE, deliver(4000, 1000), deliver(5000, 1000, flags=records.TIMED_OUT), ack(6000, 1000)],
            id="timed out",
        ),
        pytest.param(
            [*THREE, publish(4000, 2), deliver(5000, 1000), deliver(6000, 4000, queue=2), ack(7000, 1000)],
            id="two queues",
        ),
        pytest.param([*THREE, deliver(4000, 1000, queue=2), ack(5000, 1000, queue=2)], id="the wrong queue"),
    ],
)
def test_what_is_done_at_once_is_as_it_is_done_one_by_one(monkeypatch, records):
    monkeypatch.setattr(runs, "RUN_LEAST", 1)
    assert at_once(records) == one_by_one(records)


def history(chance: random.Random, count: int) -> Iterator[Record]:
    """What receivers do, mostly: some of it makes no sense."""
    waiting: dict[int, list[int]] = {1: [], 2: []}
    flying: dict[int, list[int]] = {1: [], 2: []}
    odd = chance.choice([0, 0, 0.02, 0.2])
    bodies = sorted(records.PLAIN_FLAGS)
    for lsn in range(STEP, STEP * count, STEP):
        queue = chance.choice([1, 1, 1, 2])
        waits, flies = waiting[queue], flying[queue]
        roll = chance.random()
        if chance.random() < odd:
            id = chance.randrange(1, count + 5) * STEP
            yield chance.choice([
                deliver(lsn, id, queue=queue), ack(lsn, id, queue=queue), ack(lsn, id, id, queue=queue),
                deliver(lsn, id, queue=queue, flags=records.TIMED_OUT), deliver(lsn, id, id, queue=queue),
                record(lsn, records.NACK, records.NACK_PAYLOAD.pack(id, 0), queue),
                record(lsn, records.RELEASE, records.RELEASE_PAYLOAD.pack(id), queue),
                record(lsn, records.DROP, records.SIZED_PAYLOAD.pack(id, SIZE), queue),
                record(lsn, records.DELETE, b"", queue),
            ])  # fmt: skip
        elif roll < 0.4 or not (waits or flies):
            waits.append(lsn)
            yield publish(lsn, queue, chance.choice(bodies))
        elif (roll < 0.7 and waits) or not flies:
            part, waits[:] = waits[: (many := chance.choice([1, 1, 1, 3]))], waits[many:]
            flies += part
            yield deliver(lsn, *part, queue=queue)
        else:
            chance.shuffle(flies)
            part = [flies.pop() for _ in range(min(len(flies), chance.choice([1, 1, 1, 3])))]
            yield ack(lsn, *part, queue=queue, flags=chance.choice([0, 1]))


@pytest.mark.parametrize("seed", range(100))
def test_any_history_at_once_is_as_it_is_one_by_one(monkeypatch, seed):
    chance = random.Random(seed)
    monkeypatch.setattr(runs, "RUN_LEAST", chance.choice([1, 8]))
    monkeypatch.setattr(runs, "OTHERS_SHARE", chance.choice([1, 16]))
    records = list(history(chance, chance.choice([20, 100])))
    due = one_by_one(records)
    assert at_once(records) == due
    assert at_once(records, *sorted(chance.choices(range(len(records)), k=3))) == due


def test_a_run_goes_over_the_chunks_of_a_backlog(monkeypatch):
    monkeypatch.setattr("mq.delivery.backlog.CHUNK_IDS", 3)
    ids = [STEP * n for n in range(1, 20)]
    records = [publish(id) for id in ids]
    for n, id in enumerate(ids[:17]):
        records += [deliver(STEP * (20 + 2 * n), id), ack(STEP * (21 + 2 * n), id)][: 1 + n % 5 // 4 + n % 2]
    assert at_once(records) == one_by_one(records)
    assert at_once(records, 10, 25) == one_by_one(records)


def move(lsn: int, id: int, to: int, queue: int, why: int = 0, at: int = 7, reason: str = "") -> Record:
    origin = "mail" if why & records.DIED else ""
    what = records.Move(id, SIZE, to, at, 0, origin, reason)
    return record(lsn, records.MOVE, records.encode_move(what), queue, why)


def moving(chance: random.Random, count: int) -> Iterator[Record]:
    """Messages die in a row, and come back, to one queue or several; some are gone, or were never there."""
    ids = [STEP * number for number in range(1, count)]
    lsn = STEP * count
    attributes = [Attributes(), Attributes(priority=3), Attributes(group="g"), Attributes(expires=90_000)]
    for id in ids:
        said = chance.choice([attributes[0], attributes[0], *attributes])
        if said == attributes[0]:
            yield publish(id)
        else:
            yield record(id, records.PUBLISH, b"1234" + trailer(said), flags=records.ATTRIBUTED)
    for id in chance.sample(ids, count // 2):
        yield deliver(lsn := lsn + STEP, id)
    for _ in range(chance.randrange(1, 6)):
        died = chance.choice([0, records.DIED | records.FAILED])
        queue, to = chance.choice([(1, 2), (1, 3), (2, 1), (2, 3)])
        at, reason = chance.randrange(50), chance.choice(["", "why"])
        for id in chance.sample(ids, chance.randrange(1, count // 2)):
            yield move(lsn := lsn + STEP, id, chance.choice([to, to, to, 3]), queue, died, at, reason)
        if chance.random() < 0.3:
            yield ack(lsn := lsn + STEP, chance.choice(ids), queue=to)


@pytest.mark.parametrize("seed", range(40))
def test_messages_that_move_in_a_row_are_where_they_are_if_each_moves_by_itself(monkeypatch, seed):
    """However the log is cut: a live operation, a follower and recovery do as many at once as they see."""
    monkeypatch.setattr(runs, "RUN_LEAST", 1)
    chance = random.Random(seed)
    said = list(moving(chance, 30))
    expected = one_by_one(said)
    assert at_once(said) == expected
    assert at_once(said, *sorted(chance.sample(range(1, len(said)), 3))) == expected
    state = State()
    drafts = [(kind, flags, number, b"") for _, kind, flags, number, *_ in said]
    events = [decode(kind, flags, *payload) for _, kind, flags, _, _, *payload in said]
    fold.take(state, [each[0] for each in said], drafts, events)
    assert told(state) == expected


def settling(chance: random.Random, count: int) -> Iterator[Record]:
    """Deliveries are nacked, released and extended in a row; some are gone, or named twice."""
    ids = [STEP * number for number in range(1, count)]
    lsn = STEP * count
    odd = chance.choice([[], [Attributes(priority=3), Attributes(group="g"), Attributes(expires=90_000)]])
    for id in ids:
        if odd and chance.random() < 0.2:
            yield record(id, records.PUBLISH, b"1234" + trailer(chance.choice(odd)), flags=records.ATTRIBUTED)
        else:
            yield publish(id)
    for _ in range(chance.randrange(1, 8)):
        part = chance.sample(ids, chance.randrange(1, count // 2)) + chance.choice([[], [ids[0], ids[0]]])
        due, deadline = chance.choice([0, 100, 70_000]), lsn + chance.choice([0, 80_000])
        backoff = chance.random() < 0.5
        for id in part:
            yield deliver(lsn := lsn + STEP, id)
        for id in chance.sample(part, len(part) // 2):
            what = records.nack(1, id, due, 7, "why", backoff=backoff)
            yield record(lsn := lsn + STEP, what[0], what[3], flags=what[1])
        for id in chance.sample(part, len(part) // 2):
            yield record(lsn := lsn + STEP, records.EXTEND, records.EXTEND_PAYLOAD.pack(id, deadline))
        for id in chance.sample(part, len(part) // 2):
            yield record(lsn := lsn + STEP, records.RELEASE, records.RELEASE_PAYLOAD.pack(id))
        if chance.random() < 0.3:
            yield ack(lsn := lsn + STEP, chance.choice(ids))


@pytest.mark.parametrize("seed", range(60))
def test_deliveries_that_are_settled_in_a_row_are_what_they_are_if_each_is_by_itself(monkeypatch, seed):
    monkeypatch.setattr(runs, "RUN_LEAST", 1)
    chance = random.Random(seed)
    said = list(settling(chance, 30))
    expected = one_by_one(said)
    assert at_once(said) == expected
    assert at_once(said, *sorted(chance.sample(range(1, len(said)), 3))) == expected
    state = State()
    drafts = [(kind, flags, number, b"") for _, kind, flags, number, *_ in said]
    events = [decode(kind, flags, *payload) for _, kind, flags, _, _, *payload in said]
    fold.take(state, [each[0] for each in said], drafts, events)
    assert told(state) == expected


def test_those_that_die_together_share_what_is_kept_of_it():
    state = State()
    ids = [STEP * n for n in range(1, runs.RUN_LEAST + 1)]
    fold.apply(state, alone([publish(id) for id in ids]))
    fold.apply(state, [together([move(100 * STEP + id, id, 2, 1, records.DIED, reason="why") for id in ids])])
    died = state.queues[2].delayed
    assert list(died) == ids
    assert all(each.traits is died[ids[0]].traits for each in died.values())


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([90, 100, 5000]), st.integers(0, 12)), max_size=12)
)
def test_a_run_of_messages_that_expire_is_as_each_by_itself(publishes: list[tuple[int, int, int]]) -> None:
    """Whatever block they fall into, and whether or not it is known which is the oldest."""
    whole, single = State(), State()
    for state in (whole, single):
        fold.apply(state, alone([publish(1000)]))
    lsn, now = 2000, Now(95, 95)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_IDS", 4)
        for count, expires, acked in publishes:
            traits, ids = traits_of(Attributes(expires=expires)), [lsn + each * STEP for each in range(count)]
            lsn += count * STEP
            whole.queues[1].take_in_run(ids, count * SIZE, traits)
            for id in ids:
                single.queues[1].take_in(id, SIZE, 0, traits)
            assert whole.board.next == single.board.next
            for _ in range(acked):
                oldest = whole.queues[1].oldest_ready(now)
                assert single.queues[1].oldest_ready(now) == oldest
                assert single.queues[1].ready.oldest(3) == whole.queues[1].ready.oldest(3)
                for state in (whole, single) if oldest else ():
                    state.queues[1].deliver(oldest, lsn, 10**9, 0)
                    state.queues[1].ack(oldest, SIZE)
        assert whole.queues[1].oldest_ready(now) == single.queues[1].oldest_ready(now)
        assert told(whole) == told(single)
