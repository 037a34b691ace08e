"""mq move, copy, import: what has no room, what is cut off, what others do meanwhile; and the ways back."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands import Run, Start

import mq
from mq.delivery.transfer import Transfer
from mq.engine import outgoing, passage

COUNT = 600  # messages: more than two slices


class Cut(Exception):
    """The move ends here, as by a kill behind a slice."""


def cut(_: int) -> None:
    raise Cut


def bodies(store: Path | str, queue: str = "mail") -> list[Any]:
    """Of all that is in the queue, in order; none if it is not there."""
    with mq.open(store, read_only=True) as broker:
        found = broker.queue(queue)
        return [each.body for state in ("ready", "delayed") for each in found.peek(9999, state=state)]  # type: ignore[arg-type]


@pytest.fixture
def many(store: Path) -> list[str]:
    """Bodies of the messages in `mail`."""
    found = [f"{number:04}" for number in range(COUNT)]
    with mq.open(store, sync="never") as broker:
        broker.queue("mail").publish_many(found)
    return found


@pytest.fixture
def cut_off(store: Path, many: list[str]) -> list[str]:
    """A move to `other` that was cut off: a slice is there, all is under way; the bodies."""
    with mq.open(store) as one, mq.open("other") as two, pytest.raises(Cut):
        passage.move(one._store, two._store, "mail", "mail", None, cut)
    assert len(bodies("other")) == 256 and len(bodies(store, "mail.moving")) == COUNT
    return many


# ── no room ────────────────────────────────────────────────────────────────────────

LIMITS: list[dict[str, Any]] = [
    {"max_length": 101, "overflow": "reject"},
    {"max_bytes": 404, "overflow": "drop_oldest"},
]  # fmt: skip
COMMANDS = [["move", "mail"], ["copy", "mail"], ["import", "exported", "--resume"]]


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: args[0])
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_a_queue_with_less_room_than_a_slice_gets_what_it_has_room_for(
    run: Run, store: Path, many: list[str], limits: dict[str, Any], args: list[str]
) -> None:
    with mq.open("other") as broker:
        broker.queue("mail", **limits).publish("mine")
    Path("exported").write_bytes(run("export").stdout_bytes)
    line = [*args, "-s", "other"] if args[0] == "import" else [*args, "--to-store", "other"]
    result = run(*line)
    assert result.exit_code == 1 and "has no room for the next message, 4 bytes" in result.stderr
    assert bodies("other") == ["mine", *many[:100]]
    assert bodies(store) == many[100 if args[0] == "move" else 0 :]
    with mq.open(store, read_only=True) as broker:
        assert broker.queues() == ["mail"]  # nothing is under way
    run("queue", "set", "mail", "--max-length", "none", "--max-bytes", "none", "-s", "other")
    assert run(*line).exit_code == 0 and bodies("other") == ["mine", *many]


def test_what_the_target_refuses_goes_back_also_into_a_full_queue(store: Path, many: list[str]) -> None:
    with mq.open(store) as one, mq.open("other") as two:
        two.queue("mail", max_length=300)

        def fill(_: int) -> None:
            one.queue("mail", max_length=1)

        with pytest.raises(mq.QueueFull, match="'mail' has no room"):
            passage.move(one._store, two._store, "mail", "mail", None, fill)
    assert (bodies("other"), bodies(store)) == (many[:300], many[300:])


# ── cut off: on, or back ───────────────────────────────────────────────────────────


def test_what_is_under_way_is_not_dropped_renamed_received_or_replayed(
    run: Run, store: Path, cut_off: list[str]
) -> None:
    for args in (
        ["delete", "mail", "--yes"], ["delete", "mail.moving", "--yes"], ["rename", "mail", "letters"],
        ["rename", "mail.moving", "letters"], ["resume", "mail.moving"], ["purge", "mail.moving", "--yes"],
    ):  # fmt: skip
        result = run("queue", *args)
        assert result.exit_code == 2 and "600 messages of 'mail' under way" in result.stderr
        assert "`mq move --back`" in result.stderr
    with mq.open(store) as broker:
        moving = broker.queue("mail.moving")
        (first,) = moving.peek(1)
        of_first = [partial(moving.cancel, first.id), partial(moving.reschedule, first.id, delay=9)]
        for do in (broker.queue("mail").delete, moving.replay, moving.purge, *of_first):
            with pytest.raises(mq.UsageError, match="under way"):
                do()
        assert moving.receive(timeout=0) is None
    for args in (["export"], ["copy", "--to-store", "copy"]):
        assert "mail.moving: a move of mail to " in run(*args).stderr
    elsewhere = run("move", "mail", "--to-store", "third")
    assert elsewhere.exit_code == 2 and "left by a move that was cut off" in elsewhere.stderr
    assert "mail --back" in elsewhere.stderr
    for args in (["mail.moving", "mail"], ["mail", "mail.moving"]):
        here = run("move", *args)
        assert here.exit_code == 2 and "left by a move that was cut off" in here.stderr
    assert run("move", "mail", "--to-store", "other").exit_code == 0
    assert (bodies("other"), bodies(store)) == (cut_off, [])
    assert run("queue", "rename", "mail", "letters").exit_code == 0


def test_what_is_under_way_goes_back_but_for_what_is_there(run: Run, store: Path, cut_off: list[str]) -> None:
    third = run("publish", "x", "y", "-s", "third")
    assert third.exit_code == 0
    wrong = run("move", "mail", "--back", "--to-store", "third")
    assert wrong.exit_code == 2 and "is another store" in wrong.stderr
    result = run("move", "mail", "--back", "--to-store", "other", "--json")
    assert json.loads(result.stdout) == {"queue": "mail", "back": COUNT - 256}
    assert (bodies("other"), bodies(store)) == (cut_off[:256], cut_off[256:])
    assert run("move", "mail", "--back", "--to-store", "other").stdout == "0 messages put back to mail\n"
    assert run("move", "mail", "--to-store", "other").exit_code == 0
    assert (bodies("other"), bodies(store)) == (cut_off, [])


def test_what_is_under_way_to_a_store_that_is_gone_goes_back(
    run: Run, store: Path, cut_off: list[str]
) -> None:
    shutil.rmtree("other")
    asked = run("move", "mail", "--back")
    assert asked.exit_code == 2 and "256 of them as well" in asked.stderr and "--yes" in asked.stderr
    assert run("move", "mail", "--back", "--yes").stdout == "600 messages put back to mail\n"
    assert bodies(store) == cut_off
    assert run("move", "mail", "--back", "-n", "3").exit_code == 2


def test_a_way_back_that_is_cut_off_is_gone_to_its_end(run: Run, store: Path, cut_off: list[str]) -> None:
    with mq.open(store) as one, mq.open("other") as two:
        found = outgoing.moving(one._store, "mail")
        assert found
        going = passage.Passage(one._store, two._store, "mail", "mail")
        going.goal = found.goal
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
            patch.setattr(passage, "put_back", lambda *_: cut(0))
            going.give_back()
        with pytest.raises(mq.MqError, match="another process puts back"):
            going.carry(lambda _: None)  # a run that was in the middle of it
    assert run("move", "mail", "--to-store", "other").exit_code == 0
    assert (bodies("other"), bodies(store)) == (cut_off, [])


def test_a_target_that_was_renamed_meanwhile_gets_nothing_twice(
    run: Run, store: Path, cut_off: list[str]
) -> None:
    run("queue", "rename", "mail", "post", "-s", "other")
    for args in ([], ["--back"]):
        result = run("move", "mail", "--to-store", "other", *args)
        assert result.exit_code == 1 and "deleted or renamed there" in result.stderr
    run("queue", "delete", "mail", "--yes", "-s", "other")
    run("queue", "rename", "post", "mail", "-s", "other")
    assert run("move", "mail", "--to-store", "other").exit_code == 0
    assert (bodies("other"), bodies(store)) == (cut_off, [])


def test_a_move_goes_on_if_the_queue_is_gone(run: Run, store: Path, cut_off: list[str]) -> None:
    """As a temporary queue is that is empty: all it held is under way."""
    with mq.open(store) as one, pytest.MonkeyPatch.context() as patch:
        patch.setattr("mq.engine.commands.refuse_under_way", lambda *_: None)
        one.queue("mail").delete()
    result = run("move", "mail", "--to-store", "other")
    assert result.exit_code == 0 and "600 messages under way, which go first" in result.stderr
    assert bodies("other") == cut_off


# ── two at once ────────────────────────────────────────────────────────────────────

WAITING = [  # a command that says when a slice is done, and waits for a line before it goes on
    sys.executable, "-c",
    "import sys; from mq.cli import main; from mq.cli.progress import Progress; Progress.add ="
    " lambda *_: (print('.', flush=True), sys.stdin.read(1)); main()",
]  # fmt: skip


@contextmanager
def moving(start: Start) -> Iterator[subprocess.Popen[bytes]]:
    """A move to `other` by another process, in the middle."""
    process = start("move", "mail", "--to-store", "other", stdin=subprocess.PIPE, command=WAITING)
    assert process.stdout and process.stdout.read(2) == b".\n"
    yield process
    process.send_signal(signal.SIGINT)
    process.communicate()


def test_a_second_move_says_which_process_is_at_it(
    start: Start, run: Run, store: Path, many: list[str]
) -> None:
    with moving(start) as process:
        elsewhere = run("move", "mail", "--to-store", "third")
        assert elsewhere.exit_code == 2 and f"process {process.pid} moves them now" in elsewhere.stderr
        back = run("move", "mail", "--back", "--yes")
        assert back.exit_code == 1 and f"process {process.pid} moves them now" in back.stderr
        second = run("move", "mail", "--to-store", "other")
        assert second.exit_code == 0 and f"process {process.pid} moves mail, too" in second.stderr
        assert (bodies("other"), bodies(store)) == (many, [])
        process.communicate(b"\n" * 9)
        assert process.returncode == 0
    assert bodies("other") == many


def test_a_move_whose_place_another_one_has_taken_brings_nothing_twice(store: Path, many: list[str]) -> None:
    """It slept between two rounds, when nothing was under way."""
    with mq.open(store) as one, mq.open("other") as two, mq.open("third") as three:
        sleeper = passage.Passage(one._store, two._store, "mail", "mail")
        two.queue("mail", max_attempts=9)
        sleeper.begin(mq.delivery.options.Declaration(name="mail.moving", paused=True))
        with pytest.raises(Cut):
            passage.move(one._store, three._store, "mail", "mail", None, cut)
        transfer = Transfer("mail.moving", 1 << 60, run=sleeper.goal.run)
        assert not passage._carry_all(sleeper, transfer, None, lambda _: None)
        with pytest.raises(mq.UsageError, match="left by a move"):
            passage.move(one._store, two._store, "mail", "mail", None, lambda _: None)
        assert passage.move(one._store, three._store, "mail", "mail", None, lambda _: None) == COUNT - 256
    assert (bodies("third"), bodies("other")) == (many, [])


# ── names ──────────────────────────────────────────────────────────────────────────


def test_a_name_too_long_for_what_is_under_way_is_refused_before_anything_moves(
    run: Run, store: Path
) -> None:
    name = "n" * 250
    run("publish", name, "x")
    result = run("move", name, "--to-store", "other")
    assert result.exit_code == 2 and "2 bytes too long here: rename the queue first" in result.stderr
    with mq.open("other") as other:
        assert other.queues() == [] and bodies(store, name) == ["x"]
    assert run("move", name, "short").exit_code == 0 and bodies(store, "short") == ["x"]


# ── queues that are made ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", ["move", "copy"])
def test_a_queue_of_the_same_store_is_made_with_the_options(
    run: Run, store: Path, filled: list[int], command: str
) -> None:
    with mq.open(store) as broker:
        broker.queue("mail", max_attempts=7).subscribe("news.#")
    result = run(command, "mail", "archive")
    assert result.exit_code == 0 and "made the queue archive, with the options of mail" in result.stderr
    assert "made the queue" not in run(command, "mail", "archive").stderr
    with mq.open(store) as broker:
        archive = broker.queue("archive")
        assert archive.options()["max_attempts"] == 7 and archive.stats().ready == 3
        assert broker.subscriptions() == [("news.#", "mail")]
        broker.topic("news.today").publish("x")
        assert archive.stats().ready == 3


# ── what comes late, and other exports ─────────────────────────────────────────────


def test_a_copy_says_if_it_may_have_missed_what_came_late_though_the_counts_agree(
    run: Run, store: Path
) -> None:
    with mq.open(store) as broker:
        mail, dead = broker.queue("mail"), broker.queue("mail.dead")
        mail.publish("late")
        dead.publish_many(["a", "b"])
    args = ("copy", "--to-store", "other", "--json")
    assert run(*args).exit_code == run(*args).exit_code == 0
    with mq.open(store) as broker:
        first = broker.queue("mail.dead").receive(timeout=0)
        late = broker.queue("mail").receive(timeout=0)
        assert first and late
        first.ack()
        late.reject()
    for _ in range(2):  # it goes on to say so
        result = run(*args)
        found = {each["queue"]: each for each in map(json.loads, result.stdout.splitlines())}
        assert (found["mail.dead"]["missing"], found["mail.dead"]["unsure"]) == (0, 1)
        assert found["mail"]["unsure"] == 0
        assert result.exit_code == 1 and "perhaps not copied: 1 message at most" in result.stderr
    run("publish", "mail.dead", "new")
    assert run(*args).exit_code == 1
    assert run(*args, "--again").exit_code == 0 and "late" in bodies("other", "mail.dead")
    assert run(*args).exit_code == 0


def test_a_copy_of_what_is_used_in_order_is_sure(run: Run, store: Path, many: list[str]) -> None:
    args = ("copy", "mail", "--to-store", "other")
    assert run(*args).exit_code == 0
    for more in (["x", "y"], []):
        with mq.open(store) as broker:
            mail = broker.queue("mail")
            mail.ack_many(mail.receive_many(10, timeout=0))
            mail.publish_many(more)
        assert run(*args).exit_code == 0


def test_an_import_does_not_go_on_with_another_export(run: Run, store: Path, filled: list[int]) -> None:
    first = run("export").stdout_bytes
    args = ("import", "-s", "other")
    run(*args, input=first)
    with mq.open(store) as broker:
        broker.topic("news", retain_count=9).publish("n")
        broker.queue("mail").publish("new")
    second = run("export").stdout_bytes
    for option in ([], ["--resume"]):
        result = run(*args, *option, input=second)
        assert result.exit_code == 2 and "mail: another export of the same store" in result.stderr
        assert "nothing was stored" in result.stderr and len(bodies("other")) == 3
    again = second.splitlines(keepends=True)
    cut_off = run(*args, "--again", input=b"".join(again[:4]))
    assert cut_off.exit_code == 1 and "cut off behind line 4" in cut_off.stderr
    assert run(*args, "--resume", input=second).exit_code == 0
    assert len(bodies("other")) == 3 + 4
    assert run(*args, "--resume", input=first).exit_code == 2
    odd = second.replace(b'"id":"', b'"id":"a b', 1)
    assert run(*args, "--again", input=odd).exit_code == 2
