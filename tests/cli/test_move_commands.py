"""mq export, import, copy, move: all that a message is goes along, none is lost or doubled."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import AT_ONCE, COMMAND, Run, Start, contents

import mq
from mq.delivery.transfer import Parcel
from mq.engine import incoming, outgoing, passage

NOT_ALIKE = {
    "id",
    "store_id",
    "at",
    "state",
}  # of an export and one of its import; what was in flight is ready


@pytest.fixture
def shop(store: Path) -> None:
    """A store with something of each sort."""
    with mq.open(store) as broker:
        mail = broker.queue("mail", max_attempts=2, visibility_timeout=90, backoff=mq.Backoff(2, 3, 40, 0))
        mail.publish_many(["one", b"\xff\x00", {"a": [1, 2.5, None]}, {"when": b"\x01", 3: float("nan")}, ""])
        for reason in ("first", "second"):
            delivery = mail.receive(timeout=0)
            assert delivery
            delivery.nack(delay=0, reason=reason)  # the second kills it
        delivery = mail.receive(timeout=0)
        assert delivery
        delivery.nack(delay=3600, reason="no route")
        assert mail.receive(timeout=0)  # in flight
        mail.publish("later", delay=7200, priority=9, group="g", headers={"k": "ü"}, dedup_id="d-1", ttl=9e5)
        gone = mail.publish("gone", dedup_id="d-2")
        assert mail.cancel(gone)
        mail.update_meta({"owner": "ada"})
        audit = broker.queue("audit", dead_letter="grave", delete_when_idle=86_400)
        audit.subscribe("shop.#", match={"source": "web"})
        broker.topic("shop.eu", retain_count=5).publish("sold", headers={"source": "web"}, dedup_id="t-1")
        audit.pause()
        broker.schedule("beat", "health", {"n": 1}, every=1e8, priority=3, ttl=60)
        broker.schedule("news", broker.topic("shop.eu"), "x", cron="30 6 1 1 *", tz="Europe/Berlin")


def lines(text: str) -> list[dict[str, Any]]:
    """The lines of an export, without what cannot be alike, and when there are none alike."""
    found = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in each.items() if key not in NOT_ALIKE} for each in found]


def messages(text: str) -> list[dict[str, Any]]:
    """The lines of messages, whole."""
    return [each for each in map(json.loads, text.splitlines()) if each["kind"] == "message"]


def count(store: Path | str, queue: str = "mail") -> int:
    with mq.open(store, read_only=True) as broker:
        stats = broker.queue(queue).stats()
        return stats.ready + stats.delayed + stats.in_flight


# ── export and import ──────────────────────────────────────────────────────────────


def test_an_export_that_is_imported_and_exported_is_the_same(run: Run, store: Path, shop: None) -> None:
    before = contents(store)
    first = run("export")
    assert first.exit_code == 0 and contents(store) == before
    done = run("import", "-", "--store", "other", input=first.stdout_bytes)
    assert (done.exit_code, done.stdout) == (0, "8 messages of 4 queues imported\n")
    again = run("export", "--store", "other")
    assert lines(again.stdout) == lines(first.stdout)
    kinds = {each["kind"] for each in lines(first.stdout)}
    assert kinds == {"export", "queue", "topic", "message", "dedup", "schedule", "end"}


def test_what_is_imported_is_what_it_was(run: Run, store: Path, shop: None) -> None:
    run("import", "--store", "other", input=run("export").stdout_bytes)
    with mq.open(store, read_only=True) as one, mq.open("other") as two:
        assert two.queues() == one.queues() and two.subscriptions() == one.subscriptions()
        for name in one.queues():
            before, after = one.queue(name), two.queue(name)
            assert after.options() == before.options()
            assert after.stats().paused == before.stats().paused
            facts = {}
            for queue in (before, after):
                found = queue.peek(99) + queue.peek(99, state="delayed") + queue.peek(99, state="in_flight")
                facts[queue] = [
                    (each.raw, each._flags & 0x30, each.attempts, each.failures, each.origin, each.created_at,
                     each.first_received_at, each.expires_at, each.priority, each.group, each.headers,
                     each.topic, each.due_at if each.state == "delayed" else None)
                    for each in sorted(found, key=lambda each: each.id)
                ]  # fmt: skip
            assert facts[after] == facts[before]
        assert [each.state for each in two.queue("mail").peek(9, state="in_flight")] == []
        mail = two.queue("mail")
        held = mail.stats()
        for key in ("d-1", "d-2"):
            mail.publish("again", dedup_id=key)
        assert mail.stats()[:3] == held[:3]
        two.topic("shop.eu").publish("again", dedup_id="t-1")
        assert two.queue("mail.dead").replay() == 1
        assert [each.raw for each in two.topic("shop.eu").history()] == [b"sold"]
        assert [each.next_at for each in two.schedules()] == [each.next_at for each in one.schedules()]


def test_the_lines_of_messages_are_what_publish_takes(run: Run, store: Path, shop: None) -> None:
    exported = run("export", "mail").stdout.splitlines(keepends=True)
    messages = "".join(line for line in exported if '"kind":"message"' in line)
    assert run("publish", "again", "--json", input=messages.encode()).exit_code == 0
    assert count(store, "again") == count(store, "mail")


def test_an_import_is_not_repeated_by_mistake(run: Run, store: Path, filled: list[int]) -> None:
    exported = run("export").stdout_bytes
    args = ("import", "--store", "other")
    assert run(*args, input=exported).exit_code == 0
    second = run(*args, input=exported)
    assert second.exit_code == 2 and "--resume goes on" in second.stderr and count("other") == 3
    third = run(*args, "--resume", "--json", input=exported)
    assert json.loads(third.stdout) == {"queue": "mail", "topic": None, "stored": 0}
    assert "3 messages an earlier import had stored" in third.stderr and count("other") == 3
    assert run(*args, "--again", input=exported).exit_code == 0 and count("other") == 6
    both = run(*args, "--again", "--resume", input=exported)
    assert both.exit_code == 2 and count("other") == 6


def test_an_import_cut_off_at_any_line_goes_on(run: Run, store: Path, shop: None) -> None:
    whole = run("export").stdout_bytes.splitlines(keepends=True)
    for cut in range(1, len(whole)):
        args = ("import", "--store", f"other-{cut}")
        first = run(*args, input=b"".join(whole[:cut]))
        assert first.exit_code == 1 and f"cut off behind line {cut}" in first.stderr
        assert run(*args, "--resume", input=b"".join(whole)).exit_code == 0
        assert lines(run("export", "--store", f"other-{cut}").stdout) == lines(b"".join(whole).decode())


def test_an_import_that_is_killed_goes_on(run: Run, start: Start, store: Path) -> None:
    with mq.open(store, sync="never") as broker:
        broker.queue("mail").publish_many([f"{number:06}" * 100 for number in range(5000)])
    exported = store.parent / "exported"
    exported.write_bytes(run("export").stdout_bytes)
    read, write = os.pipe()
    process = start("import", "--store", "other", stdin=read)
    os.close(read)
    data = exported.read_bytes()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(data[: len(data) // 2])
        pipe.flush()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run("import", "exported", "--store", "other", "--resume").exit_code == 0
    with mq.open("other", read_only=True) as broker:
        bodies = [each.body for each in broker.queue("mail").peek(9999)]
    assert bodies == [f"{number:06}" * 100 for number in range(5000)]


def a_message(**changes: object) -> str:
    """A line of one, with some of it otherwise."""
    usual = {
        "kind": "message",
        "queue": "a",
        "id": 1,
        "created_at": "2030-01-01T00:00Z",
        "body_type": "text",
        "body": "",
    }
    return json.dumps(usual | changes)


def a_queue(**changes: object) -> str:
    return json.dumps({"kind": "queue", "queue": "a"} | changes)


BAD_LINES = {
    "not JSON": ("nonsense", "not a line that `mq export` writes"),
    "no kind": ("{}", "not a line that `mq export` writes"),
    "half a line": ('{"kind":"message","id":9', "not a line that `mq export` writes"),
    "another export": (
        '{"kind":"export","version":1,"mq":"","store_id":"","at":"","queues":[]}', "another export"
    ),
    "a wrong name": (a_queue(queue="a\a"), "control or unprintable"),
    "a wrong option": (a_queue(options={"ttl": -1}), "ttl"),
    "an unknown option": (a_queue(options={"speed": 1}), "no queue option"),
    "a wrong pattern": (a_queue(subscriptions={"a..b": {}}), "empty word"),
    "a wrong backoff": (a_queue(options={"backoff": {"speed": 1}}), "backoff"),
    "a naive time": (a_message(created_at="2030-01-01T00:00"), "no time with its zone"),
    "no time": (a_message(created_at="x"), "no time"),
    "no id": (a_message(id=-1), "counts"),
    "no body": (a_message().replace(', "body": ""', ""), "no body"),
    "a wrong body": (a_message(body=1), "the body"),
    "a kind of body": (a_message(body_type="poem"), "body_type"),
    "a wrong priority": (a_message(priority=900), "priority"),
    "a wrong topic": (a_message(queue=None, topic="a..b"), "empty word"),
    "a wrong zone": (
        json.dumps({"kind": "schedule", "schedule": "s", "queue": "a", "next_at": "2030-01-01T00:00Z",
                    "cron": "* * * * *", "tz": "Nowhere", "body_type": "text", "body": ""}),
        "Nowhere",
    ),
}  # fmt: skip


@pytest.mark.parametrize("line, said", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_told_and_what_is_before_it_is_stored(
    run: Run, store: Path, filled: list[int], line: str, said: str
) -> None:
    exported = run("export").stdout.splitlines(keepends=True)
    data = "".join([*exported[:-1], line + "\n", exported[-1]]).encode()
    result = run("import", "--store", "other", input=data)
    assert (result.exit_code, result.stdout) == (1, "")
    *_, last = result.stderr.splitlines()
    assert last.startswith(f"mq: line {len(exported)}: ") and said in last and "--resume" in last
    assert count("other") == 3


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "it is empty"),
        (b"hello\n", "line 1: not a line"),
        (b'{"kind":"end","queues":0,"messages":0,"topics":0,"schedules":0}\n', "not the first line of an"),
        (b'{"kind":"export","version":2,"mq":"9","store_id":"","at":"","queues":[]}\n', "upgrade mq"),
    ],
)  # fmt: skip
def test_what_is_no_export_makes_no_store(run: Run, store: Path, data: bytes, said: str) -> None:
    result = run("import", input=data)
    assert result.exit_code in (1, 2) and said in result.stderr and result.stderr.count("\n") == 1
    assert not store.exists()
    missing = run("import", "missing")
    assert missing.exit_code == 1 and "missing: No such file" in missing.stderr


def test_lines_that_are_missing_or_in_another_order_are_told(run: Run, filled: list[int]) -> None:
    head, queue, one, two, three, end = run("export").stdout_bytes.splitlines(keepends=True)
    fewer = run("import", "--store", "fewer", input=head + queue + one + three + end)
    assert fewer.exit_code == 1 and "had 3 messages, and 2 are here" in fewer.stderr
    other = run("import", "--store", "order", input=head + queue + two + one + three + end)
    assert other.exit_code == 1 and "line 4: its message is older" in other.stderr and count("order") == 1


def test_a_queue_that_is_there_keeps_its_options(run: Run, filled: list[int]) -> None:
    with mq.open("other") as broker:
        broker.queue("mail", max_attempts=7).publish("mine")
    result = run("import", "--store", "other", input=run("export").stdout_bytes)
    assert (
        result.exit_code == 0 and "there is a queue 'mail' already, which keeps its options" in result.stderr
    )
    with mq.open("other") as broker:
        assert broker.queue("mail").options()["max_attempts"] == 7
        assert [each.raw for each in broker.queue("mail").peek()][:2] == [b"mine", b"one"]


# ── copy ───────────────────────────────────────────────────────────────────────────


def test_a_store_is_copied_and_a_second_copy_brings_what_is_new(run: Run, store: Path, shop: None) -> None:
    first = run("copy", "--to-store", "other")
    assert (first.exit_code, first.stdout) == (0, "8 messages of 4 queues copied\n")
    assert lines(run("export", "--store", "other").stdout) == lines(run("export").stdout)
    run("publish", "mail", "new")
    second = run("copy", "--to-store", "other", "--json")
    found = [json.loads(line) for line in second.stdout.splitlines()]
    assert {each.get("queue", each.get("topic")): each["copied"] for each in found} == {
        "audit": 0, "mail": 1, "mail.dead": 0, "shop.eu": 0
    }  # fmt: skip
    assert all(each["there"] == each["copied"] + each["before"] and not each["missing"] for each in found)


def test_two_paths_are_two_stores(run: Run, store: Path, shop: None) -> None:
    assert run("copy", "./data", "./other").stdout == "8 messages of 4 queues copied\n"
    assert lines(run("export", "--store", "other").stdout) == lines(run("export").stdout)
    with mq.open("other") as broker:
        assert "./other" not in broker.queues()


def test_messages_are_copied_to_another_queue(run: Run, store: Path, filled: list[int]) -> None:
    run("queue", "create", "try")
    assert run("copy", "mail", "try").stdout == "3 messages of 1 queue copied\n"
    assert (count(store), count(store, "try")) == (3, 3)
    assert "3 were there from before" in run("copy", "mail", "try").stdout and count(store, "try") == 3
    run("copy", "mail", "try", "--again")
    assert count(store, "try") == 6


def test_messages_that_a_second_copy_cannot_know_are_counted(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        mail = broker.queue("mail")
        old = mail.publish("old")
        mail.publish("new")
        broker.queue("dead").publish("x")
        run("copy", "--to-store", "other")
        delivery = mail.receive(timeout=0)
        assert delivery and delivery.id == old
        broker.queue("mail", dead_letter="dead")
        delivery.reject()
    result = run("copy", "--to-store", "other")
    assert result.exit_code == 1 and "not copied: 1 message," in result.stderr


# ── move ───────────────────────────────────────────────────────────────────────────


def test_a_move_takes_all_along_and_leaves_what_is_in_flight(run: Run, store: Path, shop: None) -> None:
    run("queue", "create", "letters")
    before = [each for each in messages(run("export", "mail").stdout) if each["state"] != "in_flight"]
    result = run("move", "mail", "letters")
    assert result.stdout == "4 messages of mail moved to letters\n"
    assert "still in mail, since in flight: 1 message" in result.stderr
    assert messages(run("export", "letters").stdout) == [each | {"queue": "letters"} for each in before]


def test_dead_letters_that_were_moved_come_back(run: Run, store: Path, shop: None) -> None:
    run("queue", "create", "archive")
    assert run("move", "mail.dead", "archive").exit_code == 0
    with mq.open(store) as broker:
        (letter,) = broker.queue("archive").peek()
        assert letter.origin == "mail" and [each.reason for each in letter.failures] == ["first", "second"]
    assert "died in    mail" in run("dead", "show", "archive").stdout
    assert run("dead", "replay", "archive", "--all").stdout == "1 message of archive replayed\n"


def test_a_move_to_another_store_takes_all_along(run: Run, store: Path, shop: None) -> None:
    before = [each for each in lines(run("export", "mail").stdout) if each["kind"] == "message"]
    result = run("move", "mail", "--to-store", "other", "--json")
    assert json.loads(result.stdout) == {
        "queue": "mail", "to": "mail", "store": "other", "moved": 4, "in_flight": 1
    }  # fmt: skip
    after = [
        each for each in lines(run("export", "mail", "--store", "other").stdout) if each["kind"] == "message"
    ]
    assert [each for each in after if each not in before] == [] and len(after) == 4
    assert count(store) == 1 and "mail.moving" not in run("queues").stdout


def test_a_move_of_the_oldest(run: Run, store: Path, filled: list[int]) -> None:
    run("queue", "create", "to")
    assert run("move", "mail", "to", "-n", "2").stdout.startswith("2 messages")
    with mq.open(store, read_only=True) as broker:
        assert [each.id for each in broker.queue("to").peek()] == filled[:2]
    assert run("move", "mail", "to", "-n", "2").stdout.startswith("1 message ")


def test_a_move_stops_at_a_full_queue_and_loses_none(run: Run, store: Path, filled: list[int]) -> None:
    for args in (["to"], ["mail", "--to-store", "other"]):
        where = "other" if len(args) > 1 else store
        with mq.open(where) as broker:
            broker.queue(args[0], max_length=1, overflow="drop_oldest").publish("mine")
        if where == store:
            result = run("move", "mail", *args)
            assert result.exit_code == 1 and "no room" in result.stderr and count(store) == 3
            continue
        result = run("move", "mail", *args)
        assert result.exit_code == 1 and "no room" in result.stderr
        assert count(store) == 3 and count("other") == 1
        run("queue", "set", "mail", "--max-length", "none", "--store", "other")
        assert run("move", "mail", *args).stdout.startswith("3 messages") and count("other") == 4


WAITING = [  # a command that says when a slice is done, and waits for a line before it goes on
    sys.executable, "-c",
    "import sys; from mq.cli import main; from mq.cli.progress import Progress; Progress.show ="
    " lambda *_: (print('.', flush=True), sys.stdin.read(1)); main()",
]  # fmt: skip


def test_ctrl_c_says_how_it_goes_on(start: Start, run: Run, store: Path) -> None:
    with mq.open(store, sync="never") as broker:
        broker.queue("mail").publish_many(list(range(1000)))
    process = start("move", "mail", "--to-store", "other", stdin=subprocess.PIPE, command=WAITING)
    assert process.stdout and process.stdout.read(2) == b".\n"
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert process.returncode == 130 and "Traceback" not in said and "run the same command again" in said
    assert run("move", "mail", "--to-store", "other").exit_code == 0
    assert (count(store), count("other")) == (0, 1000)


@pytest.mark.parametrize("to_store", [None, "other"])
def test_moves_that_are_killed_bring_each_message_once(
    start: Start, run: Run, store: Path, to_store: str | None
) -> None:
    """kill -9 behind a slice, at another one each time."""
    bodies = list(map(str, range(5000)))
    with mq.open(store, sync="never") as broker:
        broker.queue("to", visibility_timeout=30)
        broker.queue("mail").publish_many(bodies)
    args = ["move", "mail", "to", *(["--to-store", to_store] if to_store else [])]
    for slices in (1, 2):
        process = start(*args, stdin=subprocess.PIPE, command=WAITING)
        assert process.stdout and process.stdin
        process.stdin.write(b"\n" * (slices - 1))
        process.stdin.flush()
        assert process.stdout.read(2 * slices) == b".\n" * slices
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert run(*args).exit_code == 0
    with mq.open(to_store or store, read_only=True) as broker:
        assert [each.body for each in broker.queue("to").peek(9999)] == bodies
    assert count(store) == 0


def test_two_moves_at_once_bring_each_message_once(start: Start, run: Run, store: Path) -> None:
    bodies = list(map(str, range(3000)))
    with mq.open(store, sync="never") as broker:
        broker.queue("mail").publish_many(bodies)
    moves = [start("move", "mail", "--to-store", "other") for _ in range(2)]
    for process in moves:
        assert process.wait() in (0, 2)  # 2: the other one has come to its end
    assert run("move", "mail", "--to-store", "other").exit_code == 0
    with mq.open("other", read_only=True) as broker:
        assert sorted(int(each.body) for each in broker.queue("mail").peek(9999)) == list(range(3000))
    assert count(store) == 0


def test_a_store_that_was_put_back_from_a_backup_gives_ids_again_and_a_move_loses_none(
    run: Run, store: Path
) -> None:
    def ids() -> list[int]:
        with mq.open(store, read_only=True) as broker:
            return [each.id for each in broker.queue("mail").peek(10)]

    assert run("publish", "mail", "old").exit_code == 0
    assert run("backup", "backup").exit_code == 0
    moved = []
    for body in ("first", "second", "third"):
        shutil.rmtree(store)
        shutil.copytree("backup", store)
        assert run("publish", "mail", body).exit_code == 0
        moved += ids()[1:]
        assert run("move", "mail", "--to-store", "other").stdout.startswith("2 messages")
    assert len(set(moved)) < 3, "all ids differ, so nothing is shown"
    with mq.open("other") as other:
        there = [each.body for each in other.queue("mail").peek(10)]
    assert there == ["old", "first", "old", "second", "old", "third"]


def test_a_queue_that_has_the_name_of_what_is_under_way_is_left_alone(
    run: Run, store: Path, filled: list[int]
) -> None:
    assert run("queue", "create", "mail.moving", "--max-attempts", "7").exit_code == 0
    done = run("move", "mail", "--to-store", "other")
    assert done.exit_code and "rename it first" in done.stderr and count(store) == len(filled)
    with mq.open(store, read_only=True) as broker:
        assert broker.queue("mail.moving").options()["max_attempts"] == 7


def test_a_note_that_another_move_has_replaced_keeps_a_slice_out(store: Path, filled: list[int]) -> None:
    """A run that slept since it read the first note, while another one moved all and was done."""
    with mq.open(store) as one, mq.open("other") as two:
        seen = one.queue("mail").peek()
        made = outgoing.definition(one._store, "mail")
        assert made and incoming.define(two._store, "mail", made.declaration, {})
        sleeper = passage.Passage(one._store, two._store, "mail", "mail")
        note = {sleeper._note: None}
        assert passage.move(one._store, two._store, "mail", "mail", None, lambda count: None) == len(seen)
        late = [Parcel(each.id, 0x10, each.raw, 1) for each in seen]
        assert not incoming.put(two._store, "mail", late, note, note)
        assert two.queue("mail").stats().ready == len(seen)


# ── all of them ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "args, code, said",
    [
        (["move", "mail"], 2, "name the queue they go to"),
        (["move", "mail", "mail"], 2, "are in mail already"),
        (["move", "mail", "mail", "--to-store", "data"], 2, "are in mail already"),
        (["move", "nothing", "mail"], 1, "no queue 'nothing'"),
        (["move", "nothing", "--to-store", "other"], 1, "no queue 'nothing'"),
        (["move", "mail", "a\a", "--to-store", "other"], 2, "unprintable"),
        (["move", "mail", "to", "-n", "0"], 2, "0 is not in the range"),
        (["copy"], 2, "name a queue, or the store"),
        (["copy", "--to-store", "data"], 2, "is the store itself"),
        (["copy", "mail"], 2, "name the queue they go to"),
        (["copy", "nothing", "--to-store", "other"], 1, "no queue 'nothing'"),
        (["copy", "--to-store", ""], 2, "--to-store"),
        (["copy", "./data", "./other", "--to-store", "other"], 2, "the stores are named twice"),
        (["copy", "./data", "./other", "-s", "data"], 2, "the stores are named twice"),
        (["copy", "./data", "nats://user@"], 2, "nats://"),
        (["copy", "./other", "../third"], 1, "there is no store here"),
        (["copy", "./data", "data"], 1, "no queue './data'"),
        (["export", "nothing"], 1, "no queue 'nothing'"),
        (["export", "-s", "other"], 1, "there is no store here"),
        (["copy", "-s", "other", "--to-store", "third"], 1, "there is no store here"),
        (["move", "mail", "to", "-s", "other"], 1, "there is no store here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_made(
    run: Run, store: Path, filled: list[int], args: list[str], code: int, said: str
) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr and result.stderr.count("\n") == 1
    assert not Path("other").exists() and count(store) == 3


def test_what_is_large_takes_little_memory(store: Path) -> None:
    """An export of 100 MB, and an import of it, with 64 MB for each process."""
    with mq.open(store, sync="never") as broker:
        mail = broker.queue("mail")
        for number in range(100):
            mail.publish(f"{number}" * 500_000)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (64 << 20,) * 2);"
    command = [sys.executable, "-c", limited + "from mq.cli import main; main()"]
    export = subprocess.Popen([*command, "export"], stdout=subprocess.PIPE)
    done = subprocess.run(
        [*command, "-s", "other", "import"], stdin=export.stdout, capture_output=True, text=True
    )
    assert export.stdout
    export.stdout.close()
    assert (export.wait(), done.returncode, done.stdout) == (0, 0, "100 messages of 1 queue imported\n"), (
        done.stderr
    )


def test_an_export_beside_a_program_is_of_one_moment(start: Start, run: Run, store: Path) -> None:
    """Messages come and go, and segments with them, while it is read."""
    with mq.open(store, sync="never", segment_bytes=1 << 16) as broker:
        mail = broker.queue("mail")
        ids = mail.publish_many(["." * 1000] * 400)
        process = start("export")
        assert process.stdout
        lines = [process.stdout.readline(), process.stdout.readline(), process.stdout.readline()]
        mail.ack_many(mail.receive_many(300, timeout=0))
        broker.queue("other").publish("not seen")
        broker._store.maintenance.compact()
        lines += process.stdout.readlines()
    assert process.wait() == 0
    found = [each for each in map(json.loads, lines) if each["kind"] == "message"]
    assert [each["id"] for each in found] == sorted(each["id"] for each in found)
    assert {each["id"] for each in found} >= set(ids[300:]) and {each["id"] for each in found} <= set(ids)


@pytest.fixture
def damaged(store: Path, filled: list[int]) -> Path:
    """The store of `filled`, whose second message is damaged, which shows when it is read."""
    with mq.open(store) as broker:
        broker._store.maintenance.checkpoints.write()
    segment = next((store / "log").iterdir())
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b"\xff\x00", b"\xfe\x00", 1))
    return store


def test_one_damaged_message_costs_only_itself(run: Run, damaged: Path) -> None:
    exported = run("export")
    assert exported.exit_code == 4 and "without 1 damaged message the export is whole" in exported.stderr
    assert (
        run("import", "--store", "other", input=exported.stdout_bytes).exit_code == 0 and count("other") == 2
    )
    copied = run("copy", "--to-store", "copy")
    assert copied.exit_code == 4 and "1 damaged message could not be copied" in copied.stderr
    assert count("copy") == 2
    moved = run("move", "mail", "--to-store", "moved")
    assert moved.exit_code == 4 and "2 messages were moved, and 1 that cannot be read" in moved.stderr
    assert count("moved") == 2 and count(Path("data")) == 1
    with mq.open("data", read_only=True) as broker:
        assert "mail.moving" not in broker.queues()


def test_a_closed_pipe_ends_an_export_without_a_traceback(store: Path) -> None:
    with mq.open(store, sync="never") as broker:
        broker.queue("mail").publish_many(["x" * 1000] * 2000)
    process = subprocess.Popen([*COMMAND, "export"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()


def test_progress_is_shown_where_it_takes_long(store: Path, filled: list[int]) -> None:
    """Each in the one style, on a terminal of 40, 80 or 120 columns."""
    from test_terminal import ESCAPES, Terminal

    for columns, args, label in (
        (40, ["export"], "exporting"), (80, ["copy", "--to-store", "copy"], "copying"),
        (120, ["move", "mail", "--to-store", "other"], "moving"),
    ):  # fmt: skip
        command = AT_ONCE if label != "exporting" else ["sh", "-c", '"$@" > out', "sh", *AT_ONCE]
        terminal = Terminal(*args, columns=columns, command=command)
        assert terminal.end() == 0
        bars = [line for line in re.split(r"[\r\n]+", ESCAPES.sub("", terminal.shown)) if label in line]
        assert bars and max(map(len, bars)) < columns
        assert any("%" in bar for bar in bars)
