"""mq schedule, schedules and unschedule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Run, contents

import mq


@pytest.fixture
def scheduled(run: Run) -> Run:
    assert run("schedule", "report", "reports", '{"kind": "daily"}', "--cron", "30 6 * * *").exit_code == 0
    result = run("schedule", "beat", "health", "ping", "--every", "3600", "--missed", "skip")
    assert result.exit_code == 0
    assert result.stdout.endswith("Z\n")
    return run


def test_a_schedule_is_made_with_its_store(run: Run, tmp_path: Path) -> None:
    result = run("schedule", "s", "q", "text", "--every", "60", "--ttl", "5", "--json")
    found = json.loads(result.stdout)
    assert found.pop("next_at").endswith("Z")
    assert found == {"name": "s", "queue": "q", "cron": None, "every": 60, "tz": "UTC", "last_at": None}
    assert "created the store" in result.stderr


def test_schedules_are_listed_and_nothing_is_written(scheduled: Run, tmp_path: Path) -> None:
    before = contents(tmp_path)
    header, beat, report = scheduled("schedules").stdout.splitlines()
    assert header.split() == ["schedule", "queue", "times", "next", "last"]
    assert beat.split()[:5] == ["beat", "health", "every", "3600", "s"]
    assert beat.endswith("never")
    assert report.split()[:2] == ["report", "reports"]
    assert "30 6 * * * UTC" in report
    first, second = map(json.loads, scheduled("schedules", "--json").stdout.splitlines())
    assert (first["name"], first["every"], second["cron"]) == ("beat", 3600, "30 6 * * *")
    assert contents(tmp_path) == before


def test_a_schedule_is_taken_back(scheduled: Run) -> None:
    assert scheduled("unschedule", "beat").exit_code == 0
    assert "beat" not in scheduled("schedules").stdout
    result = scheduled("unschedule", "beat")
    assert (result.exit_code, result.stderr) == (1, "mq: no schedule is called 'beat'; known: report\n")


def test_without_schedules_it_is_said_how_to_make_one(run: Run, filled: list[int]) -> None:
    result = run("schedules")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "mq schedule" in result.stderr


@pytest.mark.parametrize(
    "args, says",
    [
        (["s", "q", "x"], "either cron or every"),
        (["s", "q", "x", "--cron", "* *"], "five fields"),
        (["s", "q", "x", "--every", "1", "--tz", "Mars/Phobos"], "no time zone"),
        (["s", "q", "{", "--every", "1", "--as", "json"], "not JSON"),
        (["", "q", "x", "--every", "1"], "schedule"),
    ],
)
def test_what_makes_no_sense_is_a_line_and_the_code_2(run: Run, args: list[str], says: str) -> None:
    result = run("schedule", *args)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") <= 2


def test_dump_shows_what_schedules_do(scheduled: Run) -> None:
    shown = [
        json.loads(line) for line in scheduled("dump", "--json", "--kind", "schedule").stdout.splitlines()
    ]
    assert [(each["schedule"], each["queue"], each["body"]) for each in shown] == [
        ("report", "reports", {"kind": "daily"}),
        ("beat", "health", "ping"),
    ]


def test_a_body_comes_as_publish_would_have_stored_it(scheduled: Run, tmp_path: Path) -> None:
    store = next(path.parent for path in tmp_path.rglob("FORMAT"))
    with mq.open(store) as broker:
        bodies = {
            each.schedule.name: broker._store.committer._read_body(each.position or 0)[1]
            for each in broker._store.replica.state.calendar
        }
    assert bodies["beat"] == b"ping"
    assert bodies["report"] != b'{"kind": "daily"}'  # msgpack
