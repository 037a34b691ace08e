"""mq peek, queues and stats; and what all commands have in common."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from commands import Run, contents

import mq
from mq.delivery import records

READ_ONLY = [["peek", "mail"], ["queues"], ["stats", "mail"], ["inspect"], ["dump"]]


def test_peek_shows_a_line_a_message_and_takes_nothing(run: Run, filled: list[int]) -> None:
    for _ in range(2):
        result = run("peek", "mail")
        header, *lines = result.stdout.splitlines()
        assert header.split() == ["id", "age", "attempts", "kind", "size", "body"]
        assert [line.split()[0] for line in lines] == list(map(str, filled))
        assert (
            lines[0].endswith("one") and lines[1].endswith(r"\xff\x00") and lines[2].endswith('{"three":3}')
        )


def test_peek_as_json(run: Run, filled: list[int]) -> None:
    first, *_ = map(json.loads, run("peek", "mail", "--json", "-n", "1").stdout.splitlines())
    assert run("peek", "mail", "-n", "2").stderr == "mq: 1 more; -n shows more of them\n"
    assert run("peek", "mail", "-n", "3").stderr == ""
    assert not _
    assert first.pop("created_at").endswith("Z")
    assert first == {
        "id": filled[0], "queue": "mail", "topic": None, "state": "ready", "attempts": 0, "due_at": None,
        "expires_at": None, "priority": 0, "group": None, "headers": {}, "origin": None, "failures": [],
        "body_type": "text", "body": "one",
    }  # fmt: skip


@pytest.fixture
def dead(store: Path) -> int:
    """A message that failed twice and died, beside one that was published to the dead letters; its id."""
    with mq.open(store) as broker:
        mail = broker.queue("mail", max_attempts=2, backoff=mq.Backoff(initial=0))
        id = mail.publish("one", priority=3, group="a", headers={"from": "ops"})
        for reason in ("no\nroute", "x" * 100):
            mail.receive(timeout=10).nack(reason=reason)  # type: ignore[union-attr]
        broker.queue("mail.dead").publish("never failed")
    return id


@pytest.mark.parametrize("command", ["peek", "receive"])
def test_a_dead_letter_as_json_says_where_and_why_it_died(run: Run, dead: int, command: str) -> None:
    found, other = map(json.loads, run(command, "mail.dead", "--json").stdout.splitlines())
    assert {key: found[key] for key in ("id", "origin", "priority", "group", "headers")} == {
        "id": dead, "origin": "mail", "priority": 3, "group": "a", "headers": {"from": "ops"},
    }  # fmt: skip
    assert [(each["attempt"], each["reason"]) for each in found["failures"]] == [
        (1, "no\nroute"),
        (2, "x" * 100),
    ]
    assert all(each["at"] >= found["created_at"] for each in found["failures"])
    assert (other["origin"], other["failures"]) == (None, [])


def test_peek_shows_why_they_failed(run: Run, dead: int) -> None:
    header, first, second = run("peek", "mail.dead").stdout.splitlines()
    assert "last failure" in header
    assert first.endswith("x" * 39 + "…  priority 3, group a, from=ops  one") and second.endswith(
        "never failed"
    )
    assert header.index("body") == first.index("one") == second.index("never failed")


def test_peek_at_what_is_in_flight(run: Run, filled: list[int]) -> None:
    assert run("peek", "mail", "--state", "in_flight").exit_code == 3
    run("receive", "mail", "--no-ack", "-n", "1")
    result = run("peek", "mail", "--state", "in_flight")
    assert result.exit_code == 0 and "due in" in result.stdout and str(filled[0]) in result.stdout


def test_queues(run: Run, filled: list[int]) -> None:
    run("receive", "mail", "--no-ack", "-n", "1")
    run("publish", "a much longer name", "x" * 5000)
    header, first, second = run("queues").stdout.splitlines()
    assert len({len(header.rstrip()), len(first), len(second)}) <= 2, "aligned"
    assert first.split("  ")[0] == "a much longer name" and "4.9 KiB" in first
    assert second.split()[:4] == ["mail", "2", "1", "0"]
    found = [json.loads(line) for line in run("queues", "--json").stdout.splitlines()]
    assert [(each["queue"], each["ready"], each["in_flight"]) for each in found] == [
        ("a much longer name", 1, 0),
        ("mail", 2, 1),
    ]


def test_no_queues_yet(run: Run, store: Path) -> None:
    mq.open(store).close()
    result = run("queues")
    assert (result.exit_code, result.stdout) == (0, "") and "no queues yet" in result.stderr


def test_stats(run: Run, store: Path, filled: list[int]) -> None:
    run("receive", "mail", "-n", "1")
    text = dict(line.split("  ", 1) for line in run("stats", "mail").stdout.splitlines())
    assert {key: text[key].strip() for key in ("ready", "acked", "published")} == {
        "ready": "2", "acked": "1", "published": "3",
    }  # fmt: skip
    found = json.loads(run("stats", "mail", "--json").stdout)
    assert (found["queue"], found["ready"], found["totals"]["acked"]) == ("mail", 2, 1)
    assert (found["totals"]["expired"], found["options"]["expired"]) == (0, "drop")
    assert found["options"]["visibility_timeout"] == 30
    with mq.open(store, read_only=True) as broker:
        queue = broker.queue("mail")
        assert {*found, *found["totals"]} == {"queue", "totals", "options", *queue.stats()._fields}
        assert not found.keys() & found["totals"].keys()
        assert found["options"].keys() == queue.options().keys()


def test_stats_and_inspect_show_what_topics_retain(run: Run, store: Path, filled: list[int]) -> None:
    with mq.open(store) as broker:
        topic = broker.topic("orders.eu", retain_count=2, retain_for=3600)
        for number in range(3):
            topic.publish(f"number {number}")
        size = sum(message._size for message in topic.history())
    rows = [line.split("  ", 1) for line in run("stats", "orders.eu").stdout.splitlines()]
    text = {name: value.strip() for name, value in rows}
    assert (text["topic"], text["retained"], text["size"]) == ("orders.eu", "2", f"{size} B")
    assert (text["retain for"], text["retain count"]) == ("1 h", "2")
    found = json.loads(run("stats", "orders.eu", "--json").stdout)
    assert found.pop("oldest_at").endswith("Z")
    assert found == {
        "topic": "orders.eu", "retained": 2, "bytes": size,
        "options": {"retain_for": 3600, "retain_count": 2, "retain_bytes": None},
    }  # fmt: skip
    whole, *_ = map(json.loads, run("inspect", "--json").stdout.splitlines())
    assert whole["retained"] == {"orders.eu": 3}  # one is over, and not dropped yet
    assert re.search("^retained +3, of 1 topic$", run("inspect").stdout, re.MULTILINE)


def test_a_paused_queue_is_told(run: Run, store: Path, filled: list[int]) -> None:
    assert "paused" not in run("queues").stdout + run("stats", "mail").stdout
    with mq.open(store) as broker:
        broker.queue("mail").pause()
        broker.queue("other").publish("x")
    assert [line.split()[-1] for line in run("queues").stdout.splitlines()][:2] == ["state", "paused"]
    assert re.search("^paused +yes$", run("stats", "mail").stdout, re.MULTILINE)
    for line in run("receive", "mail").stderr, run("receive", "mail", "-w", "0.01").stderr:
        assert line == "mq: mail: paused (3 ready); nothing is delivered until `mq queue resume`\n"
    assert "nothing is delayed (3 ready)" in run("peek", "mail", "--state", "delayed").stderr
    assert run("peek", "mail").exit_code == 0


def test_what_came_as_a_dead_letter_counts_as_published(run: Run, store: Path, dead: int) -> None:
    found = json.loads(run("stats", "mail.dead", "--json").stdout)
    assert (found["ready"], found["totals"]["published"]) == (2, 2)
    with mq.open(store) as broker:
        broker.queue("mail.dead").replay([dead])
    with mq.open(store) as broker:  # also when it is read again
        assert broker.queue("mail").stats().published == 2


def test_a_timeout_is_shown_before_a_writer_comes_by(run: Run, store: Path, filled: list[int]) -> None:
    with mq.open(store) as broker:
        queue = broker.queue("mail", backoff=mq.Backoff(initial=1000))
        queue.receive(timeout=0, visibility_timeout=0)
    shown = json.loads(run("peek", "mail", "--state", "delayed", "--json").stdout)
    assert [(each["attempt"], each["reason"]) for each in shown["failures"]] == [(1, records.TIMEOUT_REASON)]
    assert "last failure" in run("peek", "mail", "--state", "delayed").stdout
    with mq.open(store) as broker:
        message = broker.queue("mail").get(filled[0])
        assert message and [each.attempt for each in message.failures] == [1]


def test_stats_show_every_option_that_is_not_as_by_default(run: Run, store: Path, filled: list[int]) -> None:
    def options(queue: str) -> dict[str, str]:
        rows = [line.split("  ", 1) for line in run("stats", queue).stdout.splitlines()]
        names = [name for name, _ in rows]
        return {name: value.strip() for name, value in rows[names.index("dropped") + 1 :]}

    assert options("mail") == {"visibility timeout": "30 s"}
    chosen: mq.QueueOptions = {
        "visibility_timeout": 0.25, "max_attempts": 5, "backoff": mq.Backoff(initial=90, maximum=5400),
        "dead_letter": "grave", "ttl": 86_400, "expired": "dead_letter", "max_length": 100_000,
        "max_bytes": 1 << 20, "overflow": "drop_oldest", "dedup_window": 600, "delivery": "at_most_once",
        "delete_when_idle": 100_000,
        "delete_when_abandoned": 200_000, "delay": 90,
    }  # fmt: skip
    with mq.open(store) as broker:
        broker.queue("odd", **chosen)
        assert chosen.keys() == broker.queue("odd").options().keys(), "all there are"
    assert options("odd") == {
        "visibility timeout": "0.25 s", "max attempts": "5",
        "backoff": "initial 1.5 min, factor 2, maximum 1.5 h, jitter 0.1",
        "dead letter": "grave", "ttl": "1 d", "expired": "dead_letter", "max length": "100,000",
        "max bytes": "1,048,576", "overflow": "drop_oldest", "dedup window": "10 min",
        "delivery": "at_most_once", "delete when idle": "100,000 s",
        "delete when abandoned": "200,000 s", "delay": "1.5 min",
    }  # fmt: skip


def test_stats_of_a_queue_that_is_not_there(run: Run, filled: list[int]) -> None:
    result = run("stats", "mial")
    assert result.exit_code == 1 and "there are: mail" in result.stderr


@pytest.mark.parametrize("command", READ_ONLY, ids=" ".join)
def test_beside_a_live_process_and_nothing_is_written(
    run: Run, store: Path, filled: list[int], command: list[str]
) -> None:
    with mq.open(store) as broker:
        broker.queue("mail").publish("four")
        before = contents(store)
        for options in ([], ["--json"]):
            assert run(*command, *options).exit_code == 0
        assert contents(store) == before


@pytest.mark.parametrize("command", READ_ONLY, ids=" ".join)
@pytest.mark.parametrize("place", ["missing", "empty", "file"])
def test_where_no_store_is(run: Run, store: Path, command: list[str], place: str) -> None:
    """One line, exit code 1, and nothing is made."""
    if place == "empty":
        store.mkdir()
    elif place == "file":
        store.write_text("I am a file")
    result = run(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("mq: data") and result.stderr.count("\n") == 1
    assert store.exists() == (place != "missing")


def test_a_path_is_named_from_the_working_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below it without the way there; elsewhere whole, also where the way there is a part of the name."""
    for directory in (tmp_path, Path("/")):
        monkeypatch.chdir(directory)
        for place in (tmp_path / "there", Path(f"/elsewhere{tmp_path}/there")):
            shown = "there" if place.parent == directory else place
            for command in ("stats", "receive"):
                assert run("-s", str(place), command, "q").stderr.startswith(f"mq: {shown}: ")
                assert run("-s", str(place), command, "q").stderr.count("\n") == 1


def test_the_working_directory_is_gone(
    run: Run, store: Path, filled: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for command in (["queues"], ["publish", "q", "a"], ["receive", "q"], ["inspect"], ["repair"]):
        result = run(*command)
        assert result.exit_code == 1
        assert result.stderr.startswith("mq: ") and result.stderr.count("\n") == 1
    assert str(store) in run("-s", str(store), "peek", "mial").stderr
    assert run("-s", str(store), "publish", "mail", "a").exit_code == 0


@pytest.mark.parametrize(
    "place",
    [["-s", "there", "queues"], ["queues", "--store", "there"], ["-s", "elsewhere", "queues", "-s", "there"]],
)
def test_the_store_is_named_before_or_after_the_command(
    run: Run, filled: list[int], place: list[str]
) -> None:
    os.rename("data", "there")
    assert "mail" in run(*place).stdout
    assert "mail" in run("queues", env={"MQ_STORE": "there"}).stdout
    assert run("queues").exit_code == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(run: Run, store: Path, filled: list[int]) -> None:
    (store / "FORMAT").chmod(0)
    result = run("queues")
    assert result.exit_code == 1 and "permission denied" in result.stderr


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    "command",
    [["publish", "q", "x"], ["peek", "q"], ["peek", "none"], ["queues"], ["stats", "q"], ["stats", "none"],
     ["inspect"], ["dump"], ["verify"], ["repair"], ["repair", "--dry-run"], ["compact"], ["receive", "q"],
     ["receive", "none"]],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("damaged", [False, True])
def test_a_path_that_is_not_utf_8_is_printed_with_escapes(
    run: Run, store: Path, command: list[str], as_json: list[str], damaged: bool
) -> None:
    path = os.fsdecode(b"caf\xe9")
    with mq.open(path) as broker:
        broker.queue("q").publish_many(["one", "two"])
    if damaged:
        [segment] = (Path(path) / "log").iterdir()
        data = segment.read_bytes()
        segment.write_bytes(data.replace(b"one", b"eno"))
        shutil.rmtree(Path(path) / "checkpoint")
    result = run("-s", path, *command, *as_json)
    assert result.exit_code in (0, 1, 3, 4)
    assert "caf\\udce9" not in result.output and "caf?" not in result.output
    if damaged and command[0] in ("queues", "peek", "inspect", "verify", "repair"):
        assert re.search(r"caf\\{1,2}xe9", result.output)
    if as_json:
        for line in result.stdout.splitlines():
            assert isinstance(json.loads(line), dict)


def test_a_path_with_control_characters_commands_no_terminal(run: Run, store: Path) -> None:
    result = run("-s", "\x1b[31mred\nline", "queues")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1 and "\x1b" not in result.stderr
