"""mq inspect and mq dump, on stores that are whole, torn and damaged."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from commands import Run

import mq
from mq.storage.real_disk import RealDisk


def lines(result: Result, **match: object) -> list[dict[str, object]]:
    """The JSON objects printed that have all of *match*."""
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return [each for each in found if all(each.get(key) == value for key, value in match.items())]


@pytest.fixture
def busy(store: Path) -> list[int]:
    """Three segments of two queues: published, delivered, acked, nacked, released, purged; ids of `mail`."""
    with mq.open(store, segment_bytes=1024) as broker:
        mail, other = broker.queue("mail"), broker.queue("other", visibility_timeout=5)
        ids = [mail.publish(f"message {number:3}") for number in range(40)]
        other.publish_many([b"\xff", {"a": 1}])
        mail.receive(timeout=0).ack()  # type: ignore[union-attr]
        mail.receive(timeout=0).nack(delay=60, reason="ValueError: no")  # type: ignore[union-attr]
        mail.receive(timeout=0).release()  # type: ignore[union-attr]
        mail.receive(timeout=0).extend(90)  # type: ignore[union-attr]
        other.purge()
    return ids


def segments(store: Path) -> list[Path]:
    return sorted((store / "log").iterdir())


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


# ── whole ──────────────────────────────────────────────────────────────────────────


def test_inspect_counts_what_each_segment_holds(run: Run, store: Path, busy: list[int]) -> None:
    result = run("inspect", "--json")
    assert result.exit_code == 0
    (whole,) = lines(result, type="store")
    found = lines(result, type="segment")
    assert (whole["verdict"], whole["messages"], whole["queues"]) == ("clean", 39, 2)
    assert [each["base"] for each in found] == [int(path.stem) for path in segments(store)]
    assert sum(each["records"].get("publish", 0) for each in found) == 42  # type: ignore[attr-defined]
    assert sum(each["records"].get("nack", 0) for each in found) == 1  # type: ignore[attr-defined]
    # Bodies of 11 bytes behind headers of 24; the two definitions live too.
    definitions = whole["live_bytes"] - 39 * 35  # type: ignore[operator]
    assert 0 < definitions < 200
    assert whole["disk_bytes"] == sum(path.stat().st_size for path in segments(store))
    for each, path in zip(found, segments(store), strict=True):
        held = each["live_bytes"] + each["garbage_bytes"]  # type: ignore[operator]
        assert each["damaged_bytes"] == 0 and 0 < held <= path.stat().st_size == each["size"]


def test_inspect_for_a_person(run: Run, busy: list[int]) -> None:
    text = run("inspect").stdout
    assert "verdict   clean" in text and "39 live, in 2 queues" in text
    title, *table = text.split("\n\n")[1].splitlines()
    assert title == "Segments" and len({len(line) for line in table}) == 1, "aligned"


def test_dump_has_every_record_with_what_it_says(run: Run, busy: list[int]) -> None:
    result = run("dump", "--json")
    assert result.exit_code == 0
    published = lines(result, kind="publish", queue="mail")
    assert [each["message"] for each in published] == busy
    assert [each["body"] for each in published] == [f"message {number:3}" for number in range(40)]
    (nack,) = lines(result, kind="nack")
    assert (nack["message"], nack["reason"]) == (busy[1], "ValueError: no")
    assert lines(result, kind="ack")[0]["messages"] == [busy[0]]
    assert lines(result, kind="release")[0]["message"] == busy[2]
    assert lines(result, kind="extend")[0]["deadline"]
    assert lines(result, kind="purge", queue="other")
    lsns = [each["lsn"] for each in lines(result)]
    assert lsns == sorted(lsns)  # type: ignore[type-var]


def test_dump_for_a_person_is_a_line_a_record(run: Run, busy: list[int]) -> None:
    assert len(run("dump").stdout.splitlines()) == len(run("dump", "--json").stdout.splitlines())
    assert "reason 'ValueError: no'" in run("dump", "-k", "nack").stdout
    assert run("dump", "-k", "ack").stdout.endswith(f"  message {busy[0]}\n")


def test_dump_says_what_happened_in_words(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        mail = broker.queue("mail", visibility_timeout=60)
        mail.update_meta({"owner": "ada"})
        mail.subscribe("orders.#", match={"source": "shop"})
        broker.topic("orders.eu", retain_count=1).publish("one", headers={"source": "shop"})
        delivery = mail.receive(timeout=0)
        assert delivery
        delivery.reject("no such customer")
        broker.queue("mail.dead").replay()
        assert mail.receive(timeout=0)
        mail.purge(in_flight=True)
        mail.publish("two")
        mail.cancel(mail.publish("three"))
    assert run("move", "mail", "letters").exit_code == 0
    text = run("dump").stdout
    for said in (
        "to mail.dead  as a dead letter  reason 'no such customer'", "to mail  back, as if never tried",
        "to letters  as it is", "also what is in flight", "  cancelled", "header source=shop",
        "pattern orders.#  match source=shop", "visibility_timeout=1 min", "meta owner=ada", "  topic  ",
    ):  # fmt: skip
        assert said in text
    assert not re.search(r"True|False|None|[\[{(]", text)


def test_dump_of_a_queue_that_is_not_there(run: Run, busy: list[int]) -> None:
    result = run("dump", "--queue", "mial")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no queue 'mial'" in result.stderr and result.stderr.count("\n") == 1


def test_dump_of_a_message_that_is_not_there(run: Run, busy: list[int]) -> None:
    for id in (busy[0] + 1, -1, 10**30):
        result = run("dump", "--message", str(id))
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"no message {id} in the log" in result.stderr and result.stderr.count("\n") == 1
    result = run("dump", "--message", str(busy[0]), "--kind", "nack")
    assert (result.exit_code, result.output) == (0, ""), "it is there, and was never nacked"


@pytest.mark.parametrize("count", [1, 3])
def test_dump_of_what_may_be_about_several_always_lists_them(
    run: Run, store: Path, busy: list[int], count: int
) -> None:
    with mq.open(store) as broker:
        queue = broker.queue("batch", max_length=3, overflow="drop_oldest")
        ids = queue.publish_many(range(count))
        queue.ack_many(queue.receive_many(3))
        gone = queue.publish_many(range(3))[:count]
        queue.publish_many(range(count))
    taken, acked, dropped = lines(
        run("dump", "--queue", "batch", "-k", "deliver", "-k", "ack", "-k", "drop", "--json")
    )
    assert taken["messages"] == acked["messages"] == ids
    assert dropped["messages"] == gone
    assert not {"message"} & (taken.keys() | acked.keys() | dropped.keys())
    assert len(lines(run("dump", "--message", str(ids[-1]), "--json"))) == 3


# ── names ──────────────────────────────────────────────────────────────────────────


def test_dump_knows_the_queue_of_what_stands_before_its_declaration(run: Run, store: Path) -> None:
    """The cleaner moves a declaration to the end, behind the messages of later segments."""
    with mq.open(store, segment_bytes=1024) as broker:
        ids = [broker.queue("mail").publish("x" * 100) for _ in range(20)]
        broker.queue("mail").receive(timeout=0).ack()  # type: ignore[union-attr]
        assert broker._store.maintenance.cleaning.clean()
    result = run("dump", "--queue", "mail", "--json")
    kinds = [each["kind"] for each in lines(result)]
    assert kinds.index("publish") < kinds.index("declare")
    told = {each["message"] for kind in ("publish", "relocate") for each in lines(result, kind=kind)}
    assert set(ids[1:]) == told
    assert {each["queue"] for each in lines(run("dump", "--json"))} == {"mail", None}


def test_dump_of_a_number_that_was_given_out_again(run: Run, store: Path) -> None:
    with mq.open(store, segment_bytes=1024) as broker:
        first = broker.queue("first")
        first.publish("first")
        for _ in range(20):  # so much lives that nothing is cleaned by itself
            broker.queue("kept").publish("kept " + "x" * 500)
        first.publish("first")
        first.delete()
        assert broker._store.maintenance.cleaning.clean(), "and with it the first's declaration"
        for name in ("second", "third"):
            broker.queue(name).publish(name)
            if name == "second":
                broker.queue(name).delete()
    published = lines(run("dump", "-k", "publish", "--json"))
    found = {(each["queue"], str(each["body"]).split()[0]) for each in published}
    assert found == {("#1", "first"), ("second", "second"), ("third", "third"), ("kept", "kept")}
    deleted = lines(run("dump", "-k", "delete", "--json"))
    assert [each["queue"] for each in deleted] == ["#1", "second"]


def test_dump_calls_a_nameless_queue_as_the_library_does(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        id = broker.queue("mail").publish("one")
    (path,) = segments(store)
    flip(path, 72 + lines(run("dump", "-k", "declare", "--json"))[0]["lsn"] + 30)  # type: ignore[operator]
    assert run("repair").exit_code == 0
    (queue,) = lines(run("queues", "--json"))
    assert queue["queue"] == "unnamed-1"
    assert [each["lsn"] for each in lines(run("dump", "--queue", "unnamed-1", "--json"))] == [id]


def test_dump_says_by_name_where_a_message_goes(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        broker.queue("mail").publish("one")
        broker.queue("mail").receive(timeout=0).reject("no")  # type: ignore[union-attr]
        broker.queue("mail.dead").replay()
    died, back = lines(run("dump", "-k", "move", "--json"))
    assert (died["queue"], died["to"], back["queue"], back["to"]) == (
        "mail", "mail.dead", "mail.dead", "mail",
    )  # fmt: skip
    assert "to mail.dead" in run("dump", "-k", "move").stdout


def test_dump_shows_what_it_does_not_understand(
    run: Run, busy: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer mq may say more of a queue than this one knows."""

    def decode(payload: bytes) -> object:
        raise msgspec.ValidationError("unknown field")

    monkeypatch.setattr(mq.delivery.records.declarations, "decode_declaration", decode)
    result = run("dump", "-k", "declare", "--json")
    assert result.exit_code == 0
    assert all("upgrade mq" in str(each["unreadable"]) for each in lines(result))


# ── filters ────────────────────────────────────────────────────────────────────────


def test_dump_filters(run: Run, busy: list[int]) -> None:
    kinds = {each["kind"] for each in lines(run("dump", "--json", "-k", "ack", "-k", "nack"))}
    assert kinds == {"ack", "nack"}
    assert {each["queue"] for each in lines(run("dump", "--json", "--queue", "other"))} == {"other"}
    story = [each["kind"] for each in lines(run("dump", "--json", "--message", str(busy[1])))]
    assert story == ["publish", "deliver", "nack"]


# ── torn ───────────────────────────────────────────────────────────────────────────


def test_what_a_crash_cut_off_is_torn_and_no_corruption(run: Run, store: Path) -> None:
    with mq.open("origin", sync="never") as broker:
        ids = broker.queue("mail").publish_many(["kept"])
        end = broker.queue("mail").publish_many(["lost 1", "lost 2"])[-1]
        shutil.copytree("origin", store)
    (store / "mark").unlink()  # of this boot, it would say that more was there
    (path,) = segments(store)
    with path.open("r+b") as file:
        file.truncate(72 + end + 26)
    result = run("inspect", "--json")
    assert result.exit_code == 0
    (whole,) = lines(result, type="store")
    assert (whole["verdict"], whole["messages"]) == ("torn", 1)
    (torn,) = lines(result, type="damage")
    assert (torn["kind"], torn["offset"], torn["lsn"]) == ("torn", 72 + end, end)
    dumped = run("dump", "--json")
    assert dumped.exit_code == 0
    assert [each.get("dropped", False) for each in lines(dumped, kind="publish")] == [False, True]
    assert lines(dumped, kind="publish")[0]["message"] == ids[0]
    assert "left out" in run("dump").stdout


def test_what_a_live_process_is_just_writing_is_neither(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        id = broker.queue("mail").publish("whole")
        (path,) = segments(store)
        with path.open("r+b") as file:
            file.seek(72 + id + 24 + 5)
            file.write(b"half a record")
        (store / "log" / f"{64 << 20:020}.seg").touch()  # made ahead, not written yet
        for command in (["inspect"], ["dump"]):
            assert run(*command).exit_code == 0
        (whole,) = lines(run("inspect", "--json"), type="store")
        assert (whole["verdict"], whole["messages"], whole["end"]) == ("open", 1, id + 24 + 5)
        assert not lines(run("inspect", "--json"), type="damage")
        assert not lines(run("dump", "--json"), kind="torn")
        with mq.open(store, read_only=True) as reader:
            assert [message.body for message in reader.queue("mail").peek()] == ["whole"]


# ── damaged ────────────────────────────────────────────────────────────────────────


FIRST = 211  # the first message's id


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def header_and_tail(path: Path) -> None:
    flip(path, 20)
    cut(path, 100)


@pytest.mark.parametrize(
    "damage, segment, offset, lost",
    [
        pytest.param(lambda path: flip(path, 72 + FIRST + 30), 0, 72 + FIRST, 35, id="a body"),
        pytest.param(lambda path: flip(path, 72 + FIRST + 4), 0, 72 + FIRST, 35, id="a length"),
        pytest.param(lambda path: flip(path, 20), 1, 0, 0, id="a segment's header"),
        pytest.param(header_and_tail, 1, 0, 1024, id="header and most of a segment"),
        pytest.param(lambda path: cut(path, 72 + FIRST), 0, 72 + FIRST, 1024, id="cut off between records"),
        pytest.param(
            lambda path: cut(path, 72 + FIRST + 5), 0, 72 + FIRST, 1024, id="cut off inside a record"
        ),
        pytest.param(lambda path: cut(path, 72 + 56), -1, 72 + 56, 1024, id="the last segment cut off"),
        pytest.param(lambda path: path.write_bytes(b""), 0, 0, 1024, id="a segment of no bytes"),
        pytest.param(Path.unlink, 0, 0, 1024, id="the first segment missing"),
        pytest.param(Path.unlink, 1, 0, 1024, id="a segment missing"),
        pytest.param(Path.unlink, -1, 0, 1024, id="the last segment missing"),
    ],
)
def test_damage_is_named_and_all_else_is_shown(
    run: Run, store: Path, busy: list[int], damage: Callable[[Path], object], segment: int, offset: int,
    lost: int,
) -> None:  # fmt: skip
    """P7: exit code 4, the file and the offset; the rest of the log is still there to be seen."""
    assert busy[0] == FIRST
    before = {each["lsn"] for each in lines(run("dump", "--json"))}
    path = segments(store)[segment]
    damage(path)
    start = int(path.stem) + max(0, offset - 72)
    gone = range(start, min(start + lost, int(path.stem) + 1024))
    result = run("dump", "--json")
    assert result.exit_code == 4
    bad = lines(result, kind="damage")
    assert (bad[0]["path"], bad[0]["offset"]) == (f"data/log/{path.name}", offset)
    assert {each["path"] for each in bad} == {f"data/log/{path.name}"}
    left = {each["lsn"] for each in lines(result) if each["kind"] != "damage"}
    assert {lsn for lsn in before if lsn not in gone} <= left <= before
    for command in (["dump"], ["inspect"]):
        text = run(*command)
        assert text.exit_code == 4
        assert f"data/log/{path.name} at offset {offset}" in text.stdout
        assert text.stderr.startswith("mq: data/log/") and text.stderr.count("\n") == 1
    (summary,) = lines(run("inspect", "--json"), type="store")
    assert summary["verdict"] == "corrupt" and summary["problem"]


@pytest.mark.parametrize("harm", [lambda path: path.write_text("junk"), lambda path: path.unlink()])
def test_a_lost_format_file_hides_nothing(
    run: Run, store: Path, busy: list[int], harm: Callable[[Path], object]
) -> None:
    """The segments' headers say which store this is."""
    harm(store / "FORMAT")
    result = run("dump", "--json", "--kind", "publish", "--queue", "mail")
    assert result.exit_code == 4 and "FORMAT" in result.stderr
    assert [each["message"] for each in lines(result)] == busy


def test_a_foreign_file_in_the_log_is_named_and_no_corruption(run: Run, store: Path, busy: list[int]) -> None:
    (store / "log" / "notes.txt").touch()
    result = run("inspect")
    assert result.exit_code == 1 and "notes.txt" in result.stderr
    assert "39 live" in result.stdout


def test_every_flipped_byte_costs_one_record_at_most(run: Run, store: Path) -> None:
    """P7, P10: whatever the byte, nothing raises, and all but the record around it is shown."""
    with mq.open(store, segment_bytes=1024) as broker:
        broker.queue("q").publish_many(["one", "two", "three"])
    (path,) = segments(store)
    good = path.read_bytes()
    records = [(each["lsn"], each["kind"]) for each in lines(run("dump", "--json"))]
    used = len(good.rstrip(b"\0"))
    for offset in range(used):
        flip(path, offset)
        result = run("dump", "--json")
        path.write_bytes(good)
        left = [
            (each["lsn"], each["kind"]) for each in lines(result) if each["kind"] not in ("damage", "torn")
        ]
        assert len(set(records) - set(left)) <= 1 and set(left) <= set(records), offset
        assert result.exit_code == 4 or lines(result, kind="torn"), offset


@pytest.mark.parametrize("command", [["peek", "mail"], ["queues"], ["stats", "mail"], ["receive", "mail"]])
def test_the_other_commands_refuse_a_corrupt_store(
    run: Run, store: Path, busy: list[int], command: list[str]
) -> None:
    flip(segments(store)[0], 72 + busy[0] + 30)
    result = run(*command)
    assert (result.exit_code, result.stdout) == (4, "")
    assert f"{segments(store)[0].name} at offset {72 + busy[0]}" in result.stderr


@pytest.mark.parametrize(
    "command",
    ["queues", "peek mail", "receive mail", "top -n 1", "export", "compact", "ack 1-2-3-4", "move mail other",
     "copy mail other", "tail --until-end", "restore data -s new"],
)  # fmt: skip
def test_a_store_that_lost_its_format_file_is_not_taken_for_none(
    run: Run, store: Path, busy: list[int], command: str
) -> None:
    (store / "FORMAT").unlink()
    result = run(*command.split())
    assert (result.exit_code, result.stdout) == (4, "")
    assert "there is a log, but no FORMAT" in result.stderr and "`mq repair`" in result.stderr
    with pytest.raises(mq.CorruptStore, match="no FORMAT file"):
        mq.open(store, read_only=True)


# ── at the speed of the disk ───────────────────────────────────────────────────────


def calls(work: Callable[[], object]) -> int:
    """How many functions of Python *work* enters."""
    count = 0

    def see(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "words",
    ["inspect", "verify", "repair --dry-run", "compact --dry-run", "dump --message 56", "dump --queue other",
     "dump --kind nack"],
)  # fmt: skip
def test_no_function_is_called_for_each_record(run: Run, store: Path, words: str) -> None:
    """The records of a block are gone through in one loop, and only what is shown is decoded."""

    def publish(count: int) -> None:
        with mq.open(store, sync="never") as broker:
            broker.queue("other")
            broker.queue("mail").publish_many([b"x"] * count)

    publish(1_000)
    run(*words.split())  # what is imported or cached at first
    few = calls(lambda: run(*words.split()))
    publish(2_000)
    run(*words.split())  # the same, for what only a longer log has: a checkpoint
    assert calls(lambda: run(*words.split())) < few + 500


def test_what_is_left_out_unseen_makes_no_difference(run: Run, store: Path, busy: list[int]) -> None:
    """Each filter shows what a look at all the records would."""
    everything = lines(run("dump", "--json"))
    about = [each for each in everything if busy[2] in (each.get("message"), *each.get("messages", ()))]  # type: ignore[misc]
    assert {each["kind"] for each in about} >= {"publish", "deliver", "release"}
    assert lines(run("dump", "--json", "--message", str(busy[2]))) == about
    assert lines(run("dump", "--json", "--queue", "other")) == [
        each for each in everything if each["queue"] == "other"
    ]
    nacks = [each for each in everything if each["kind"] == "nack"]
    assert lines(run("dump", "--json", "--kind", "nack", "--queue", "mail")) == nacks
    absent = run("dump", "--message", str(busy[2]), "--queue", "other")
    assert (absent.exit_code, absent.stdout) == (0, "")
    for number in (-1, 1 << 70):
        assert run("dump", "--message", str(number)).exit_code == 1


def test_a_damage_is_shown_wherever_a_message_is_looked_for(run: Run, store: Path, busy: list[int]) -> None:
    flip(segments(store)[0], 300)
    late = busy[-1]
    gaps = [each for each in lines(run("dump", "--json")) if each["kind"] == "damage"]
    found = lines(run("dump", "--json", "--message", str(late)))
    assert gaps and [each for each in found if each["kind"] == "damage"] == gaps
    assert [each["lsn"] for each in found if each["kind"] == "publish"] == [late]


# ── once, and at once ──────────────────────────────────────────────────────────────


def long_log(store: Path) -> tuple[int, list[int]]:
    """Some blocks of messages, in two segments and a few groups; how many bytes, and the ids."""
    with mq.open(store, sync="never", segment_bytes=1 << 20) as broker:
        queue = broker.queue("mail")
        ids = [id for _ in range(20) for id in queue.publish_many([b"x" * 1000] * 100)]
        queue.receive(timeout=0).ack()  # type: ignore[union-attr]
        broker._store.maintenance.checkpoints.write()
        return broker._store.replica.log.end, ids


@pytest.mark.parametrize(
    "words, times",
    [
        ("verify", 1),
        ("repair --dry-run", 1),
        ("dump --kind nack", 1),
        ("inspect", 2),
        ("dump -q mail -k nack", 2),
    ],
)
def test_a_log_that_is_whole_is_read_once(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch, words: str, times: int
) -> None:
    """`inspect` looks again at what lives, and `dump --queue` wants all names first."""
    size, _ = long_log(store)
    read = 0

    def pread(disk: RealDisk, fd: int, size: int, offset: int) -> bytes:
        nonlocal read
        data = os.pread(fd, size, offset)
        read += len(data)
        return data

    monkeypatch.setattr(RealDisk, "pread", pread)
    assert run(*words.split()).exit_code == 0
    assert (times - 0.5) * size < read < (times + 0.5) * size


def test_how_a_message_was_published_is_shown_before_the_log_is_read(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ids = long_log(store)
    everything = run("dump", "--json").stdout
    story = run("dump", "--message", str(ids[0]), "--json")
    assert [each["kind"] for each in lines(story)] == ["publish", "deliver", "ack"]
    assert all(line in everything for line in story.stdout.splitlines())

    def stop(*_: object) -> None:
        raise mq.MqError("the log is read")

    monkeypatch.setattr(sys.modules["mq.cli.dump"], "read", stop)
    for id in (ids[0], ids[-1]):  # one that is settled, in a group
        result = run("dump", "--message", str(id), "--json")
        assert result.exit_code == 1 and lines(result, kind="publish", queue="mail", message=id)
    for other in (["--kind", "ack"], ["--queue", "mial"]):
        monkeypatch.setattr(sys.modules["mq.cli.dump"].Names, "numbers", lambda names, name: {1})
        assert run("dump", "--message", str(ids[0]), *other).stdout == ""


@pytest.mark.parametrize("live", [True, False])
def test_at_once_no_name_is_shown_that_was_another_queues(run: Run, store: Path, live: bool) -> None:
    """A declaration that was moved to the end, or the number of a queue that was deleted."""
    with mq.open(store, segment_bytes=1024) as broker:
        broker.queue("mail").publish_many(range(30))
        ids = broker.queue("mail").publish_many(range(30))
        broker.queue("mail").ack_many(broker.queue("mail").receive_many(20))
        assert broker._store.maintenance.cleaning.clean()
        if not live:
            broker.queue("mail").delete()
            for _ in range(20):
                broker.queue("new").publish(b"x" * 500)
            broker.queue("new", visibility_timeout=9)
        broker._store.maintenance.checkpoints.write()
    told = lines(run("dump", "--message", str(ids[-1]), "--json"), kind="publish")
    assert told == lines(run("dump", "--json"), kind="publish", message=ids[-1])
    assert told[0]["queue"] == "mail"


def test_inspect_counts_what_lives_beside_a_transaction_of_several_blocks(run: Run, store: Path) -> None:
    """Its records are handed on together, and each is read from the block that it is in."""
    with mq.open(store, sync="never") as broker:
        queue = broker.queue("mail")
        held = [queue.receive(timeout=0) for _ in queue.publish_many([b"x"] * 5)]
        with broker.transaction() as tx:
            for _ in range(600):
                tx.publish(queue, b"y" * 1000, priority=1)
            for message in held[:3]:
                tx.ack(message)  # type: ignore[arg-type]
    (whole,) = lines(run("inspect", "--json"), type="store")
    assert (whole["verdict"], whole["messages"]) == ("clean", 602)
    assert run("verify").exit_code == 0
    acked = lines(run("dump", "--json", "--message", str(held[0].id)))  # type: ignore[union-attr]
    assert [each["kind"] for each in acked] == ["publish", "deliver", "ack"]
