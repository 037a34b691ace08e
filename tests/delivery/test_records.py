"""What payloads hold, and that they come back."""

from __future__ import annotations

import pytest

from mq.delivery import records
from mq.delivery.options import Declaration


@pytest.mark.parametrize(
    "known", [{}, {"visibility_timeout": 2.5}, {"published": 9, "acked": 7, "failed": 1}]
)
def test_a_declaration_comes_back(known):
    declared = Declaration(name="mail", **known)
    assert records.decode_declaration(records.encode_declaration(declared)) == declared


def test_a_body_is_found_wherever_it_stands():
    moved = records.RELOCATE_PAYLOAD.pack(7, 1234, 0, records.WAITING, 0, 0) + b"body"
    assert records.body_of(records.PUBLISH, records.TEXT, 99, b"body") == (99, b"body")
    assert records.body_of(records.RELOCATE, records.TEXT, 99, moved) == (1234, b"body")


def test_the_creation_of_a_message_is_found_in_the_head_of_its_record():
    moved = records.RELOCATE_PAYLOAD.pack(7, 1234, 0, records.WAITING, 0, 0) + b"body"
    assert records.created_ms(records.PUBLISH, 99, lambda size: b"") == 99
    assert records.created_ms(records.RELOCATE, 99, lambda size: moved[:size]) == 1234
    assert records.created_ms(records.RELOCATE, 99, lambda size: moved[:5]) is None
    assert records.created_ms(records.ACK, 99, lambda size: moved[:size]) is None


def test_a_reason_is_cut_where_it_gets_too_long():
    assert len(records.encode_reason("ä" * 5000)) == records.REASON_BYTES_MAX


def test_a_reason_that_is_no_unicode_is_kept_as_far_as_it_goes():
    assert records.encode_reason("a\ud800b") == b"a?b"


def test_every_kind_has_a_name_of_its_own():
    assert len(set(records.KIND_NAMES.values())) == len(records.KIND_NAMES)
