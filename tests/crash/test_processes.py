"""Several processes on one store: the CI share of their schedules, and the interleavings known by name.

`scripts/crash` goes on for as long as one likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from mq.storage.disk import Disk

from .disk import SimulatedDisk
from .driver import Wrong
from .interleavings import INTERLEAVINGS, visit
from .kernel import Face, Here, laboratory
from .planted import planted
from .planted_processes import BUGS, caught
from .processes import WORKLOADS, Run, Schedule, attempt, explore, explore_deaths, schedules, shorten

SEEDS = 15  # for each workload
DEATHS_EVERY = 15


@pytest.fixture(scope="module")
def here() -> Iterator[Here]:
    with laboratory() as found:
        yield found


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_promise_is_broken_under_any_schedule(here, name):
    """P1 to P12: whichever process goes on or dies, whichever call fails, wherever the power goes."""
    _, found = explore(here, name, range(SEEDS))
    assert not found, str(shorten(here, found))


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_promise_is_broken_wherever_somebody_dies(here, name):
    runs, found = explore_deaths(here, name, 0, every=DEATHS_EVERY)
    assert not found, str(shorten(here, found))
    assert runs > 5


@pytest.mark.parametrize("name", ["two publish and take", "first creation", "behind a closing record"])
def test_no_promise_is_broken_wherever_somebody_dies_at_every_point(here, name):
    _, found = explore_deaths(here, name, 1)
    assert not found, str(shorten(here, found))


@pytest.mark.parametrize("name", INTERLEAVINGS)
def test_an_interleaving_known_by_name(here, name):
    visit(here, name)


@pytest.mark.parametrize("name", [name for name in INTERLEAVINGS if "failed_fdatasync" in name])
def test_the_same_where_files_cannot_be_written_past_the_cache(here, name, monkeypatch):
    """But for a kill between dropping a page and writing it, which loses what only that page had."""
    monkeypatch.setattr(SimulatedDisk, "direct", False)
    if name.startswith("killed"):
        with pytest.raises(Wrong, match="P1"):
            visit(here, name)
    else:
        visit(here, name)


@pytest.mark.parametrize("bug", [pytest.param(bug, id=bug.name) for bug in BUGS])
def test_a_planted_bug_is_caught(here, bug):
    assert caught(here, bug), f"no test noticed: {bug.name}"


def test_there_are_enough_of_them():
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 20


def test_a_seed_reproduces_everything(here):
    workload = WORKLOADS["three compete"]
    for schedule in schedules(here, workload, range(3)):
        traces = []
        for _ in range(2):
            run = Run(here, workload, schedule)
            run.kernel.traces = []
            assert run.play() == ""
            traces.append((run.kernel.traces, run.kernel.disk.content(), run.lines()))
        assert traces[0] == traces[1]


def test_a_failure_is_shown_with_a_schedule_of_which_nothing_can_be_left_out(here):
    (bug,) = (bug for bug in BUGS if bug.name == "appended without following")
    name = "two publish and take"
    with planted(bug):
        long = (each for each in schedules(here, WORKLOADS[name], range(400)) if len(each.marks()) > 30)
        found = next(filter(None, (attempt(here, name, schedule) for schedule in long)))
        short = shorten(here, found)
        again = attempt(here, short.workload, short.schedule)
        assert again and again.text[:3] == short.text[:3] == found.text[:3]
        assert len(short.schedule.marks()) < 15
        for shorter in shorter_by_one(short.schedule):
            again = attempt(here, short.workload, shorter)
            assert not again or again.text[:3] != short.text[:3]
        assert "seed" in str(short) and "publish" in str(short)


def shorter_by_one(schedule):
    for name in ("switches", "kills", "faults"):
        items = getattr(schedule, name)
        for left_out in items:
            fewer = {step: what for step, what in items.items() if step != left_out}
            yield replace(schedule, **{name: fewer})
    for left_out in schedule.looks:
        yield replace(schedule, looks=schedule.looks - {left_out})


def test_the_face_of_a_process_is_that_of_a_disk():
    asked = {name for name in vars(Disk) if not name.startswith("_")}
    assert asked <= set(vars(Face))


def test_a_killed_process_changes_nothing_any_more(here):
    """Whatever its handlers try, after it was killed at a point."""
    workload = WORKLOADS["batches"]
    plain = Run(here, workload, Schedule())
    plain.points_seen = []
    plain.play()
    for point in range(1, len(plain.points_seen), 17):
        run = Run(here, workload, Schedule(kills={point: None}))
        seen = []
        kill = run._kill

        def look(actor, inside, run=run, kill=kill, seen=seen):
            run.kernel.drain_all()  # what it has stored is seen, though it is dead
            before = run.kernel.disk.content()
            kill(actor, inside)
            seen.append(before == run.kernel.disk.content())

        run._kill = look
        run.play()
        assert seen in ([True], [])
