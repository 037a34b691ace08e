"""What topics may be called, and what a pattern of topics looks like."""

from __future__ import annotations

import pytest

from mq.engine.names import check_pattern, check_topic
from mq.errors import UsageError


@pytest.mark.parametrize(
    "name, told",
    [
        ("", "1 to 255 bytes"),
        ("a" * 256, "1 to 255 bytes"),
        ("ä" * 128, "this one 256"),
        ("a..b", "an empty word"),
        (".a", "an empty word"),
        ("a.", "an empty word"),
        (".", "an empty word"),
        ("a\nb", "leave them out"),
        ("\ud800", "valid Unicode"),
        (7, "is text, not int"),
    ],
)
def test_what_no_topic_and_no_pattern_can_be(name, told):
    for check in (check_topic, check_pattern):
        with pytest.raises(UsageError, match=told):
            check(name)


def test_stars_and_hashes_are_words_of_patterns_alone():
    for name in ("a.*", "#", "a*", "a.b#c"):
        with pytest.raises(UsageError, match="publish to a topic without them"):
            check_topic(name)
    for pattern in ("a*", "a.b#", "**", "##", "a.*#.b"):
        with pytest.raises(UsageError, match="a word of its own"):
            check_pattern(pattern)
    for pattern in ("*", "#", "a.*.#", "orders eu.größe", "a" * 255):
        assert check_pattern(pattern) == pattern
    assert check_topic("orders eu.größe.7") == "orders eu.größe.7"
