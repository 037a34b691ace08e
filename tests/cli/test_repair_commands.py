"""mq verify, mq repair and mq compact, on stores that are whole, torn, damaged and in use."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import AT_ONCE, Run, contents

import mq
from mq.engine.compacting import garbage_upto
from mq.engine.replica import Replica
from mq.storage.segment import HEADER_BYTES


@pytest.fixture
def ids(store: Path) -> list[int]:
    """Three segments of one queue; the ids of its messages."""
    with mq.open(store, segment_bytes=4096) as broker:
        return [broker.queue("mail").publish(f"message {number:3} " * 5) for number in range(80)]


def segments(store: Path) -> list[Path]:
    return sorted((store / "log").iterdir())


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def damage(store: Path, id: int) -> tuple[Path, int]:
    """Flip a bit in the body of a message; its file, and where its record begins."""
    path = [each for each in segments(store) if int(each.stem) <= id][-1]
    offset = id - int(path.stem) + HEADER_BYTES
    flip(path, offset + 30)
    return path, offset


# ── verify ─────────────────────────────────────────────────────────────────────────


def test_verify_of_a_whole_store(run: Run, store: Path, ids: list[int]) -> None:
    before = contents(store)
    result = run("verify")
    assert result.exit_code == 0
    assert "clean" in result.stdout
    assert f"in {len(segments(store))} segments" in result.stdout
    assert contents(store) == before


def test_verify_of_a_torn_store_is_no_damage(run: Run, store: Path, ids: list[int]) -> None:
    with segments(store)[-1].open("r+b") as file:
        found = json.loads(run("inspect", "--json").stdout.splitlines()[0])
        file.seek(found["end"] - int(segments(store)[-1].stem) + HEADER_BYTES)
        file.write(b"torn")
    result = run("verify", "--json")
    assert result.exit_code == 0
    gap, whole = map(json.loads, result.stdout.splitlines())
    assert (gap["type"], gap["size"]) == ("torn", 4)
    assert whole["verdict"] == "torn"


def test_verify_names_every_damaged_place(run: Run, store: Path, ids: list[int]) -> None:
    """P7: also those that an opening does not come to."""
    places = [damage(store, id) for id in (ids[3], ids[50])]
    flip(segments(store)[1], 9)
    before = contents(store)
    result = run("verify", "--json")
    assert result.exit_code == 4
    found = [json.loads(each) for each in result.stdout.splitlines()]
    damaged = [each for each in found if each["type"] == "damage"]
    assert [(Path(each["path"]).name, each["offset"], each["ids"]) for each in damaged] == sorted(
        [
            (places[0][0].name, places[0][1], [ids[3]]),
            (segments(store)[1].name, 0, []),
            (places[1][0].name, places[1][1], [ids[50]]),
        ]
    )
    assert found[-1]["verdict"] == "corrupt"
    assert "mq repair" in result.stderr
    text = run("verify")
    assert text.exit_code == 4
    assert f"message {ids[50]}" in text.stdout
    assert contents(store) == before


def test_verify_finds_what_a_checkpoint_hides(run: Run, store: Path) -> None:
    """An opening reads only what follows the checkpoint; verify reads everything."""
    with mq.open(store, segment_bytes=1 << 20) as broker:
        ids = broker.queue("mail").publish_many([b"x" * 100 for _ in range(2000)])
    assert list((store / "checkpoint").iterdir())
    damage(store, ids[3])
    mq.open(store, read_only=True).close()
    result = run("verify", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout.splitlines()[0])["ids"] == [ids[3]]


def test_a_damaged_checkpoint_is_a_warning(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        broker.queue("mail").publish_many([b"x" * 100 for _ in range(20_000)])
    for path in (store / "checkpoint").iterdir():
        whole = path.read_bytes()
        flip(path, len(whole) // 2)
        result = run("verify", "--json")
        assert result.exit_code == 0
        warning, said = map(json.loads, result.stdout.splitlines())
        assert (warning["type"], warning["path"]) == ("warning", f"data/checkpoint/{path.name}")
        assert said["verdict"] == "clean"
        path.write_bytes(whole)
    assert len(run("verify", "--json").stdout.splitlines()) == 1


def test_verify_beside_a_live_process(run: Run, store: Path, ids: list[int]) -> None:
    with mq.open(store, segment_bytes=4096) as broker:
        broker.queue("mail").publish("more")
        result = run("verify")
        assert result.exit_code == 0
        assert "in use" in result.stdout
        damage(store, ids[3])
        assert run("verify").exit_code == 4


def test_a_bar_on_a_terminal(store: Path, ids: list[int]) -> None:
    leader, follower = pty.openpty()
    result = subprocess.run([*AT_ONCE, "verify"], stdout=subprocess.PIPE, stderr=follower, check=True)
    os.close(follower)
    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert "verifying" in shown
    assert "%" in shown
    assert b"verifying" not in result.stdout


# ── repair ─────────────────────────────────────────────────────────────────────────


def test_repair_costs_the_damaged_message_and_says_so(run: Run, store: Path, ids: list[int]) -> None:
    path, offset = damage(store, ids[3])
    bytes_before = path.read_bytes()
    assert run("peek", "mail").exit_code == 4
    tried = contents(store)
    dry = run("repair", "--dry-run", "--json")
    assert dry.exit_code == 0
    assert "copied" not in run("repair", "--dry-run").stdout
    assert run("compact").exit_code == 4  # also if it is small
    assert contents(store) == tried
    result = run("repair", "--json")
    assert result.exit_code == 0
    said, planned = json.loads(result.stdout), json.loads(dry.stdout)
    assert said == planned | {"dry_run": False}
    assert (said["offset"], said["ids"]) == (offset, [ids[3]])
    copy = (store.parent / said["copy"]).read_bytes()
    assert copy == bytes_before[offset : offset + said["size"]]
    assert run("verify").exit_code == 0
    with mq.open(store) as broker:
        assert [each.id for each in broker.queue("mail").peek(1000)] == [id for id in ids if id != ids[3]]


@pytest.fixture
def fanned(store: Path) -> list[int]:
    """The ids of messages of a topic that two queues get, and a third one from the second message on."""
    with mq.open(store) as broker:
        topic = broker.topic("orders.paid", retain_count=9)
        for name in ("mail", "bills"):
            broker.queue(name).subscribe("orders.*")
        broker.queue("apart").publish("x" * 40)
        broker.queue("gone").subscribe("orders.#")
        broker.queue("gone").unsubscribe("orders.#")
        ids = [topic.publish("one " * 10)]
        broker.queue("later").subscribe("#")
        ids.append(topic.publish("two " * 10))
        broker.queue("bills").delete()
        return ids


@pytest.mark.parametrize("at", [60, 28, 25], ids=["its body", "a number of a queue", "how many queues"])
def test_of_a_message_of_a_topic_the_queues_are_named_that_lost_it(
    run: Run, store: Path, fanned: list[int], at: int
) -> None:
    """As its record says, or, if that makes no sense, all that had a pattern then."""
    for id in fanned:
        path, offset = damage(store, id)
        flip(path, offset + 30)
        data = bytearray(path.read_bytes())
        data[offset + at : offset + at + 3] = b"\xff" * 3  # more than a bit, which could be found
        path.write_bytes(data)
        flip(path, offset + 70)
    expected = ["bills", "mail"], ["bills", "later", "mail"]
    for command in (["verify"], ["repair", "--dry-run"], ["repair"]):
        text = run(*command).stdout if command != ["repair"] else ""
        found = [json.loads(each) for each in run(*command, "--json").stdout.splitlines()]
        said = [(each["ids"], each["queues"]) for each in found if each["type"] in ("damage", "lost")]
        assert said == [([id], queues) for id, queues in zip(fanned, expected, strict=True)], command
        assert text == "" or "; from a topic, for 'bills', 'mail'" in text


def test_so_are_those_of_one_that_has_moved(run: Run, store: Path) -> None:
    with mq.open(store, segment_bytes=4096) as broker:
        for name in ("mail", "bills"):
            broker.queue(name).subscribe("orders")
        id = broker.topic("orders").publish("x" * 40)
        others = broker.queue("others")
        while (position := broker._store.replica.state.named("mail").position(id)) == id:
            others.publish_many([bytes(900)] * 9)
            others.ack_many(others.receive_many(9, timeout=0))
            broker._store.maintenance.run(0)
    damage(store, position)
    [damaged, _] = [json.loads(each) for each in run("verify", "--json").stdout.splitlines()]
    assert (damaged["ids"], damaged["queues"]) == ([id], ["bills", "mail"])


def test_repair_of_a_whole_store_does_nothing(run: Run, store: Path, ids: list[int]) -> None:
    before = contents(store)
    result = run("repair")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing is damaged" in result.stderr
    assert contents(store) == before


@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
@pytest.mark.parametrize("args", [("repair",), ("repair", "--dry-run")], ids=" ".join)
def test_repair_wants_the_store_alone(
    run: Run, store: Path, ids: list[int], args: tuple[str, ...], exclusive: bool
) -> None:
    with mq.open(store, segment_bytes=4096, exclusive=exclusive):
        damage(store, ids[3])
        before = contents(store)
        result = run(*args)
        assert result.exit_code == 1
        assert "in use by this process" in result.stderr
        assert contents(store) == before
    assert run("repair").exit_code == 0


@pytest.mark.parametrize("command", ["verify", "repair", "compact"])
def test_where_there_is_no_store(run: Run, store: Path, command: str) -> None:
    result = run(command)
    assert result.exit_code == 1
    assert "no store" in result.stderr or "not a store" in result.stderr
    assert not store.exists()


def test_repair_without_format(run: Run, store: Path, ids: list[int]) -> None:
    line = (store / "FORMAT").read_bytes()
    (store / "FORMAT").unlink()
    assert run("verify").exit_code == 4
    assert run("repair").exit_code == 0
    assert (store / "FORMAT").read_bytes() == line
    assert run("verify").exit_code == 0


def test_open_with_salvage(store: Path, ids: list[int], caplog: pytest.LogCaptureFixture) -> None:
    damage(store, ids[3])
    with pytest.raises(mq.CorruptStore, match="mq repair"):
        mq.open(store)
    with mq.open(store, recover="salvage") as broker:
        assert len(broker.queue("mail").peek(1000)) == len(ids) - 1
    assert [each.name for each in caplog.records] == ["mq"]
    assert str(ids[3]) in caplog.records[0].getMessage()
    for options in ({"recover": "guess"}, {"recover": "salvage", "read_only": True}):
        with pytest.raises(mq.UsageError):
            mq.open(store, **options)  # type: ignore[call-overload]


# ── compact ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def garbage(store: Path) -> list[int]:
    """Eight MiB, of which little lives; too little of it dead for the store to clean by itself."""
    with mq.open(store) as broker:
        queue = broker.queue("mail")
        ids = queue.publish_many([b"%5d" % number * 2000 for number in range(800)])
        queue.ack_many(queue.receive_many(700, timeout=0))
        return ids[700:]


def test_compact_gives_back_what_it_said(run: Run, store: Path, garbage: list[int]) -> None:
    before = contents(store)
    said = json.loads(run("compact", "--dry-run", "--json").stdout)
    assert contents(store) == before
    done = json.loads(run("compact", "--json").stdout)
    assert said["before_bytes"] == done["before_bytes"]
    assert done["given_back_bytes"] > 5 << 20
    assert abs(said["given_back_bytes"] - done["given_back_bytes"]) <= 1 << 20
    assert sum(path.stat().st_size for path in segments(store)) == done["after_bytes"]
    with mq.open(store, read_only=True) as broker:
        assert [each.id for each in broker.queue("mail").peek(1000)] == garbage
    assert run("verify").exit_code == 0
    assert "nothing given back" in run("compact").stdout


def test_compact_of_what_is_small_makes_nothing_larger(run: Run, store: Path, filled: list[int]) -> None:
    """A backup has no room reserved, which a segment that is begun has."""
    assert run("queue", "purge", "mail", "--yes").exit_code == 0
    assert run("backup", "copy").exit_code == 0
    for where in ("copy", "data"):
        size = sum(path.stat().st_size for path in segments(Path(where)))
        said = run("compact", "--dry-run", "-s", where).stdout
        done = run("compact", "-s", where).stdout
        assert said.endswith("; nothing would be given back\n") and done.endswith(": nothing given back\n")
        assert json.loads(run("compact", "-s", where, "--json").stdout)["given_back_bytes"] == 0
        assert sum(path.stat().st_size for path in segments(Path(where))) == size


def test_compact_leaves_what_lives_with_a_dedup_id(run: Run, store: Path) -> None:
    """One record says the message and its id: it is live once, and there is nothing to be gained."""
    with mq.open(store, segment_bytes=1 << 20) as broker:
        queue = broker.queue("mail", dedup_window=3600)
        queue.publish_many([mq.Outgoing(bytes(2000), {"dedup_id": str(number)}) for number in range(1200)])
    before = [path.name for path in segments(store)]
    assert len(before) == 3
    for each in map(json.loads, run("inspect", "--json").stdout.splitlines()):
        assert each["type"] != "segment" or 0 <= each["garbage_bytes"] < 1000
    assert run("compact").stdout.endswith(": nothing given back\n")
    assert [path.name for path in segments(store)] == before


def test_compact_for_a_person(run: Run, store: Path, garbage: list[int]) -> None:
    assert "would be given back" in run("compact", "--dry-run").stdout
    assert "MiB given back" in run("compact").stdout


def test_compact_beside_a_live_process(run: Run, store: Path, garbage: list[int]) -> None:
    with mq.open(store) as broker:
        queue = broker.queue("mail")
        held = queue.receive(timeout=0)
        run("compact", "--dry-run")
        assert "MiB given back" in run("compact").stdout
        held.ack()
        queue.publish("after")
        assert [message.id for message in queue.peek(1000)][:-1] == garbage[1:]
        assert broker.stats().disk_bytes < 4 << 20
    assert run("verify").exit_code == 0


def test_an_estimate_beside_a_process_that_cleans(
    run: Run, store: Path, garbage: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that is gone when it is looked at is no error."""
    with mq.open(store, segment_bytes=1 << 20) as broker:
        plain, looks = garbage_upto, []

        def compacted_meanwhile(replica: Replica, *others: Any) -> int:
            looks.append(replica)
            if len(looks) == 1:
                broker._store.maintenance.compact()
            return plain(replica, *others)

        monkeypatch.setattr(sys.modules["mq.cli.compact"], "garbage_upto", compacted_meanwhile)
        monkeypatch.setattr("mq.engine.compacting.garbage_upto", compacted_meanwhile)
        queue = broker.queue("mail")
        queue.publish_many([bytes(1 << 16)] * 40)
        queue.purge()
        result = run("compact", "--dry-run")
        assert result.exit_code == 0, result.stderr
        assert len(looks) > 2


def test_compact_of_a_store_that_somebody_has_alone(run: Run, store: Path, garbage: list[int]) -> None:
    with mq.open(store, exclusive=True):
        before = contents(store)
        result = run("compact")
        assert result.exit_code == 1
        assert "in use by this process" in result.stderr
        assert contents(store) == before


def test_compact_stops_at_a_damaged_body(run: Run, store: Path, garbage: list[int]) -> None:
    damage(store, garbage[5])
    result = run("compact")
    assert result.exit_code == 4
    assert "mq repair" in result.stderr
    assert run("repair").exit_code == 0
    assert run("compact").exit_code == 0
    with mq.open(store, read_only=True) as broker:
        assert len(broker.queue("mail").peek(1000)) == len(garbage) - 1
