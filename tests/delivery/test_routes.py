"""Routing: the trie gives what a naive matcher gives, and no pattern makes its work explode."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq.delivery import topics
from mq.delivery.topics import Binding, Routes, matches


def fits(pattern: list[str], words: list[str]) -> bool:
    """The definition, word by word."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return fits(pattern[1:], words) or (bool(words) and fits(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and fits(pattern[1:], words[1:])


@pytest.mark.parametrize(
    "pattern, topic, expected",
    [
        pytest.param("orders", "orders", True, id="the topic itself"),
        pytest.param("orders", "order", False, id="another word"),
        pytest.param("orders", "orders.eu", False, id="a word more"),
        pytest.param("orders.eu", "orders", False, id="a word less"),
        pytest.param("*", "orders", True, id="a star is one word"),
        pytest.param("*", "orders.eu", False, id="a star is not two words"),
        pytest.param("orders.*", "orders", False, id="a star is not no word"),
        pytest.param("*.eu", "orders.eu", True, id="a star in front"),
        pytest.param("a.*.c", "a.b.c", True, id="a star in the middle"),
        pytest.param("#", "a.b.c", True, id="a hash is all words"),
        pytest.param("orders.#", "orders", True, id="a hash is no word"),
        pytest.param("orders.#", "orders.eu.paid", True, id="a hash is two words"),
        pytest.param("#.paid", "paid", True, id="a hash in front is no word"),
        pytest.param("#.paid", "orders.eu.paid", True, id="a hash in front is two words"),
        pytest.param("#.paid", "orders.paid.eu", False, id="a hash in front, and another end"),
        pytest.param("a.#.c", "a.c", True, id="a hash in the middle is no word"),
        pytest.param("a.#.c", "a.c.b.c", True, id="a hash goes over its next word"),
        pytest.param("#.*", "a", True, id="a hash and a star: one word"),
        pytest.param("*.#.*", "a", False, id="two stars around a hash: two words at least"),
        pytest.param("#.#.#.a", "b.a", True, id="hashes in a row"),
        pytest.param("#.a.#.b.#", "x.a.y.b", True, id="hashes all over"),
    ],
)
def test_a_pattern_fits_or_does_not(pattern, topic, expected):
    assert matches(pattern, topic) is expected
    assert fits(pattern.split("."), topic.split(".")) is expected


words = st.lists(st.sampled_from("abc"), min_size=1, max_size=6).map(".".join)
patterns = st.lists(st.sampled_from(["a", "b", "c", "*", "#"]), min_size=1, max_size=5).map(".".join)
headers = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("bind"), st.integers(1, 4), patterns, headers),
        st.tuples(st.just("unbind"), st.integers(1, 4), patterns, headers),
        st.tuples(st.just("forget"), st.integers(1, 4), patterns, headers),
        st.tuples(st.just("route"), st.just(0), words, headers),
    ),
    max_size=40,
)


@given(steps)
def test_it_is_the_list_of_bindings_each_compared(history):
    routes, model = Routes(), {}
    for what, queue, text, given_headers in history:
        if what == "bind":
            routes.bind(queue, text, given_headers)
            model[queue, text] = given_headers
        elif what == "unbind":
            assert routes.unbind(queue, text) is (model.pop((queue, text), None) is not None)
        elif what == "forget":
            routes.forget(queue)
            model = {key: match for key, match in model.items() if key[0] != queue}
        else:
            fitting = [key for key in model if fits(key[1].split("."), text.split("."))]
            assert sorted((each.queue, each.pattern) for each in routes.bindings(text)) == sorted(fitting)
            got = {key[0] for key in fitting if model[key].items() <= given_headers.items()}
            assert routes.route(text, given_headers) == tuple(sorted(got))
        assert bool(routes) is bool(model)
        assert {(q, p): match for q, p, match in routes.bindings()} == model
        for number in range(1, 5):
            listed = [Binding(number, pattern, match) for (q, pattern), match in model.items() if q == number]
            assert sorted(routes.of(number)) == sorted(listed)
    for queue in range(1, 5):
        routes.forget(queue)
    assert not routes._root.below  # nothing stays of a binding that went


def test_a_queue_gets_a_publish_once_however_many_patterns_fit():
    routes = Routes()
    for pattern in ("a.b", "a.*", "#", "a.#", "#.b"):
        routes.bind(7, pattern)
    routes.bind(3, "#", {"kind": "test"})
    assert routes.route("a.b") == (7,)
    assert routes.route("a.b", {"kind": "test", "more": "1"}) == (3, 7)
    assert routes.route("a.b", {"kind": "real"}) == (7,)


def test_a_binding_without_a_match_outweighs_one_with_it():
    routes = Routes()
    routes.bind(1, "a.*", {"kind": "test"})
    routes.bind(1, "#")
    assert routes.route("a.b") == (1,)
    routes.unbind(1, "#")
    assert routes.route("a.b") == ()
    routes.bind(1, "a.*")  # in its place
    assert routes.route("a.b") == (1,)


def test_what_was_found_is_kept_until_a_binding_changes_and_is_bounded(monkeypatch):
    monkeypatch.setattr(topics, "CACHED_TOPICS", 4)
    routes = Routes()
    routes.bind(1, "a.#")
    for index in range(20):
        assert routes.route(f"a.{index}") == (1,)
        assert len(routes._cache) <= 4
    routes.bind(2, "*.19")
    assert routes.route("a.19") == (1, 2)
    routes.forget(1)
    assert routes.route("a.19") == (2,)


@pytest.mark.parametrize(
    "pattern",
    ["#.#.#.#.a", ".".join("#" * 120), ".".join(["#", "*"] * 60), ".".join(["#", "a"] * 60), "#.a.#.a.#.b"],
)
def test_no_pattern_makes_the_work_explode(pattern, monkeypatch):
    """Ways through the trie are counted, not seconds: at most a node for each word and node."""
    visited = []
    step = topics._with_any
    monkeypatch.setattr(topics, "_with_any", lambda nodes: visited.extend(there := step(nodes)) or there)
    topic = ".".join("a" * 127)
    matches(pattern, topic)
    assert len(visited) <= (len(pattern.split(".")) + 1) * 128
