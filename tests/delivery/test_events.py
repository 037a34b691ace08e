"""What payloads hold, and that they come back."""

from __future__ import annotations

import pytest

from mq.delivery import events


@pytest.mark.parametrize(
    "known", [{}, {"visibility_timeout": 2.5}, {"published": 9, "acked": 7, "failed": 1}]
)
def test_a_declaration_comes_back(known):
    declared = events.Declaration(name="mail", **known)
    assert events.decode_declaration(events.encode_declaration(declared)) == declared


def test_a_body_is_found_wherever_it_stands():
    moved = events.RELOCATE_PAYLOAD.pack(7, 1234, 0, events.WAITING, 0, 0) + b"body"
    assert events.body_of(events.PUBLISH, events.TEXT, 99, b"body") == (99, b"body")
    assert events.body_of(events.RELOCATE, events.TEXT, 99, moved) == (1234, b"body")


def test_a_reason_is_cut_where_it_gets_too_long():
    assert len(events.encode_reason("ä" * 5000)) == events.REASON_BYTES_MAX


def test_a_reason_that_is_no_unicode_is_kept_as_far_as_it_goes():
    assert events.encode_reason("a\ud800b") == b"a?b"


def test_every_kind_has_a_name_of_its_own():
    assert len(set(events.KIND_NAMES.values())) == len(events.KIND_NAMES)
