"""The names of a store's files: one is made from a position, and read back."""

from __future__ import annotations

import pytest

from mq.storage import paths


@pytest.mark.parametrize("base", [0, 1, 64 << 20, (1 << 64) - 1])
def test_a_segments_name_says_where_it_begins(base):
    name = paths.segment_name(base)
    assert len(name) == 24 and paths.base_of(name) == base
    assert paths.segment("data/log", base) == f"data/log/{name}"


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "7.seg", "segment.tmp", "00000000000000000000.seg.bak", " 0000000000000000000.seg",
     "٠" * 20 + ".seg"],
)  # fmt: skip
def test_other_names_are_no_segments(name):
    assert paths.base_of(name) is None


def test_segments_are_listed_in_the_order_of_the_log():
    names = [paths.segment_name(base) for base in (4096, 0, 1 << 40)]
    assert paths.segment_bases([*names, "segment.tmp"]) == [0, 4096, 1 << 40]


def test_names_in_the_order_of_the_alphabet_are_in_the_order_of_the_log():
    bases = [0, 9, 10, 99, 100, 1 << 32, (1 << 64) - 1]
    assert sorted(map(paths.segment_name, reversed(bases))) == list(map(paths.segment_name, bases))
