"""What a server remembers of receives that may be tried again: no more than it has room for."""

from __future__ import annotations

from typing import Any

import pytest

import mq
from mq.serve.sqs import attempts
from mq.serve.sqs.attempts import Attempts


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BYTES_MAX", 300)
    known = Attempts()
    with mq.open(":memory:") as broker:
        queue: mq.Queue[Any] = broker.queue("q")
        queue.publish_many([b"x" * 100] * 4)
        taken: Any = [[queue.receive()] for _ in range(4)]
    for number, each in enumerate(taken):
        known.remember(("q", str(number)), each)
    assert known.recall(("q", "0")) == []
    assert known.recall(("q", "3")) == taken[3]
    known.remember(("q", "1"), taken[1])  # again: it is not counted twice
    known.remember(("q", "4"), taken[0])
    assert known.recall(("q", "2")) == taken[2]
    monkeypatch.setattr(attempts, "WINDOW_SECONDS", 0.0)
    known = Attempts()
    known.remember(("q", "5"), taken[3])
    assert not known._known and not known._bytes
