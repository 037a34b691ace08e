"""The backlog: a sorted list, in far less memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mq.delivery.backlog as module
from mq.delivery.backlog import Backlog


@pytest.fixture(autouse=True, scope="module")
def _small_chunks():
    """So that a handful of ids already crosses the borders between chunks."""
    before, module.CHUNK_IDS = module.CHUNK_IDS, 4
    yield
    module.CHUNK_IDS = before


def filled(*ids: int) -> Backlog:
    made = Backlog()
    for id in ids:
        made.append(id)
    return made


def test_a_new_one_is_empty():
    empty = Backlog()
    assert (len(empty), list(empty), empty.head, 5 in empty) == (0, [], None, False)
    assert not empty.take(5)


def test_ids_come_back_in_order():
    backlog = filled(*range(10, 20))
    taken = []
    while backlog.head is not None:
        taken.append(backlog.head)
        assert backlog.take(backlog.head)
    assert taken == list(range(10, 20))
    assert len(backlog) == 0


@pytest.mark.parametrize("id", range(10, 20))
def test_any_one_can_be_taken_from_any_place(id):
    backlog = filled(*range(10, 20))
    assert backlog.take(id)
    assert id not in backlog
    assert not backlog.take(id)
    assert list(backlog) == [each for each in range(10, 20) if each != id]


def test_a_taken_id_in_front_of_the_head_is_gone_for_search_too():
    backlog = filled(1, 2, 3)
    backlog.take(1)
    assert 1 not in backlog
    assert not backlog.take(1)


def test_it_can_be_filled_again_after_it_was_emptied():
    backlog = filled(1, 2, 3, 4, 5)
    for id in (5, 1, 2, 3, 4):
        assert backlog.take(id)
    backlog.append(6)
    assert (backlog.head, list(backlog), len(backlog)) == (6, [6], 1)


def test_clear_leaves_a_new_one():
    backlog = filled(*range(1, 10))
    backlog.take(1)
    backlog.clear()
    assert (len(backlog), list(backlog), backlog.head) == (0, [], None)
    backlog.append(9)
    assert list(backlog) == [9]


ROTATE, CLEAR = "take the head and append another", "clear"
steps = st.lists(st.one_of(st.integers(1, 40), st.just(ROTATE), st.just(CLEAR)), max_size=80)


@given(st.lists(st.integers(1, 5), max_size=40), steps)
def test_it_is_a_sorted_list(gaps, steps):
    """Ids grow by *gaps*; a number takes whatever stands at that place, or an id that is not there."""
    backlog, model, id = Backlog(), [], 0

    def check() -> None:
        assert list(backlog) == model
        assert len(backlog) == len(model)
        assert backlog.head == (model[0] if model else None)
        assert all((each in backlog) == (each in model) for each in range(id + 2))
        assert [backlog.rank(each) for each in range(id + 2)] == [
            sum(here < each for here in model) for each in range(id + 2)
        ]
        for begin, count in ((0, 3), (1, 5), (len(model) // 2, 100), (len(model), 1)):
            ids, positions = backlog.slice(begin, count)
            assert ids.tolist() == model[begin : begin + count] == positions.tolist()

    for gap in gaps:
        id += gap
        backlog.append(id)
        model.append(id)
    check()
    for step in steps:
        if step == CLEAR:
            backlog.clear()
            model.clear()
        elif step == ROTATE:
            id += 1
            if model:
                assert backlog.take(model.pop(0))
            backlog.append(id)
            model.append(id)
        else:
            wanted = model[step % len(model)] if model and step % 3 else step
            assert bool(backlog.take(wanted)) == (wanted in model)
            if wanted in model:
                model.remove(wanted)
        check()


def test_an_id_costs_at_most_sixteen_bytes(monkeypatch):
    """P11."""
    monkeypatch.setattr(module, "CHUNK_IDS", 8192)
    tracemalloc.start()
    try:
        many = filled(*range(1, 100_001))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(many) == 100_000
    assert size <= 16 * 100_000


def stored(backlog: Backlog) -> Backlog:
    """As a checkpoint keeps it, and as it is read back: each chunk when it is first needed."""
    at, chunks = backlog.chunks()
    kept = [tuple(each and each[:] for each in chunk.arrays) for chunk in chunks]

    def lazy(number: int) -> module.Chunk:
        ids, positions = kept[number]
        return module.Chunk.stored(chunks[number].first, len(ids), None, lambda chunk: (ids, positions))

    restored = Backlog()
    restored.restore(at, [lazy(number) for number in range(len(kept))])
    return restored


KINDS = ["append", "insert", "move", "take", "head", "save", "restore"]


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 60)), max_size=60))
def test_it_is_a_sorted_dict_of_positions(moves):
    """Messages that compaction moved keep their place, and their new position."""
    backlog, model, end = Backlog(), {}, 100
    saved: list[tuple[Backlog, dict[int, int]]] = []
    for step, number in moves:
        end += 1 + number % 7
        pick = sorted(model)[number % len(model)] if model else None
        if step == "append":
            backlog.append(end)
            model[end] = end
        elif step == "insert":
            # Some of them stand where their ids say, so there may be no positions to keep.
            new = {id: max(id, end - 100) for id in range(number, 99, 13) if id and id not in model}
            backlog.insert([*new], [*new.values()])
            model |= new
        elif step == "save":
            saved.append((stored(backlog), dict(model)))
        elif step == "restore":
            backlog = stored(backlog)
        elif pick is None:
            assert backlog.head is None
        elif step == "move":
            backlog.move(pick, end)
            model[pick] = end
        else:
            id = min(model) if step == "head" else pick
            assert backlog.take(id) == model.pop(id)
        assert list(backlog) == sorted(model)
        assert (len(backlog), backlog.head) == (len(model), min(model, default=None))
        assert {id: backlog.position(id) for id in model} == model
        assert [backlog.rank(id) for id in sorted(model)] == list(range(len(model)))
        ids, positions = backlog.slice(number % 3, 7)
        assert ids.tolist() == sorted(model)[number % 3 : number % 3 + 7]
        assert positions.tolist() == [model[id] for id in ids]
        low, high = sorted((number, 2 * end - 150))
        inside = [id for ids in backlog.within(low, high) for id in ids]
        assert sorted(inside) == sorted(id for id, position in model.items() if low <= position < high)
    for kept, then in saved:
        assert {id: kept.position(id) for id in kept} == then
