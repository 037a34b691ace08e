"""mq queue, cancel, reschedule; and receipts: ack, nack, release, reject, extend."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from commands import Run

import mq
from mq.cli import queue as queue_commands
from mq.cli.queue import OPTIONS, create
from mq.engine import commands

# ── queues ─────────────────────────────────────────────────────────────────────────


def options(store: Path, name: str) -> mq.QueueOptions:
    with mq.open(store, read_only=True) as broker:
        assert name in broker.queues()
        return broker.queue(name).options()


def test_every_option_of_the_library_can_be_given() -> None:
    assert len(OPTIONS) == len(mq.QueueOptions.__annotations__)
    assert mq.QueueOptions.__annotations__.keys() <= {param.name for param in create.params}


def test_a_queue_is_made_with_its_options_and_changed(run: Run, store: Path) -> None:
    result = run(
        "queue", "create", "odd", "--visibility-timeout", "90s", "--max-attempts", "5", "--backoff",
        "initial=2s", "--backoff", "maximum=10m", "--dead-letter", "grave", "--ttl", "2d", "--expired",
        "dead_letter", "--max-length", "100", "--max-bytes", "1M", "--overflow", "drop_oldest",
        "--dedup-window", "1h", "--delivery", "at_most_once", "--delete-when-idle", "3d",
        "--delete-when-abandoned", "4d", "--delay", "1.5",
    )  # fmt: skip
    assert result.exit_code == 0 and result.stdout.startswith("odd made: visibility timeout 1.5 min; ")
    made: mq.QueueOptions = {
        "visibility_timeout": 90, "max_attempts": 5, "backoff": mq.Backoff(initial=2, maximum=600),
        "dead_letter": "grave", "ttl": 172_800, "expired": "dead_letter", "max_length": 100,
        "max_bytes": 1 << 20, "overflow": "drop_oldest", "dedup_window": 3600, "delivery": "at_most_once",
        "delete_when_idle": 259_200, "delete_when_abandoned": 345_600, "delay": 1.5,
    }  # fmt: skip
    assert options(store, "odd") == made
    result = run("queue", "set", "odd", "--max-attempts", "none", "--backoff", "factor=3", "--json")
    found = json.loads(result.stdout)
    assert found["options"]["backoff"] == {"initial": 2, "factor": 3, "maximum": 600, "jitter": 0.1}
    changed = made | {"max_attempts": None, "backoff": mq.Backoff(2, 3, 600)}
    assert options(store, "odd") == changed


def test_a_plain_queue_is_made_and_not_twice(run: Run, store: Path) -> None:
    assert run("queue", "create", "mail").stdout == "mail made: visibility timeout 30 s\n"
    with mq.open(store, read_only=True) as broker:
        assert broker.queues() == ["mail"]
    again = run("queue", "create", "mail", "--ttl", "5")
    assert (again.exit_code, again.stdout) == (1, "") and "mq queue set" in again.stderr
    assert options(store, "mail")["ttl"] is None


def test_a_queue_is_paused_and_resumed(run: Run, store: Path, filled: list[int]) -> None:
    run("queue", "create", "other")
    assert run("queue", "pause", "mail", "other", "mail").stdout == "mail paused\nother paused\n"
    assert run("receive", "mail").exit_code == 3
    assert json.loads(run("queue", "resume", "mail", "--json").stdout) == {"queue": "mail", "paused": False}
    assert run("receive", "mail", "-n", "1").exit_code == 0


def test_nothing_is_paused_if_one_is_not_there(run: Run, store: Path, filled: list[int]) -> None:
    assert run("queue", "pause", "mail", "mial").exit_code == 1
    with mq.open(store, read_only=True) as broker:
        assert not broker.queue("mail").stats().paused


@pytest.mark.parametrize("in_flight, gone, left", [([], 2, 1), (["--in-flight"], 3, 0)])
def test_a_queue_is_emptied(
    run: Run, store: Path, filled: list[int], in_flight: list[str], gone: int, left: int
) -> None:
    run("receive", "mail", "--no-ack", "-n", "1")
    result = run("queue", "purge", "mail", "--yes", *in_flight)
    assert result.stdout == f"{gone} messages of mail dropped\n"
    assert ("1 message in flight stay" in result.stderr) == (left == 1)
    with mq.open(store, read_only=True) as broker:
        stats = broker.queue("mail").stats()
        assert (stats.ready, stats.in_flight) == (0, left)
    assert run("queue", "purge", "mail").exit_code == 0, "of an empty queue nothing is asked"


def test_what_comes_after_a_look_that_found_nothing_is_not_purged(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("queue", "create", "mail")
    see = queue_commands._see

    def see_and_publish(found: mq.Queue[Any], in_flight: bool) -> object:
        seen = see(found, in_flight)
        with mq.open(store) as broker:
            broker.queue("mail").publish("late")
        return seen

    monkeypatch.setattr(queue_commands, "_see", see_and_publish)
    result = run("queue", "purge", "mail")
    assert (result.exit_code, result.stdout) == (0, "0 messages of mail dropped\n")
    with mq.open(store, read_only=True) as broker:
        assert broker.queue("mail").stats().ready == 1


@pytest.mark.parametrize("verb", ["purge", "delete"])
def test_what_came_behind_the_question_does_not_go_with_it(
    run: Run, store: Path, filled: list[int], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    asked: list[str] = []
    does = getattr(commands, verb)

    def do(*args: Any, **options: Any) -> Any:
        if len(asked) == 1:
            with mq.open(store) as broker:
                broker.queue("mail").publish("late")
        return does(*args, **options)

    monkeypatch.setattr(queue_commands, "confirm", lambda what, yes: asked.append(what))
    monkeypatch.setattr(commands, verb, do)
    result = run("queue", verb, "mail")
    assert result.exit_code == 0 and "holds more" in result.stderr
    assert [what.count("3 messages") for what in asked] == [1, 0] and "4 messages" in asked[1]


def test_a_queue_is_deleted(run: Run, store: Path, filled: list[int]) -> None:
    result = run("queue", "delete", "mail", "--yes", "--json")
    assert json.loads(result.stdout) == {"queue": "mail", "deleted": True, "messages": 3}
    with mq.open(store, read_only=True) as broker:
        assert broker.queues() == []


def test_a_queue_gets_another_name(run: Run, store: Path, filled: list[int]) -> None:
    run("queue", "create", "other")
    result = run("queue", "rename", "mail", "letters", "--json")
    assert json.loads(result.stdout) == {"queue": "letters", "before": "mail"}
    with mq.open(store, read_only=True) as broker:
        assert broker.queues() == ["letters", "other"] and broker.queue("letters").stats().ready == 3
    for new in ("other", ""):
        assert run("queue", "rename", "letters", new).exit_code == 2
    assert run("queue", "rename", "mail", "x").exit_code == 1


@pytest.mark.parametrize("verb", ["set", "pause", "resume", "purge", "delete", "rename"])
@pytest.mark.parametrize("where", ["no queue", "no store"])
def test_what_is_not_there_is_not_made(run: Run, store: Path, verb: str, where: str) -> None:
    if where == "no queue":
        run("queue", "create", "mail")
    more = {"set": ["--ttl", "5"], "purge": ["--yes"], "delete": ["--yes"], "rename": ["new"]}.get(verb, [])
    result = run("queue", verb, "mial", *more)
    assert (result.exit_code, result.stdout) == (1, "")
    assert ("there are: mail" if where == "no queue" else "there is no store here") in result.stderr
    assert store.exists() == (where == "no queue")
    if where == "no queue":
        assert [json.loads(line)["queue"] for line in run("queues", "--json").stdout.splitlines()] == ["mail"]


# ── what waits ─────────────────────────────────────────────────────────────────────


def test_messages_that_wait_are_cancelled(run: Run, store: Path, filled: list[int]) -> None:
    run("receive", "mail", "--no-ack", "-n", "1")
    result = run("cancel", "mail", str(filled[1]), str(filled[0]), "--yes")
    assert (result.exit_code, result.stdout) == (1, f"{filled[1]} cancelled\n")
    assert result.stderr == f"mq: message {filled[0]} stays as it is: it is in flight, or not in mail\n"
    with mq.open(store, read_only=True) as broker:
        assert [message.id for message in broker.queue("mail").peek()] == [filled[2]]


def test_messages_that_wait_are_rescheduled(run: Run, store: Path, filled: list[int]) -> None:
    first, second, _ = map(str, filled)
    assert run("reschedule", "mail", first, "--at", "2040-01-01T00:00Z").exit_code == 0
    found = json.loads(run("reschedule", "mail", second, "--delay", "1h", "--json").stdout)
    assert found == {"queue": "mail", "id": filled[1], "rescheduled": True}
    with mq.open(store, read_only=True) as broker:
        later, far = broker.queue("mail").peek(state="delayed")
        assert (later.id, far.due_at) == (filled[1], datetime.fromisoformat("2040-01-01T00:00Z"))
    assert run("reschedule", "mail", first, second).exit_code == 0
    assert len(run("peek", "mail").stdout.splitlines()) == 4
    assert run("reschedule", "mail", "1").exit_code == 1


# ── receipts ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def taken(run: Run, filled: list[int]) -> str:
    """The messages of `mail` as `receive --no-ack --json` prints them."""
    return run("receive", "mail", "--no-ack", "--json").stdout


def counts(store: Path) -> dict[str, int]:
    with mq.open(store, read_only=True) as broker:
        stats = broker.queue("mail").stats()
        dead = broker.queue("mail.dead").stats()
        return {name: count for name, count in stats._asdict().items() if count} | {"dead": dead.ready}


@pytest.mark.parametrize(
    "verb, options, after",
    [
        ("ack", [], {"acked": 3}),
        ("nack", ["--delay", "1h", "--reason", "no route"], {"delayed": 3, "failed": 3}),
        ("release", [], {"ready": 3}),
        ("reject", ["--reason", "hopeless"], {"dead_lettered": 3, "failed": 3}),
        ("extend", ["--for", "1h"], {"in_flight": 3}),
    ],
)
@pytest.mark.parametrize("way", ["objects", "lines", "arguments"])
def test_deliveries_are_settled_by_their_receipts(
    run: Run, store: Path, taken: str, verb: str, options: list[str], after: dict[str, int], way: str
) -> None:
    receipts = [json.loads(line)["receipt"] for line in taken.splitlines()]
    if way == "arguments":
        result = run(verb, *receipts, *options, "--json", input=b"")
    else:
        lines = taken if way == "objects" else "\n".join(["", *receipts, ""])
        result = run(verb, *options, "--json", input=lines.encode())
    assert result.exit_code == 0
    assert json.loads(result.stdout)["stale"] == []
    assert counts(store).items() >= after.items()
    if verb == "nack":
        assert "no route" in run("peek", "mail", "--state", "delayed").stdout


def test_all_that_can_be_settled_is_and_the_rest_is_named(
    run: Run, store: Path, filled: list[int], taken: str
) -> None:
    first, *others = taken.splitlines()
    assert run("ack", input=first.encode()).stdout == "1 message acked\n"
    result = run("ack", input=taken.encode())
    assert (result.exit_code, result.stdout) == (1, "2 messages acked\n")
    assert f"message {filled[0]}: settled or delivered again since" in result.stderr
    assert len(others) == 2 and counts(store)["acked"] == 3


@pytest.mark.parametrize(
    "given, code, said",
    [
        (b'{"id": 5}\n', 1, "line 1: no receipt"),
        (b"{bad\n", 1, "line 1: no receipt"),
        (b"\xff\n", 1, "line 1: no receipt"),
        (b"nonsense\n", 2, "neither a delivery nor a receipt"),
        (b"1-2-3-c0ffee0001\n", 2, "another store's"),
    ],
)
def test_what_is_no_receipt_settles_nothing(
    run: Run, store: Path, taken: str, given: bytes, code: int, said: str
) -> None:
    result = run("ack", input=taken.encode() + given if code == 2 else given)
    assert result.exit_code == code and said in result.stderr and result.stderr.count("\n") == 1
    assert counts(store)["in_flight"] == 3


def test_receipts_are_told_on_the_side(run: Run, filled: list[int]) -> None:
    result = run("receive", "mail", "--no-ack", "-v", "-n", "1")
    assert result.stdout == "one\n"
    receipt = result.stderr.rpartition("receipt ")[2].strip()
    assert f"message {filled[0]}, text, 3 B, attempt 1, " in result.stderr
    assert run("release", receipt).stdout == "1 message released\n"
