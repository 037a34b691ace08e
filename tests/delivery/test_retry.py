"""Backoff: how long a failed message waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq.delivery.retry import Backoff


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (100, 60)])
def test_the_delay_doubles_up_to_a_minute(attempt, seconds):
    assert Backoff().delay(attempt, 0.5) == pytest.approx(seconds)


def test_a_very_old_message_does_not_overflow():
    assert Backoff().delay(10**9, 0.5) == pytest.approx(60)
    assert Backoff(factor=1e300).delay(5000, 0.5) == pytest.approx(60)


def test_a_factor_of_one_never_grows():
    assert Backoff(initial=3, factor=1).delay(50, 0.5) == pytest.approx(3)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_chance_spreads_by_the_jitter_and_no_further(attempt, chance):
    plain = Backoff(jitter=0).delay(attempt, chance)
    assert plain * 0.9 - 1e-9 <= Backoff().delay(attempt, chance) <= plain * 1.1 + 1e-9


def test_two_chances_give_two_delays():
    assert Backoff().delay(3, 0.0) < Backoff().delay(3, 0.9)
