"""Tests of behaviour take their stores from an engine, or they show nothing of the other kinds of log."""

from __future__ import annotations

import ast
from pathlib import Path

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
