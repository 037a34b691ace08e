"""Which queues there are, a page at a time; and the counts of some of them."""

from __future__ import annotations

from typing import Any

import pytest
from engines import Engine
from hypothesis import given
from hypothesis import strategies as st

import mq
from mq.delivery.listing import Listing

pytestmark = pytest.mark.conformance

names = st.text(alphabet="ab.\U0010ffff", min_size=1, max_size=4)
changes = st.lists(st.tuples(st.booleans(), names), max_size=20)


@given(
    st.sets(names), changes, names | st.just(""), names | st.just(""), st.none() | st.integers(0, 5)
)  # fmt: skip
def test_a_page_is_what_sorting_all_gives(
    every: set[str], changes: list[tuple[bool, str]], prefix: str, after: str, limit: int | None
) -> None:
    listing = Listing()
    for add, name in [*changes, (True, "a")]:
        expected = [each for each in sorted(every) if each.startswith(prefix) and each > after]
        assert listing.part(lambda: every, prefix, after, limit) == expected[:limit]
        (every.add if add else every.discard)(name)
        (listing.add if add else listing.remove)(name)


def test_pages_of_the_queues(engine: Engine, broker: mq.Broker) -> None:
    assert broker.queues(prefix="a") == []
    for name in ("b", "a.2", "ä", "a.1", "a"):
        broker.queue(name).publish("x")
    assert broker.queues() == ["a", "a.1", "a.2", "b", "ä"]
    assert broker.queues(prefix="a") == ["a", "a.1", "a.2"]
    assert broker.queues(prefix="a", after="a.1", limit=5) == ["a.2"]
    assert broker.queues(after="a.1", limit=2) == ["a.2", "b"]
    assert broker.queues(after="aa") == ["b", "ä"]
    assert broker.queues(limit=0) == []
    broker.queue("a.1").delete()
    broker.queue("a.3", ttl=5.0)
    assert broker.queues(prefix="a.") == ["a.2", "a.3"]
    again = engine.reopen(broker)
    again.queue("a.2").delete()
    again.queue("c").publish("x")
    assert again.queues() == ["a", "a.3", "b", "c", "ä"]


@pytest.mark.parametrize("said", [{"prefix": 5}, {"after": None}, {"limit": -1}, {"limit": "5"}], ids=str)
def test_what_makes_no_sense_is_refused(broker: mq.Broker, said: Any) -> None:
    with pytest.raises(mq.UsageError):
        broker.queues(**said)


def test_stats_of_some_queues(broker: mq.Broker) -> None:
    for name, size in (("a", 1), ("b", 10), ("c", 100)):
        broker.queue(name).publish(b"x" * size)
    some = broker.stats(["c", "not there", "a", "a"])
    assert (list(some.queues), some.live_bytes) == (["c", "a"], 101)
    assert some.queues["c"] == broker.queue("c").stats()
    assert list(broker.stats().queues) == ["a", "b", "c"]
    assert broker.stats([]).queues == {}
    assert broker.queues() == ["a", "b", "c"]
    for bad in ("a", [5], ["a\n"], 5):
        with pytest.raises(mq.UsageError):
            broker.stats(bad)  # type: ignore[arg-type]
