"""Ids that are ready, against a sorted list; and heaps that are looked at in order."""

from __future__ import annotations

from heapq import heapify
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from mq.delivery.blocks import STEP_BITS
from mq.delivery.heaps import Heaps, ascending

COUNTS = (1, 3, 20)  # ids that are added at once
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "go", "first", "ranks", "oldest"]), st.integers(0, 30), st.integers(0, 3)
    ),
    max_size=80,
)


@given(STEPS)
def test_it_is_a_sorted_list_of_ranks(steps):
    ready, there = Heaps(), {}
    for what, id, level in steps:
        id = 4 * id + level  # an id has one priority
        ranks = sorted(id - (level << STEP_BITS) for id, level in there.items())
        if what == "add":
            ids = [each for each in range(id, id + 4 * COUNTS[id % 3], 4) if each not in there]
            there.update(dict.fromkeys(ids, level))
            ready.add_run(ids, level)
        elif what == "go":
            there.pop(id, None)
        elif what == "first":
            assert ready.first(there.__contains__) == (ranks[0] if ranks else None)
        elif what == "ranks":
            assert list(ready.ranks(there.__contains__)) == ranks
        else:
            levels = {level: min(i for i in there if there[i] == level) for level in there.values()}
            assert sorted(ready.oldest(there.__contains__)) == sorted(levels.values())
            assert bool(ready) == bool(there)
        assert ready.size >= len(there)


@given(st.lists(st.integers(), max_size=60), st.integers(0, 60))
def test_a_heap_is_looked_at_in_order_and_stays_as_it_is(numbers, count):
    heap = numbers[:]
    heapify(heap)
    before = heap[:]
    assert list(islice(ascending(heap), count)) == sorted(numbers)[:count]
    assert heap == before
