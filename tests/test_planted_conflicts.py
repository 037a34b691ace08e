"""Mistakes about conflicts that test_conflicts.py must catch: an oracle that passes all would find nothing.

Each is planted where the log meets the engine, so that every operation makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import test_conflicts
from engines import ConflictingEngine, ConflictingLog
from fakes import FakeClock
from test_conflicts import Act, seen

import mq
from mq.engine.log import Conflict

T = TypeVar("T")


class Ignoring(ConflictingLog):
    """A conflict is taken for an append."""

    def _accept(self, append: Callable[..., T], *args: Any, **options: Any) -> T:
        try:
            return super()._accept(append, *args, **options)
        except Conflict:
            at = self._log.end
            count = len(args[1]) if append.__name__ != "append" else 0
            return [at + number for number in range(count)] if count else at  # type: ignore[return-value]


class Stubborn(ConflictingLog):
    """What was decided before is appended behind what another writer appended."""

    def _accept(self, append: Callable[..., T], *args: Any, **options: Any) -> T:
        try:
            return super()._accept(append, *args, **options)
        except Conflict:
            self._store.replica.catch_up()
            return append(*args, **options)


class Doubling(ConflictingLog):
    """What was appended is decided and appended again."""

    def _accept(self, append: Callable[..., T], *args: Any, **options: Any) -> T:
        try:
            return super()._accept(append, *args, **options)
        except Conflict:
            self._store.replica.catch_up()
            append(*args, **options)
            raise


def hunt(directory: Path, log: type[ConflictingLog], test: Callable[..., None], *args: object) -> None:
    """Run *test*, as pytest would, on a log with a mistake.  Nothing is left to chance."""
    kind = type("Planted", (ConflictingEngine,), {"log": log, "strikes": 0.0})
    with kind(directory) as engine:
        broker = engine.open(clock=FakeClock(), background=False)

        def first(act: Act) -> None:
            engine.meanwhile(broker, act)

        test(broker, broker.queue("mail", visibility_timeout=30), first, *args)
        before = seen(broker)
        assert seen(engine.reopen(broker)) == before


def stale_receive(broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None], name: str) -> None:
    receive = test_conflicts.RECEIVE[name]
    test_conflicts.test_what_another_writer_received_first_is_not_received(
        broker, first, receive, "at_least_once"
    )


def stale_settle(broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None], name: str) -> None:
    settle, theirs = test_conflicts.SETTLE[name], test_conflicts.THEIRS["acked"]
    test_conflicts.test_a_delivery_that_another_writer_settled_first_is_stale(queue, first, settle, theirs)


def stale_change(broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None], name: str) -> None:
    change = test_conflicts.CHANGE[name]
    test_conflicts.test_what_another_writer_took_away_cannot_be_changed(queue, first, change, "acked")


def stale_dedup(broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None], name: str) -> None:
    test_conflicts.test_a_dedup_id_that_another_writer_used_first_is_a_hit(queue, first)


def stale_transaction(
    broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None], name: str
) -> None:
    test_conflicts.test_a_transaction_whose_receipt_another_writer_settled_leaves_no_trace(
        broker, queue, first
    )


def stale_meta(broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[Act], None], name: str) -> None:
    """Compare-and-set that compares with what was there before."""
    test_conflicts.test_of_two_compare_and_sets_the_second_one_does_nothing(queue, first)


STALE = [
    *((stale_receive, name) for name in test_conflicts.RECEIVE),
    *((stale_settle, name) for name in test_conflicts.SETTLE),
    *((stale_change, name) for name in test_conflicts.CHANGE),
    (stale_dedup, ""),
    (stale_transaction, ""),
    (stale_meta, ""),
]
once = test_conflicts.test_what_meets_conflicts_takes_effect_once
# As good as once: no test can tell.
SAME_TWICE = {"pause", "declare", "update_meta", "extend", "extend_many", "reschedule"}
CAUGHT = (Exception, pytest.fail.Exception)  # whatever shows it


@pytest.mark.parametrize("name", test_conflicts.ONCE)
def test_a_conflict_that_is_ignored_is_noticed(tmp_path: Path, name: str) -> None:
    with pytest.raises(CAUGHT):
        hunt(tmp_path, Ignoring, once, name, 1)


@pytest.mark.parametrize("test, name", STALE)
def test_a_decision_on_a_state_of_before_is_noticed(tmp_path: Path, test: Any, name: str) -> None:
    with pytest.raises(CAUGHT):
        hunt(tmp_path, Stubborn, test, name)


@pytest.mark.parametrize("name", [name for name in test_conflicts.ONCE if name not in SAME_TWICE])
def test_what_is_done_twice_is_noticed(tmp_path: Path, name: str) -> None:
    with pytest.raises(CAUGHT):
        hunt(tmp_path, Doubling, once, name, 1)


@pytest.mark.parametrize("test, name", [*STALE, *((once, name) for name in test_conflicts.ONCE)])
def test_without_a_mistake_the_same_hunts_find_nothing(tmp_path: Path, test: Any, name: str) -> None:
    hunt(tmp_path, ConflictingLog, test, name, *([2] if test is once else []))
