"""What a topic retains: the newest, as far as each limit goes, exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq.delivery import retention
from mq.delivery.backlog import Backlog
from mq.delivery.retention import Retention, first_since

limits = st.one_of(st.none(), st.integers(0, 60))
messages = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=30)  # size, ms since the last


@given(messages, limits, limits, limits, st.integers(0, 30))
def test_it_is_the_newest_that_each_limit_leaves(sent, count, size, ms, later):
    waiting, sizes, times = Backlog(), {}, {}
    now = 1000
    for id, (length, pause) in enumerate(sent, 1):
        now += pause
        waiting.append(id)
        sizes[id], times[id] = length, now
    now += later
    asked = []
    first = Retention(count, size, ms).first(
        waiting, sum(sizes.values()), now, lambda id: asked.append(id) or sizes[id], times.__getitem__
    )
    left = sorted(sizes)
    while left and (
        (count is not None and len(left) > count)
        or (size is not None and sum(sizes[id] for id in left) > size)
        or (ms is not None and times[left[0]] < now - ms)
    ):
        left.pop(0)
    assert sorted(sizes)[first:] == left
    assert len(asked) <= len(sizes) - len(left), "a size was asked for of one that is retained"
    for most in (0, 1, 5):
        asked.clear()
        found = Retention(count, size, ms).first(
            waiting,
            sum(sizes.values()),
            now,
            lambda id: asked.append(id) or sizes[id],
            times.__getitem__,
            most,
        )
        assert len(asked) <= most
        assert found == first or most <= found < first
    assert first_since(waiting, now - 20, times.__getitem__) == sum(at < now - 20 for at in times.values())


def test_a_message_whose_time_cannot_be_read_is_retained():
    waiting = Backlog()
    for id in range(1, 9):
        waiting.append(id)
    assert first_since(waiting, 100, lambda id: None if id > 4 else 0) == 4
    assert first_since(waiting, 100, lambda id: None) == 0


@pytest.mark.parametrize(
    "limits, count, size, over",
    [
        pytest.param((100, None, None), 100, 10, False, id="as many as may be"),
        pytest.param((100, None, None), 115, 10, False, id="a few too many"),
        pytest.param((100, None, None), 116, 10, True, id="too many"),
        pytest.param((1, None, None), 2, 200_000, True, id="one too many, and it is large"),
        pytest.param((100_000, None, None), 101_023, 10, False, id="of very many, not a hundredth"),
        pytest.param((100_000, None, None), 101_024, 10, True, id="of very many, a thousand"),
        pytest.param((0, None, None), 0, 0, False, id="none"),
        pytest.param((None, 1000, None), 9, 60_000, False, id="some bytes"),
        pytest.param((None, 1000, None), 9, 67_000, True, id="many bytes"),
        pytest.param((None, None, 5), 10**9, 10**12, False, id="only age counts"),
    ],
)
def test_what_is_over_is_dropped_several_at_a_time(limits, count, size, over):
    assert Retention(*limits).is_over(count, size) is over


def test_age_is_looked_at_when_several_are_over():
    assert Retention(None, None, 80_000).stays_ms == 90_000
    assert Retention(None, None, 10**9).stays_ms == 10**9 + retention.OVER_MS[1]
    assert Retention(1, 1, None).stays_ms is None


def test_without_a_limit_nothing_is_retained():
    assert not Retention(None, None, None)
    assert Retention(0, None, None)
