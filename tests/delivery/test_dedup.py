"""Dedup ids: each is remembered until its own window is over, and found by where its record stands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mq.delivery.dedup import KEY_OVERHEAD_BYTES, Remembered, Seen

steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from("abcdef"), st.sampled_from([0, 5, 50, 1000])),
        st.tuples(st.just("move"), st.sampled_from("abcdef"), st.just(0)),
        st.tuples(st.just("time passes"), st.just(""), st.integers(1, 40)),
    ),
    max_size=60,
)


@given(steps)
def test_it_is_a_dict_of_those_whose_window_is_not_over(history):
    remembered, model = Remembered(), {}
    now = position = 0
    for what, key, number in history:
        position += 10
        if what == "time passes":
            now += number
            remembered.forget(now, 1000)
            assert all(seen.until > now for _, seen in remembered.items())
        elif what == "publish" and remembered.find(key, now) is None:
            model[key] = Seen(position, now + number, position)
            remembered.note(key, model[key])
        elif what == "move" and (seen := remembered.seen(key)):
            model[key] = replace(seen, position=position)
            remembered.again(key, model[key])
        living = {key: seen for key, seen in model.items() if seen.until > now}
        assert {key: seen for key, seen in remembered.items() if seen.until > now} == living
        assert {key: remembered.find(key, now) for key in "abcdef"} == {
            key: living[key].id if key in living else None for key in "abcdef"
        }
        order = [seen.position for _, seen in remembered.items()]
        assert order == sorted(order)
        assert remembered.within(0, position + 1) == [key for key, _ in remembered.items()]
        assert remembered.bytes == len(remembered) * (KEY_OVERHEAD_BYTES + 1)
        assert len(remembered._ends) <= len(history)
    remembered.forget(now + 10_000, 1000)
    assert (len(remembered), remembered.bytes, len(remembered._ends), remembered.look_at) == (0, 0, 0, None)


def test_only_a_few_are_forgotten_for_each_that_comes():
    remembered = Remembered()
    for number in range(100):
        remembered.note(str(number), Seen(number, 5, number))
    remembered.forget(5)
    assert 90 <= len(remembered) < 100
