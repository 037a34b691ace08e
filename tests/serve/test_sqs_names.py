"""Names of mq and of SQS: one to one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq.serve.sqs import names

OWN = st.text(
    st.characters(exclude_categories=("C", "Z")) | st.sampled_from("_x2e. "), min_size=1, max_size=60
)
THEIRS = st.from_regex(r"[A-Za-z0-9_-]{1,75}(\.fifo)?", fullmatch=True) | st.lists(
    st.sampled_from(["_x", "2e", "5f", "_", "x", "ff", "a"]), min_size=1, max_size=20
).map("".join)


@given(OWN)
def test_each_name_has_one_in_sqs_and_comes_back(own: str) -> None:
    theirs = names.to_sqs(own)
    assert names.LEGAL.fullmatch(theirs)
    assert names.to_mq(theirs) == own


@given(THEIRS)
def test_each_name_of_sqs_is_one_queue(theirs: str) -> None:
    assert names.to_sqs(names.to_mq(theirs)) == theirs
    assert names.is_fifo(theirs) == names.is_fifo(names.to_mq(theirs))


@pytest.mark.parametrize(
    "own, theirs",
    [
        ("orders", "orders"),
        ("orders.eu", "orders_x2e_eu"),
        ("orders.fifo", "orders.fifo"),
        (".fifo", "_x2e_fifo"),
        ("a_x2e_b", "a_x5f_x2e_b"),
        ("a_xff_b", "a_xff_b"),
    ],
)
def test_names_as_they_are_documented(own: str, theirs: str) -> None:
    assert (names.to_sqs(own), names.to_mq(theirs)) == (theirs, own)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9324/000000000000/orders",
        "http://127.0.0.1:9324/eu-west-1/000000000000/orders",
        "https://sqs.eu-west-1.amazonaws.com/123456789012/orders/",
        "http://127.0.0.1:9324/queue/orders",
        "/000000000000/orders",
        "orders",
        f"http://{'a' * 5000}/000000000000/orders",
    ],
)
def test_a_url_of_any_style_names_its_queue(url: str) -> None:
    assert names.of_url(url) == "orders"


def test_few_and_short_urls_are_remembered() -> None:
    for number in range(2 * names.URLS_KEPT):
        assert names.of_url(f"http://127.0.0.1/0/q{number}") == f"q{number}"
    before = names._kept_of_url.cache_info()
    assert names.of_url(f"http://{'a' * names.KEPT_CHARS_MAX}/0/orders") == "orders"
    assert names._kept_of_url.cache_info() == before and before.currsize == names.URLS_KEPT
