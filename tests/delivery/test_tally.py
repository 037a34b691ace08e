"""Counting what has expired, against counting it anew each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mq.delivery.tally import STALE_MAX, Tally

STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove", "pass"]), st.integers(1, 20)), max_size=80)


@given(STEPS)
def test_it_counts_what_has_expired(steps):
    tally, there, now = Tally(), [], 0
    for what, number in steps:
        if what == "add":
            there.append(number)
            tally.add(number)
        elif what == "remove" and there:
            tally.remove(there.pop(number % len(there)))
        elif what == "pass":
            now += number // 4
            assert tally.passed(now) == sum(when <= now for when in there)


def test_times_at_which_no_message_expires_any_more_are_forgotten():
    """P11: a message that is settled long before it expires leaves nothing."""
    tally = Tally()
    for when in range(1, 20 * STALE_MAX):
        tally.add(10**9 + when)
        tally.remove(10**9 + when)
    assert len(tally._counts) == len(tally._times) <= STALE_MAX + 1
