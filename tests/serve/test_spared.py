"""Looks at many queues: no garbage is collected meanwhile, and what they made is out of reach afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

import mq
from mq.serve import spared


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Nothing is out of reach; afterwards what was so before is again, or all tests to come are slow."""
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("least, is_frozen", [(1000, True), (10**9, False)])
def test_many_objects_that_a_look_made_are_not_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, least: int, is_frozen: bool
) -> None:
    monkeypatch.setattr(spared, "OBJECTS_MIN", least)
    kept: list[list[int]] = []
    with spared.collections():
        kept += [[] for _ in range(2000)]
    assert (gc.get_freeze_count() >= len(kept)) == is_frozen


def test_a_look_is_such_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mq.open(tmp_path / "store", sync="never") as broker:
        broker.queue("q").publish("x")
        asked: list[bool] = []
        monkeypatch.setattr(broker, "stats", lambda queues: asked.append(gc.isenabled()))
        spared.stats(broker)
    assert asked == [False]


def test_two_looks_at_once_end_with_the_later_one() -> None:
    with spared.collections():
        with spared.collections():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_where_none_is_collected_it_stays_so() -> None:
    gc.disable()
    try:
        with spared.collections():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
