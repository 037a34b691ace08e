"""Tests of behaviour take their stores from an engine, or they show nothing of the other kinds of log."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from engines import DISTURBANCES, ConflictingEngine
from fakes import FakeClock

import mq

TESTS = Path(__file__).parent
MAKES = {"mq.open", "open_on"}


def test_behaviour_is_tested_on_the_stores_of_an_engine() -> None:
    """But for tests marked `file_store`, and those of what is private to its broker."""
    files = [path for path in TESTS.glob("test_*.py") if "mark.conformance" in path.read_text()]
    makers = {
        f"{path.stem}.{test.name}"
        for path in files
        if path != Path(__file__)
        for test in ast.parse(path.read_text()).body
        if isinstance(test, ast.FunctionDef)
        and "file_store" not in "".join(map(ast.unparse, test.decorator_list))
        and any(ast.unparse(each.func) in MAKES for each in ast.walk(test) if isinstance(each, ast.Call))
    }
    assert len(files) > 6
    assert makers == {
        "test_renaming.shares",  # which only those marked `file_store` use
        "test_semantics.test_a_store_in_memory_is_private",
        "test_topics.test_topics_of_another_broker_are_refused_in_a_transaction",
    }


@pytest.mark.parametrize("disturb", DISTURBANCES)
def test_what_a_rival_appends_in_between_is_not_seen(
    tmp_path: Path, clock: FakeClock, disturb: Callable[[mq.Broker], object]
) -> None:
    """Also not in a message whose delay is over, once the clock is set back to before that."""
    with ConflictingEngine(tmp_path) as engine:
        broker = engine.open(clock=clock)
        queue = broker.queue("mail")
        queue.publish("x", delay=5)
        clock.advance(6)
        engine.meanwhile(broker, disturb)
        broker.queue("other").publish("y")
        assert [message.body for message in queue.peek(state="ready")] == ["x"]
        clock.advance(-6)
        assert [message.body for message in queue.peek(state="delayed")] == ["x"]
