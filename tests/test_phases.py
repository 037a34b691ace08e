"""The phases of a store, row by row: what an operation does that changes, that looks, and that needs LOCK."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import open_on

import mq
from mq.engine.phase import Phase
from mq.engine.store import WAYS, Store
from mq.storage.real_disk import RealDisk

Error = tuple[type[Exception], str]  # and what its text says

CLOSED: Error = (mq.Closed, "the broker is closed")
CHANGES_NOTHING: Error = (mq.Unsupported, "read_only=True, which changes nothing")
DELETED: Error = (mq.StoreFailed, "LOCK.* deleted while the store was open")
SPOILED: Error = (mq.StorageError, r"could not take leave of its parent's files \(MemoryError\(\)\)")


def opened(path: Path, **options: Any) -> mq.Broker:
    return open_on(RealDisk(), path, background=False, **options)


def become(phase: Phase) -> Callable[[Path], mq.Broker]:
    def enter(path: Path) -> mq.Broker:
        broker = opened(path)
        broker._store.become(phase)
        return broker

    return enter


def only_read(path: Path) -> mq.Broker:
    opened(path).close()
    return mq.open(path, read_only=True)


def closed(path: Path) -> mq.Broker:
    broker = opened(path)
    broker.close()
    return broker


def forked(path: Path) -> mq.Broker:
    """What a child does, done here: no descriptor or lock of the parent's is left."""
    broker = opened(path)
    broker._store._child.after_fork()
    return broker


def forked_exclusively(path: Path) -> mq.Broker:
    broker = opened(path, exclusive=True)
    broker._store._child.after_fork()
    return broker


def lost(path: Path) -> mq.Broker:
    broker = opened(path)
    os.unlink(path / "LOCK")
    with pytest.raises(mq.StoreFailed):
        broker._store.replica.log.watch.stand()
    return broker


def spoiled(path: Path) -> mq.Broker:
    broker = forked(path)
    broker._store._child.spoil(MemoryError())
    return broker


ROWS: list[Any] = [
    pytest.param(become(Phase.BEGINNING), Phase.BEGINNING, CLOSED, CLOSED, CLOSED, id="beginning"),
    pytest.param(only_read, Phase.READING, CHANGES_NOTHING, None, CHANGES_NOTHING, id="reading"),
    pytest.param(opened, Phase.OPEN, None, None, None, id="open"),
    pytest.param(
        lambda path: opened(path, exclusive=True), Phase.EXCLUSIVE, None, None, None, id="exclusive"
    ),
    pytest.param(become(Phase.CLOSING), Phase.CLOSING, CLOSED, CLOSED, None, id="closing"),
    pytest.param(closed, Phase.CLOSED, CLOSED, CLOSED, CLOSED, id="closed"),
    pytest.param(forked, Phase.FORKED, None, None, CLOSED, id="forked"),
    pytest.param(
        forked_exclusively,
        Phase.CLOSED,
        *[(mq.Closed, "opened exclusively before a fork, and still the parent's")] * 3,
        id="forked, while the parent has it alone",
    ),
    pytest.param(lost, Phase.LOST, DELETED, DELETED, DELETED, id="lost"),
    pytest.param(spoiled, Phase.SPOILED, SPOILED, SPOILED, CLOSED, id="spoiled"),
]


def test_each_phase_has_its_row() -> None:
    assert {row.values[1] for row in ROWS} | {Phase.FOLLOWING} == set(WAYS) == set(Phase)  # that: of a stream


@pytest.mark.parametrize("way", ["change", "look", "with LOCK"])
@pytest.mark.parametrize("enter, phase, change, look, with_lock", ROWS)
def test_what_an_operation_does_in_a_phase(
    tmp_path: Path, enter: Callable[[Path], mq.Broker], phase: Phase, change: Error | None,
    look: Error | None, with_lock: Error | None, way: str,
) -> None:  # fmt: skip
    """It comes in, with what is known being the log's; or an error says why not, and it did nothing."""
    broker = enter(tmp_path / "data")
    store: Store = broker._store
    assert store.phase is phase
    take, error = {
        "change": (store.turn.take, change),
        "look": (store.turn.look, look),
        "with LOCK": (store.turn.take_with_lock, with_lock),
    }[way]
    done: list[bool] = []

    def work() -> None:
        done.append(store.replica.applied == store.replica.log.end)

    if error is None:
        take(work)
        assert done == [True]
    else:
        with pytest.raises(error[0]) as raised:
            take(work)
        assert type(raised.value) is error[0]
        assert re.search(error[1], str(raised.value))
        assert done == []
    assert not store.turn.mutex._is_owned()
    with suppress(mq.MqError):
        broker.close()
    store.let_go()  # of a store that refuses to be closed


@pytest.mark.parametrize("way", ["take", "look"])
def test_the_first_operation_of_a_child_opens_the_store(tmp_path: Path, way: str) -> None:
    broker = forked(tmp_path / "data")
    getattr(broker._store.turn, way)(lambda: None)
    assert broker._store.phase is Phase.OPEN
    broker.close()


def test_a_store_that_is_lost_stays_so_while_it_is_closed(tmp_path: Path) -> None:
    """Else closing would lock and write files that are not the store's."""
    store: Store = lost(tmp_path / "data")._store
    store.become(Phase.CLOSING)
    assert store.phase is Phase.LOST
    store.let_go()
