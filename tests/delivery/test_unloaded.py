"""Queues that stay as a checkpoint holds them, until they are needed."""

from __future__ import annotations

from array import array

import msgspec
import pytest
from stretches import alone, declare

import mq
from mq.delivery import fold, records, snapshot, table
from mq.delivery.attributes import Attributes
from mq.delivery.dedup import Seen
from mq.delivery.now import Now
from mq.delivery.options import Declaration
from mq.delivery.snapshot import encode, freeze, restore
from mq.delivery.state import State

NOW = Now(1000, 10**12)
NAMES = ["a", "b", "c"]


def filled() -> tuple[State, dict[tuple[int, int], list[int]]]:
    """Three queues, and a place to keep arrays in."""
    state = State()
    for number, name in enumerate(NAMES, 1):
        at = 1000 * number
        declare(state, number, at, Declaration(name=name))
        queue = state.queues[number]
        queue.publish_run([at + 10, at + 20], 12)
        queue.publish_with(at + 30, 5, Attributes(due=NOW.wall + 1))
        queue.publish_with(at + 40, 5, Attributes(group="g", dedup_id="d", dedup_until=900, expires=10**13))
        queue.deliver(at + 10, at + 50, 99_000, 0)
    return state, {}


def written(state: State, kept: dict[tuple[int, int], list[int]]) -> State:
    def save(words):
        place = (7, len(kept))
        kept[place] = words[:]
        return place

    def load(number, priority, chunk):
        ids, positions = chunk.saved
        return kept[tuple(ids)], positions and kept[tuple(positions)]

    parts, packs, _ = encode(freeze(state), save)
    data = b"".join(parts)
    assert packs <= {7}
    return restore(data, load)


@pytest.fixture
def unloaded() -> State:
    return written(*filled())


def facts(state: State, name: str):
    queue = state.named(name)
    return (
        list(queue.waiting), dict(queue.delayed.items()), dict(queue.flights.items()),
        list(queue.dedup.items()), queue.heads(NOW, 9),
        queue.counts(NOW), queue.live_bytes(), queue.totals.published,
    )  # fmt: skip


def test_a_queue_is_loaded_when_it_is_needed(unloaded):
    state, _ = filled()
    assert not unloaded.queues
    assert (unloaded.names(), unloaded.size()) == ({*NAMES}, 3)
    assert (unloaded.total(), unloaded.live_bytes()) == (state.total(), state.live_bytes())
    assert unloaded.named("nothing") is unloaded.queue(9) is None
    for count, name in enumerate(NAMES, 1):
        assert facts(unloaded, name) == facts(state, name)
        assert len(unloaded.queues) == count
        assert (unloaded.names(), unloaded.size()) == ({*NAMES}, 3)
        assert (unloaded.total(), unloaded.live_bytes()) == (state.total(), state.live_bytes())
    assert unloaded.named("a") is unloaded.queue(1)


def test_a_record_loads_the_queue_that_it_concerns(unloaded):
    payload = records.ACK_PAYLOAD.pack(2010, 6)
    fold.apply(unloaded, alone([(5000, records.ACK, 0, 2, 0, payload, 0, len(payload))]))
    assert list(unloaded.queues) == [2]
    assert unloaded.named("b").totals.acked == 1
    assert unloaded.total() == 11


def test_what_falls_due_loads_it(unloaded):
    """The dedup ids are forgotten 10 s behind their windows."""
    assert unloaded.board.due(NOW) is None
    later = Now(11_000, NOW.wall)
    number = unloaded.board.due(later)
    queue = unloaded.queue(number)
    assert len(unloaded.queues) == 1
    queue.dedup.forget(later.store)
    queue.reset_alarms(later)
    assert unloaded.board.due(later) not in (None, number)


def test_a_queue_that_is_not_loaded_is_kept_as_it_was(unloaded):
    kept: dict[tuple[int, int], list[int]] = {}
    state = written(*filled())
    state.named("b")
    again = written(state, kept)
    state, _ = filled()
    assert len(kept) <= 1
    assert (again.total(), again.live_bytes()) == (state.total(), state.live_bytes())
    assert again.named("b").counts(NOW) == state.named("b").counts(NOW)


def test_the_cleaner_loads_only_queues_that_may_live_there(unloaded):
    found = [each for part in unloaded.look_within(0, 2000) for each in part]
    assert {what for _, what in found} == {None, "d", 1010, 1020, 1030, 1040}
    assert list(unloaded.queues) == [1]
    assert not [each for part in unloaded.look_within(5000, 9000) for each in part]
    assert len(unloaded.queues) == 3


def test_what_a_pack_holds_is_read_before_the_pack_goes(unloaded):
    unloaded.keep_only(lambda place: place[0] == 7)
    assert not unloaded.queues
    unloaded.keep_only(lambda place: place[0] != 7)
    assert len(unloaded.queues) == 3
    assert all(queue.waiting.chunks()[1][0].saved is None for queue in unloaded.queues.values())


def test_a_deleted_queue_is_gone_though_it_slept(unloaded):
    fold.apply(unloaded, alone([(5000, records.DELETE, 0, 2, 0, b"", 0, 0)]))
    assert unloaded.named("b") is None
    assert unloaded.names() == {"a", "c"}
    assert unloaded.free_number() == 2
    assert unloaded.total() == 8


@pytest.mark.parametrize("happens", ["the name", "the number"])
def test_interrupted_while_it_is_loaded_it_is_there_once(unloaded, happens, monkeypatch):
    def strike(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if happens == "the name":
            unloaded._by_name = type("Struck", (dict,), {"setdefault": strike})()
        else:
            patch.setattr(unloaded.unloaded, "forget", strike)
        with pytest.raises(KeyboardInterrupt):
            unloaded.queue(2)
    unloaded._by_name = dict(unloaded._by_name)
    state, _ = filled()
    assert facts(unloaded, "b") == facts(state, "b")
    assert unloaded.names() == {*NAMES}
    assert len(freeze(unloaded).queues) == 3
    fold.apply(unloaded, alone([(5000, records.DELETE, 0, 2, 0, b"", 0, 0)]))
    assert unloaded.named("b") is unloaded.queue(2) is None
    assert (unloaded.names(), unloaded.size(), unloaded.total()) == ({"a", "c"}, 2, 8)


def test_contents_that_do_not_decode_are_refused_by_name(unloaded):
    unloaded.unloaded._images[2] = msgspec.structs.replace(
        unloaded.unloaded._images[2], contents=msgspec.Raw(b"\x90")
    )
    with pytest.raises(mq.Unsupported, match=r"queue 'b' holds .* delete the store's directory checkpoint/"):
        unloaded.named("b")


def test_a_queue_that_goes_when_it_is_idle_is_loaded():
    state, kept = filled()
    declare(state, 2, 2000, Declaration(name="b", delete_when_idle=5.0))
    assert list(written(state, kept).queues) == [2]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 100, 65_535, 65_536])
def test_what_is_encoded_in_parts_is_as_if_it_were_encoded_at_once(count, monkeypatch):
    """Other threads run in between, and none of the parts is longer than another."""
    monkeypatch.setattr(snapshot, "PART", 7 if count < 1000 else 5000)
    state = State()
    declare(state, 1, 10, Declaration(name="a"))
    queue = state.queues[1]
    for id in range(100, 100 + count):
        queue.publish_with(id, 5, Attributes(group="g" * (id % 3), priority=id % 5, due=NOW.wall + 1))
    for id in range(100, 100 + count // 2):
        queue.deliver(id, 10**6 + id, 99_000, 0)
    for id in range(min(count, 50)):
        queue.remember(f"{id}", Seen(id, 10**6, id))
    rests: list[None] = []
    parts, _, _ = encode(freeze(state), lambda words: (7, 0), lambda: rests.append(None))
    data = b"".join(parts)
    (image,) = msgspec.msgpack.decode(data, type=snapshot.Content).images
    contents = msgspec.msgpack.decode(image.contents, type=snapshot.Contents)
    assert bytes(image.contents) == msgspec.msgpack.encode(contents)
    assert len(rests) >= (count - count // 2) // snapshot.PART
    made = restore(data, lambda *_: (array("Q"), None)).named("a")
    assert made
    assert dict(made.delayed.items()) == dict(queue.delayed.items())
    assert dict(made.flights.items()) == dict(queue.flights.items())
    assert dict(made.dedup.items()) == dict(queue.dedup.items())


def test_what_is_kept_is_what_was_true_as_the_checkpoint_began(monkeypatch):
    """The state goes on while it is encoded, also where dicts are not copied for it."""
    monkeypatch.setattr(table, "NEAR_MAX", 4)
    state = State()
    declare(state, 1, 10, Declaration(name="a"))
    queue = state.queues[1]
    ids = list(range(100, 160))
    queue.publish_run(ids, 300)
    queue.deliver_run(ids, 10**6, 99_000, 0)
    queue.nack_run([(id, 0, 7, "why", False) for id in ids[::2]])
    flights, delayed = dict(queue.flights.items()), dict(queue.delayed.items())
    frozen = freeze(state)
    queue.ack_run(ids[1::4], [5] * 15)
    queue.extend_run(ids[3::4], [120_000] * 15)
    for id in ids[::4]:
        queue.deliver(id, 10**7 + id, 130_000, 0)
    assert (dict(queue.flights.items()), dict(queue.delayed.items())) != (flights, delayed)
    parts, _, _ = encode(frozen, lambda words: (7, 0))
    made = restore(b"".join(parts), lambda *_: (array("Q"), None)).named("a")
    assert made
    assert (dict(made.flights.items()), dict(made.delayed.items())) == (flights, delayed)
