"""A stream is cut only where a process that begins there judges as those that have read it all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from logs import log_of
from test_shared import meanwhile

import mq
from mq.nats import following
from mq.nats.message import FENCE, TAKES, head_of

Opens = Callable[..., mq.Broker]


def test_a_fence_that_does_not_hold_is_no_place_to_cut(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2: a transaction is a fence, for one is due.  Another process takes a message: it is decided again."""
    one, two = opens(), opens()
    queue, other = one.queue("q"), one.queue("other")
    for body in ("a", "b"):
        queue.publish(body)
    other.publish("there")
    held = queue.receive(timeout=0)
    assert held
    assert two.queue("q").stats().ready == 1
    log = log_of(one)

    def take() -> None:
        monkeypatch.undo()
        assert two.queue("q").receive(timeout=0)

    monkeypatch.setattr(following, "FENCE_MESSAGES", 0)
    with meanwhile(one, take), one.transaction() as transaction:
        transaction.ack(held)
        transaction.publish(other, "once")
    heads = {seq: head_of(log.pages.get(seq)) for seq in range(1, log.seq + 1)}
    fence = next(
        seq for seq, head in heads.items() if head.flags == FENCE | TAKES and head.known[0] < seq - 1
    )
    cut = log.fence_from(fence, log.seq + 1)
    assert cut
    cleaning: Any = one._store.maintenance.cleaning  # type: ignore[attr-defined]
    assert cleaning._trim_before(cut)
    monkeypatch.setattr("mq.nats.opening.fetch", lambda *args: None)  # no checkpoint
    for broker in (one, two, opens()):
        assert [each.body for each in broker.queue("other").peek(9)] == ["there", "once"]
