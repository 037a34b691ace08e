"""mq dead: dead letters, by whichever name, reason and way they are chosen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from commands import Run, contents

import mq
from mq.engine import commands
from mq.engine.turn import Turn


@pytest.fixture
def dead(store: Path) -> list[int]:
    """Three dead letters of `mail` and one of `orders`, which shares no queue with them; the first three."""
    with mq.open(store) as broker:
        mail = broker.queue("mail", max_attempts=1)
        ids = [mail.publish(f"letter {number}") for number in range(3)]
        for reason in ("Timeout: 5 s", "Timeout: 9 s", "no\nroute"):
            mail.receive(timeout=0).nack(reason=reason)  # type: ignore[union-attr]
        orders = broker.queue("orders", dead_letter="grave")
        orders.publish({"id": 1})
        orders.receive(timeout=0).reject("hopeless")  # type: ignore[union-attr]
    return ids


def ready(store: Path, name: str) -> list[object]:
    with mq.open(store, read_only=True) as broker:
        return [message.body for message in broker.queue(name).peek(99)]


def objects(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_all_queues_of_dead_letters_are_listed(run: Run, store: Path, dead: list[int]) -> None:
    before = contents(store)
    header, first, second = run("dead").stdout.splitlines()
    assert header.split() == ["queue", "letters", "oldest", "from", "last", "reason"]
    assert first.split()[:2] == ["grave", "1"] and first.endswith("orders  hopeless (1)")
    assert second.split()[:2] == ["mail.dead", "3"] and second.endswith("mail    no\\nroute (1), and 2 more")
    grave, mail = objects(run("dead", "--json"))
    assert (grave["queue"], grave["letters"], grave["origins"]) == ("grave", 1, {"orders": 1})
    assert (mail["letters"], mail["in_flight"], mail["origins"]) == (3, 0, {"mail": 3})
    reasons = mail["reasons"]
    assert {each["reason"]: each["letters"] for each in reasons} == {  # type: ignore[attr-defined]
        "no\nroute": 1, "Timeout: 9 s": 1, "Timeout: 5 s": 1,
    }  # fmt: skip
    assert contents(store) == before


def test_without_dead_letters_it_says_so(run: Run, filled: list[int]) -> None:
    result = run("dead")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "mq: data: no dead letters\n")
    assert run("dead", "--json").stdout == ""


@pytest.mark.parametrize("name", ["mail", "mail.dead"])
def test_one_is_shown_with_all_that_is_known_of_it(run: Run, dead: list[int], name: str) -> None:
    text = run("dead", "show", name, str(dead[2])).stdout
    rows = [line.split(None, 1) for line in text.splitlines()]
    assert ["message", str(dead[2])] in rows and ["body", "text, 8 B"] in rows
    assert "died in    mail\n" in text and "attempt 1  no\\nroute\n" in text and text.endswith("  letter 2\n")
    (found,) = objects(run("dead", "show", name, str(dead[2]), "--json"))
    assert (found["id"], found["origin"], found["body"]) == (dead[2], "mail", "letter 2")


def test_shown_are_the_first_ones_or_those_of_a_reason(run: Run, dead: list[int]) -> None:
    result = run("dead", "show", "mail", "-n", "2", "--json")
    assert [each["id"] for each in objects(result)] == dead[:2]
    assert "1 more; -n shows more" in run("dead", "show", "mail", "-n", "2").stderr
    shown = objects(run("dead", "show", "mail", "--reason", "Timeout*", "--json"))
    assert [each["id"] for each in shown] == dead[:2]
    nothing = run("dead", "show", "mail", "--reason", "Time")
    assert (nothing.exit_code, nothing.stderr) == (3, "mq: mail.dead: no such dead letters\n")


@pytest.mark.parametrize(
    "how, back",
    [
        (["{1}"], ["letter 1"]),
        (["{2}", "{0}", "{2}"], ["letter 0", "letter 2"]),
        (["--reason", "Timeout*"], ["letter 0", "letter 1"]),
        (["--reason", "nothing like it"], []),
        (["--all"], ["letter 0", "letter 1", "letter 2"]),
    ],
    ids=" ".join,
)
def test_replayed_are_those_that_were_named(
    run: Run, store: Path, dead: list[int], how: list[str], back: list[str]
) -> None:
    result = run("dead", "replay", "mail", *(each.format(*dead) for each in how), "--json")
    assert result.exit_code == 0
    assert objects(result) == [{"queue": "mail.dead", "replayed": len(back), "to": None}]
    assert ready(store, "mail") == back
    assert len(ready(store, "mail.dead")) == 3 - len(back)


def test_they_may_go_elsewhere(run: Run, store: Path, dead: list[int]) -> None:
    assert run("dead", "replay", "mail", "--all", "--to", "mial").exit_code == 1
    run("queue", "create", "second")
    assert run("dead", "replay", "mail", "--all", "--to", "second").stdout == (
        "3 messages of mail.dead replayed to second\n"
    )
    assert len(ready(store, "second")) == 3


def test_what_never_died_elsewhere_stays_and_what_is_in_flight_too(
    run: Run, store: Path, dead: list[int]
) -> None:
    with mq.open(store) as broker:
        queue = broker.queue("mail.dead")
        queue.publish("mine")
        queue.receive(timeout=0)
    result = run("dead", "replay", "mail", str(dead[0]), str(dead[1]))
    assert (result.exit_code, result.stdout) == (1, "1 message of mail.dead replayed\n")
    assert "1 stay: they are in flight" in result.stderr
    result = run("dead", "replay", "mail", "--all")
    assert result.stdout == "1 message of mail.dead replayed\n" and "--to" in result.stderr
    assert ready(store, "mail.dead") == ["mine"]


@pytest.mark.parametrize("verb", ["replay", "purge"])
@pytest.mark.parametrize("how", [[], ["1", "--all"], ["--all", "--reason", "x"]], ids=" ".join)
def test_it_has_to_be_said_which_in_one_way(
    run: Run, store: Path, dead: list[int], verb: str, how: list[str]
) -> None:
    result = run("dead", verb, "mail", *how)
    assert result.exit_code == 2 and "say which" in result.stderr
    assert len(ready(store, "mail.dead")) == 3


@pytest.mark.parametrize("verb", ["replay", "purge"])
def test_an_id_that_is_not_there_changes_nothing(run: Run, store: Path, dead: list[int], verb: str) -> None:
    result = run("dead", verb, "mail", str(dead[0]), "4711")
    assert result.exit_code == 1 and "no dead letter 4711" in result.stderr
    assert len(ready(store, "mail.dead")) == 3


@pytest.mark.parametrize(
    "how, left", [(["--all"], 0), (["{0}"], 2), (["--reason", "Timeout*"], 1), (["--reason", "x"], 3)]
)
def test_dropped_are_those_that_were_named_and_only_if_it_is_said_so(
    run: Run, store: Path, dead: list[int], how: list[str], left: int
) -> None:
    args = ["dead", "purge", "mail", *(each.format(*dead) for each in how)]
    refused = run(*args)
    assert refused.exit_code == (2 if left < 3 else 0)
    assert len(ready(store, "mail.dead")) == 3
    result = run(*args, "--yes", "--json")
    assert objects(result) == [{"queue": "mail.dead", "dropped": 3 - left}]
    assert len(ready(store, "mail.dead")) == left


@pytest.mark.parametrize("how", [["--all"], ["--reason", "*"]], ids=" ".join)
def test_live_messages_of_a_queue_that_takes_dead_letters_are_not_dropped(
    run: Run, store: Path, how: list[str]
) -> None:
    with mq.open(store) as broker:
        alive = broker.queue("mail").publish("alive")
        orders = broker.queue("orders", dead_letter="mail")
        orders.publish("dead")
        orders.receive(timeout=0).reject("hopeless")  # type: ignore[union-attr]
    assert "to drop 1 dead letter of mail" in run("dead", "purge", "mail", *how).stderr
    result = run("dead", "purge", "mail", *how, "--yes")
    assert result.stdout == "1 message of mail dropped\n"
    assert "1 message did not die in another queue, and stay" in result.stderr
    assert ready(store, "mail") == ["alive"]
    assert run("dead", "purge", "mail", str(alive), "--yes").stdout == "1 message of mail dropped\n"


def test_live_messages_of_such_a_queue_are_neither_listed_nor_shown(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        broker.queue("mail").publish_many(["alive"] * 5)
        broker.queue("orders", dead_letter="mail")
        assert run("dead").stderr == "mq: data: no dead letters\n"
        assert run("dead", "show", "mail").exit_code == 3
        ids = broker.queue("orders").publish_many(["dead", "taken"])
        for _ in ids:
            broker.queue("orders").receive(timeout=0).reject("hopeless")  # type: ignore[union-attr]
        for _ in range(7 - 1):
            broker.queue("mail").receive(timeout=0)
    (found,) = objects(run("dead", "--json"))
    assert [found[key] for key in ("letters", "in_flight", "others")] == [2, 1, 5]
    assert found["reasons"] == [{"reason": "hopeless", "letters": 2, "last_at": found["last_failed_at"]}]
    assert run("dead").stdout.splitlines()[1].split()[:2] == ["mail", "2"]
    assert [each["id"] for each in objects(run("dead", "show", "mail", "--json"))] == ids


@pytest.mark.parametrize("verb, does, option", [("purge", "drop", ["--yes"]), ("replay", "replay", [])])
def test_what_goes_is_decided_in_the_turn_in_which_it_goes(
    run: Run, store: Path, dead: list[int], monkeypatch: pytest.MonkeyPatch, verb: str, does: str,
    option: list[str],
) -> None:  # fmt: skip
    """Each moment at which another process may come in: before the turn, a letter dies again elsewhere."""
    take = Turn.take

    def come_in_first(turn: Turn, do: Callable[[], object]) -> object:
        monkeypatch.setattr(Turn, "take", take)
        subprocess.run([sys.executable, "-c", DIES_AGAIN], check=True, timeout=60)
        return take(turn, do)

    def do(*args: Any) -> int:
        monkeypatch.setattr(Turn, "take", come_in_first)
        return done(*args)

    done = getattr(commands, does)
    monkeypatch.setattr(commands, does, do)
    result = run("dead", verb, "mail", "--reason", "Timeout*", *option)
    assert result.stdout.startswith("1 message of mail.dead ")
    assert ready(store, "mail.dead") == ["letter 0", "letter 2"]


DIES_AGAIN = """
import mq
with mq.open("data") as broker:
    broker.queue("mail.dead").replay([broker.queue("mail.dead").peek()[0].id])
    broker.queue("mail").receive(timeout=0).nack(reason="a bug")
"""


@pytest.mark.parametrize(
    "name, code, said", [("mial", 1, "there are: grave, mail, mail.dead"), ("quiet", 3, "quiet.dead")]
)
def test_where_there_are_none(
    run: Run, store: Path, dead: list[int], name: str, code: int, said: str
) -> None:
    run("queue", "create", "quiet")
    for verb in (["show"], ["replay", "--all"], ["purge", "--all", "--yes"]):
        result = run("dead", verb[0], name, *verb[1:])
        assert (result.exit_code, result.stdout) == (code, "") and said in result.stderr


def test_json_in_front_of_the_verb_is_refused(run: Run, dead: list[int]) -> None:
    assert "--json comes behind the word show" in run("dead", "--json", "show", "mail").stderr
