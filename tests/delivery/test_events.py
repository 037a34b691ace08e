"""What payloads hold, and that they come back."""

from __future__ import annotations

import pytest

from mq.delivery import events


@pytest.mark.parametrize("changes", [{}, {"visibility_timeout": 2.5}])
def test_a_declaration_comes_back(changes):
    assert events.decode_declare(events.encode_declare("mail", changes)) == ("mail", changes)


def test_a_reason_is_cut_where_it_gets_too_long():
    assert len(events.encode_reason("ä" * 5000)) == events.REASON_BYTES_MAX


def test_a_reason_that_is_no_unicode_is_kept_as_far_as_it_goes():
    assert events.encode_reason("a\ud800b") == b"a?b"


def test_every_kind_has_a_name_of_its_own():
    assert len(set(events.KIND_NAMES.values())) == len(events.KIND_NAMES)
