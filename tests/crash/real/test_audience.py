"""A topic, a schedule and a counter that processes share, which are killed and replaced under traffic."""

from __future__ import annotations

import noted
import pytest

from .audience import EVERY_MS, QUEUES, Audience, Books

ROUNDS, ROUNDS_MAX = 4, 100


def test_a_fan_out_a_tick_and_a_count_come_once_while_processes_die_and_come(nursery, tmp_path):
    """P1-P6, P8, P9, P12: nothing lost, nothing invented, no fan-out in part, no tick twice or skipped."""
    audience = Audience(nursery, str(tmp_path / "data"), str(tmp_path / "notes"), "audience")
    while audience.looks < ROUNDS or not has_done_all(Books(audience.notes)):
        assert audience.looks < ROUNDS_MAX, "the processes get to do nothing before they are killed"
        audience.round()


def has_done_all(books: Books) -> bool:
    return bool(len(books.told) > 50 and len(books.times["acked"]) > 20 and books.started and books.won)


STORY = """\
try 4
told 4:40
try 5
told 5:50
try 6
got mail 4:40 5:50
start late-1
started late-1
set 1
won 1
"""
HELD = [(4, 40, True), (5, 50, True)]
ONE_MORE = [*HELD, (7, 70, True)]
PLACES = (*QUEUES, "late-1", "retained")
FOUND = {
    "queues": {"mail": HELD, "jobs": HELD, "late-1": HELD}, "retained": HELD, "count": 1,
    "ticks": [7 * EVERY_MS] * 2,
}  # fmt: skip


@pytest.mark.parametrize(
    "more, other, complaint",
    [
        ("", {}, ""),
        ("ack mail 4\nacked mail 4\n", {"mail": HELD[1:]}, ""),
        ("back mail 4 5\ngot mail 4:40\n", {}, ""),
        ("", dict.fromkeys(PLACES, HELD[1:]), "P1"),
        ("", {"jobs": HELD[1:]}, "P4"),
        ("", {"late-1": HELD[:1]}, "P4"),
        ("", {"late-1": None}, "P1"),
        ("", {"jobs": [HELD[0], *HELD]}, "P6"),
        ("", {"jobs": [(4, 40, False), HELD[1]]}, "P3"),
        ("", {"jobs": [(4, 41, True), HELD[1]]}, "P3"),
        ("ack mail 4\nacked mail 4\n", {}, "P2"),
        ("got mail 4:40\n", {}, "P12"),
        ("try 7\ntold 7:70\ngot jobs 7:70\n", dict.fromkeys(PLACES, ONE_MORE), "P5"),
        ("won 1\n", {}, "P12"),
        ("set 2\nwon 2\n", {}, "P1"),
        ("", {"count": 2}, "P1"),
        ("", {"ticks": [7 * EVERY_MS, 8 * EVERY_MS]}, "ticks"),
        ("", {"ticks": [7 * EVERY_MS, 6 * EVERY_MS]}, "ticks"),
    ],
)
def test_the_books_find_what_is_wrong(tmp_path, more, other, complaint):
    notes = tmp_path / "notes"
    noted.write(notes, STORY + more)
    queues = {name: other.get(name, held) for name, held in FOUND["queues"].items()}
    found = FOUND | other | {"queues": {name: held for name, held in queues.items() if held is not None}}
    wrong = Books(str(notes)).complaints(found, set())
    assert {each.partition(":")[0] for each in wrong} == ({complaint} if complaint else set())
