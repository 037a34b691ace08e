"""A table is a dict, whatever is near and far; and a checkpoint's part of it does not change."""

from __future__ import annotations

import random

import pytest

from mq.delivery import table as module
from mq.delivery.table import Table

STRETCH = 1 << module.STRETCH_BITS


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most entries are far."""
    monkeypatch.setattr(module, "NEAR_MAX", 20)
    monkeypatch.setattr(module, "PART", 7)


def is_the_same(table: Table[str], plain: dict[int, str]) -> bool:
    wanted = sorted(plain.items())
    parts = [pair for part in table.parts() for pair in part.items()]
    pairs = zip(table, table.values(), strict=True)
    ids = [id for each in table.in_order() for id in each]
    return (
        sorted(table.items()) == sorted(pairs) == sorted(parts) == wanted
        and len(table) == len(plain) and sorted(ids) == sorted(plain)
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_it_does_what_a_dict_does(seed):
    random_ = random.Random(seed)
    table, plain = Table[str](), dict[int, str]()
    kept: list[tuple[list[dict[int, str]], dict[int, str]]] = []
    ids = [random_.randrange(8 * STRETCH) for _ in range(200)]
    for step in range(1500):
        id, entry = random_.choice(ids), str(step)
        filling = step % 500 < 300  # then it is drained
        match random_.randrange(8):
            case 0 | 1 if filling:
                table[id] = plain[id] = entry
            case 2 if filling:
                some = random_.sample(ids, 30)
                table.put_all(some, [entry] * 30)
                plain.update(dict.fromkeys(some, entry))
            case 3 if filling:
                if id not in table:  # as a hot operation does
                    table.near[id] = plain[id] = entry
                if not step % 4:
                    table.spread()
            case 4 if plain:
                some = random_.sample(sorted(plain), min(len(plain), 9))
                table.remove_all(some)
                for each in some:
                    del plain[each]
            case 5 if not step % 50:
                kept.append((table.keep(), dict(plain)))
            case _:
                assert table.get(id) == plain.get(id)
                assert table.pop(id) == plain.pop(id, None)
        assert (id in table) == (id in plain)
        if not step % 20:
            assert is_the_same(table, plain)
            some = random_.sample(ids, 5)
            assert table.get_all(some) == [plain.get(each) for each in some]
            assert table.is_disjoint(some) == plain.keys().isdisjoint(some)
            assert len(table.near) <= 30
    for parts, then in kept:
        assert {id: entry for part in parts for id, entry in part.items()} == then
    assert kept, "no checkpoint"


def test_each_of_its_iterators_is_in_order():
    table = Table[str]()
    ids = random.Random(1).sample(range(9 * STRETCH), 300)
    table.put_all(ids, map(str, ids))
    several = [list(each) for each in table.in_order()]
    assert all(each == sorted(each) for each in several)
    assert sorted(id for each in several for id in each) == sorted(ids)


def test_what_is_below_a_position_is_in_the_parts_that_are_named():
    table = Table[str]()
    ids = range(0, 9 * STRETCH, STRETCH // 10)
    table.put_all(ids, map(str, ids))
    for limit in (0, 1, STRETCH, 3 * STRETCH + 7, 20 * STRETCH):
        below = [id for part in table.below(limit) for id in part]
        assert set(below) >= {id for id in ids if id < limit}
    assert len(table.below(STRETCH)) < len(table.parts())


def test_a_missing_entry_is_a_key_error():
    table = Table[str]()
    with pytest.raises(KeyError):
        table[7]
    with pytest.raises(KeyError):
        table.remove_all([7])


def test_what_is_far_is_copied_once_for_a_checkpoint():
    table = Table[str]()
    table.put_all(range(100), map(str, range(100)))
    before = table.keep()
    table[99] = "again"
    changed = table.parts()
    table[98] = "again"
    assert [a is b for a, b in zip(changed, table.parts(), strict=True)] == [True, True]
    assert before[1] is not changed[1]
    assert (before[1][99], changed[1][99]) == ("99", "again")
