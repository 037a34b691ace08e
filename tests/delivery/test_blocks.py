"""Ids that expire, in order: it is a sorted list of those that are ready, and finds the first quickly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq.delivery import blocks
from mq.delivery.blocks import STEP_BITS, Blocks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_IDS", 4)


def rank(id: int, level: int) -> int:
    return id - (level << STEP_BITS)


entries = st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0, 0, 0, 1, 255]), st.integers(1, 9)))


@given(entries, st.integers(0, 10), st.sets(st.integers(1, 60)))
def test_it_is_a_sorted_list(several, wall_ms, gone):
    level_of = {id: level for id, level, _ in several}
    expires = {id: when for id, level, when in several}
    line = Blocks()
    for id in [each for each, *_ in several]:
        line.add(id, level_of[id], expires[id])
    assert line.size == len(several)

    def is_ready(id: int) -> bool:
        return id not in gone and expires[id] > wall_ms

    ready = sorted(rank(id, level_of[id]) for id in expires if is_ready(id))
    assert list(line.ready(wall_ms, is_ready)) == ready
    lowest: dict[int, int] = {}
    for id in sorted(filter(is_ready, expires)):
        lowest.setdefault(level_of[id], id)
    assert sorted(line.oldest(wall_ms, is_ready)) == sorted(lowest.values())
    assert line.first(wall_ms, is_ready) == (ready[0] if ready else None)
    assert list(line.ready(wall_ms, is_ready)) == ready
    line.sweep(is_ready)
    assert line.size == sum(len(block.ids) for block in line) == sum(is_ready(id) for id, *_ in several)
    assert list(line.ready(wall_ms, is_ready)) == ready


def test_what_has_expired_together_is_passed_over_together(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_IDS", 1024)
    line, asked = Blocks(), []
    for id in range(1, 100_001):
        line.add(id, 0, 5)
    line.add(200_000, 0, 9)

    def is_ready(id: int) -> bool:
        asked.append(id)
        return id == 200_000

    assert line.first(5, is_ready) == 200_000
    assert len(asked) <= 1024
    assert len(line) == 1
