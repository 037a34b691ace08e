"""Four processes on one store, killed and replaced under traffic: nothing lost, held twice or altered."""

from __future__ import annotations

import noted
import pytest

from .company import KILLS_BETWEEN_LOOKS, ROLES, Accounts, Company

ROUNDS = 6


def test_nothing_is_lost_held_twice_or_altered_while_processes_die_and_come(nursery, tmp_path):
    """P1-P4, P6, P8, P9, P12."""
    company = Company(nursery, str(tmp_path / "data"), str(tmp_path / "notes"), "company")
    while company.looks < ROUNDS:
        company.round()
    assert company.kills == ROUNDS * (KILLS_BETWEEN_LOOKS + len(ROLES))
    told = Accounts(company.notes)
    assert len(told.told) > 50
    assert len(told.times["acked"]) > 20


STORY = "try mail 1 2\ntold mail 1 2\ntry mail 3\ngot mail 1\n"


def row(number: int, whole: bool = True) -> tuple[int, int, int, bool]:
    return number, number * 100, 1, whole


@pytest.mark.parametrize(
    "more, here, complaint",
    [
        ("", [row(1), row(2)], ""),
        ("", [row(1), row(2), row(3)], ""),
        ("ack mail 1\n", [row(2)], ""),
        ("back mail 1\ngot mail 1\n", [row(1), row(2)], ""),
        ("told mail 3\n", [row(1), row(2)], "P1"),
        ("ack mail 1\nacked mail 1\n", [row(1), row(2)], "P2"),
        ("", [row(1, False), row(2)], "P3"),
        ("", [row(1), row(2), row(4)], "P3"),
        ("altered mail 1\n", [row(1), row(2)], "P3"),
        ("try mail 5 6\n", [row(1), row(2), row(5)], "P4"),
        ("", [row(1), row(2), row(2)], "P6"),
        ("got mail 1\n", [row(1), row(2)], "P12"),
        ("ack mail 1\nacked mail 1\nacked mail 1\n", [row(2)], "P12"),
    ],
)
def test_the_accounts_find_what_is_wrong(tmp_path, more, here, complaint):
    notes = tmp_path / "notes"
    noted.write(notes, STORY + more)
    wrong = Accounts(str(notes)).complaints({"queues": {"mail": {"messages": here}}})
    assert [each.partition(":")[0] for each in wrong] == ([complaint] if complaint else [])
