"""mq tail, top and stats; dump from a place; inspect by kind and queue."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import Result
from commands import Run

import mq
from mq.cli import output, stats, top
from mq.cli.app import Failure
from mq.cli.follow import Follower
from mq.cli.tail import _follow
from mq.engine.reading import Reader
from mq.storage.real_disk import RealDisk


def objects(result: Result, **match: object) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return [each for each in found if all(each.get(key) == value for key, value in match.items())]


# ── tail ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def traffic(store: Path) -> list[int]:
    """Publishes to two queues and a topic, a dead letter and its replay; the ids of `mail`."""
    with mq.open(store) as broker:
        mail = broker.queue("mail")
        broker.queue("orders").subscribe("shop.#")
        ids = [mail.publish("one"), mail.publish({"two": 2}, priority=3)]
        broker.topic("shop.eu").publish(b"three", headers={"a": "b"})
        mail.receive(timeout=0).reject("hopeless")  # type: ignore[union-attr]
        broker.queue("mail.dead").replay()
    return ids


def tail(run: Run, *args: str) -> list[dict[str, Any]]:
    return objects(run("tail", "--since", "0", "--until-end", "--json", *args))


def test_tail_shows_what_is_published(run: Run, store: Path, traffic: list[int]) -> None:
    one, two, three, back = tail(run)
    assert (one["id"], one["queue"], one["queues"], one["body"]) == (traffic[0], "mail", ["mail"], "one")
    assert (two["body_type"], two["body"], two["priority"]) == ("structure", {"two": 2}, 3)
    assert (three["topic"], three["queue"], three["queues"]) == ("shop.eu", None, ["orders"])
    assert (back["id"], back["queue"]) == (traffic[1], "mail")
    assert len(run("tail", "--since", "0", "--until-end").stdout.splitlines()) == 4


@pytest.mark.parametrize(
    "args, bodies",
    [
        (["orders"], ["three"]),
        (["mail"], ["one", {"two": 2}, {"two": 2}]),
        (["-t", "shop.*"], ["three"]),
        (["-t", "other.#"], []),
        (["-t", "#", "mail", "-n", "2"], ["one", {"two": 2}]),
        (["nowhere"], []),
    ],
)
def test_tail_shows_only_what_is_asked_for(
    run: Run, traffic: list[int], args: list[str], bodies: list[object]
) -> None:
    assert [each["body"] for each in tail(run, *args)] == bodies


def test_tail_shows_a_dead_letter_where_it_arrives(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        broker.queue("mail").publish("one")
        broker.queue("mail").receive(timeout=0).reject("hopeless")  # type: ignore[union-attr]
    (found,) = tail(run, "mail.dead")
    assert (found["origin"], found["failures"][0]["reason"], found["body"]) == ("mail", "hopeless", "one")
    text = run("tail", "mail.dead", "--since", "0", "--until-end").stdout
    assert text.endswith("died in mail (hopeless): one\n")


def test_tail_begins_where_it_is_told(run: Run, store: Path, traffic: list[int]) -> None:
    found = objects(run("tail", "mail", "--since", str(traffic[1]), "--until-end", "--json"))
    assert [each["body"] for each in found] == [{"two": 2}, {"two": 2}]
    assert objects(run("tail", "--since", "1h", "--until-end", "--json")) == tail(run)
    assert run("tail", "--since", "2040-01-01T00:00Z", "--until-end").stdout == ""
    assert run("tail", "--until-end").stdout == "", "what was there before is not new"


def test_a_follower_reads_on_over_segments_and_cleaning(store: Path) -> None:
    """Each record once, in order, and what went unread is counted."""
    disk = RealDisk()
    with mq.open(store, segment_bytes=4096) as broker:
        queue = broker.queue("q")
        first = queue.publish("first")
        follower = Follower(disk, str(store), 0)
        late = Follower(disk, str(store), first)
        seen = []
        for _ in range(6):
            ids = queue.publish_many(["x" * 100] * 20)
            new = [found.lsn for _, found in follower.read() if found.kind == 17]
            assert new[-20:] == ids
            seen += new
            queue.ack_many(queue.receive_many(20))
        assert seen == sorted(set(seen)) and len(seen) == 121
        assert list(follower.read()) and follower.skipped == 0 and list(follower.read()) == []
        broker._store.maintenance.compact(lambda done, total: None)
        list(late.read())
        assert late.skipped > 0 and late.position == follower.end()


def test_a_follower_goes_on_behind_a_crash(store: Path) -> None:
    """The next process begins a new segment, and the rest of the last one is void."""
    disk = RealDisk()
    with mq.open(store, sync="never") as broker:
        broker.queue("q").publish("before")
    follower = Follower(disk, str(store), None)
    (segment,) = (store / "log").iterdir()
    with segment.open("r+b") as file:  # the closing record is torn
        file.seek(segment.stat().st_size and follower.position + 72 - 10)
        file.write(b"\xff" * 30)
    (store / "mark").unlink()
    with mq.open(store) as broker:
        id = broker.queue("q").publish("after")
        found = [item.lsn for _, item in follower.read() if item.kind == 17]
    assert found == [id]


# ── top ────────────────────────────────────────────────────────────────────────────


def test_top_prints_lines_where_there_is_no_terminal(run: Run, traffic: list[int]) -> None:
    lines = run("top", "-n", "2", "--every", "0").stdout.splitlines()
    assert len(lines) == 6 and "  mail  ready 2  in flight 0  delayed 0  in 0.0/s" in lines[0]
    (found,) = objects(run("top", "mail", "-n", "1", "--json"))
    assert found.keys() == {
        "at", "queue", "ready", "in_flight", "delayed", "oldest_age", "paused", "published_per_second",
        "settled_per_second", "failed_per_second",
    }  # fmt: skip


def queue_stats(name: str, ready: int, published: int = 0, acked: int = 0, paused: bool = False) -> Any:
    totals = stats.Totals(published, acked, 0, 0, 0, 0)
    return stats.QueueStats(name, ready, 0, 0, 0, 1.5, paused, totals, None)  # type: ignore[arg-type]


def test_rates_are_what_came_and_went_in_between() -> None:
    row = top._row(queue_stats("q", 5, 30, 10), queue_stats("q", 5, 10, 5), 2.0)
    assert (row.published, row.settled, row.failed) == (10.0, 2.5, 0.0)
    assert top._row(queue_stats("q", 5, 30), None, 2.0).published == 0
    assert top._row(queue_stats("q", 5, 3), queue_stats("q", 5, 30), 2.0).published == 0, "made anew"


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("height", [5, 24])
def test_the_screen_of_top_fits(width: int, height: int) -> None:
    names = ["mail", "日本語" * 15, "mail.dead", *(f"queue-{number}" for number in range(20))]
    rows = [
        top.Row(queue_stats(name, at * 1000, paused=at == 1), at, 2.0, 0.0) for at, name in enumerate(names)
    ]
    lines = top.laid_out("/somewhere/data", rows, width, height, colours=False)
    assert len(lines) <= height and max(map(output.width, lines)) <= width
    assert lines[2].split()[0] == "queue" and lines[3].startswith("mail")
    assert lines[-1] == f"{len(rows) - height + 4} queues more"
    coloured = top.laid_out("/somewhere/data", rows, width, 24, colours=True)
    assert coloured[4].startswith("\x1b[33m") and coloured[5].startswith("\x1b[31m")


@pytest.mark.parametrize(
    "depth, most, shown", [(0, 10, ""), (1, 10_000, "▏"), (5, 10, "██"), (10, 10, "████"), (0, 0, "")]
)
def test_the_bar_of_a_depth(depth: int, most: int, shown: str) -> None:
    assert top.bar(depth, most, 4) == shown.ljust(4)


# ── stats ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "args, form",
    [(["mail"], stats.QueueStats), (["shop"], stats.TopicStats), ([], stats.StoreStats)],
    ids=["queue", "topic", "store"],
)
def test_what_stats_print_is_what_their_schema_says(
    run: Run, store: Path, traffic: list[int], args: list[str], form: type
) -> None:
    run("topic", "set", "shop", "--retain-count", "5")
    printed = run("stats", *args, "--json").stdout
    found = msgspec.json.decode(printed, type=form)
    assert msgspec.json.encode(found).decode() + "\n" == printed
    schema = json.loads(run("stats", "--schema").stdout)
    (known,) = [each for name, each in schema["$defs"].items() if name == form.__name__]
    assert json.loads(printed).keys() == known["properties"].keys() == set(known["required"])


def test_the_stats_of_queues_are_those_of_each(run: Run, traffic: list[int]) -> None:
    for each in objects(run("queues", "--json")):
        alone = json.loads(run("stats", each["queue"], "--json").stdout)
        assert alone.pop("oldest_age") >= each.pop("oldest_age") and alone == each


def test_stats_of_the_store(run: Run, traffic: list[int]) -> None:
    rows = dict(line.split(None, 1) for line in run("stats").stdout.splitlines())
    assert (rows["queues"], rows["ready"], rows["disk"]) == ("3", "3", "1.0 MiB, in 1 segment")


def test_queues_may_be_chosen_by_their_beginning(run: Run, traffic: list[int]) -> None:
    assert [each["queue"] for each in objects(run("queues", "ma", "--json"))] == ["mail", "mail.dead"]
    assert "no queue begins with 'x'" in run("queues", "x").stderr


# ── dump and inspect ───────────────────────────────────────────────────────────────


def test_dump_begins_and_ends_where_it_is_told(run: Run, traffic: list[int]) -> None:
    everything = objects(run("dump", "--json"))
    lsns = [each["lsn"] for each in everything]
    for at in (0, 3, len(lsns) - 1):
        assert objects(run("dump", "--json", "--from", str(lsns[at]))) == everything[at:]
        assert objects(run("dump", "--json", "--until", str(lsns[at]))) == everything[:at]
    assert objects(run("dump", "--json", "--from", "1h", "--until", "2040-01-01T00:00Z")) == everything
    assert objects(run("dump", "--json", "--until", "1h")) == []
    between = objects(run("dump", "--json", "--from", str(traffic[0]), "--until", str(traffic[0] + 1)))
    assert [each["body"] for each in between] == ["one"]


def test_dump_shows_whole_bodies(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        broker.queue("q").publish("long " * 50 + "\nsecond \x1b line")
    assert "long " * 50 not in run("dump", "-k", "publish").stdout
    _, first, second = run("dump", "-k", "publish", "--bodies").stdout.splitlines()
    assert (first, second) == ("    " + "long " * 50, r"    second \x1b line")


def test_inspect_counts_by_kind_and_queue_and_names_the_oldest(
    run: Run, store: Path, traffic: list[int]
) -> None:
    text = run("inspect").stdout
    titles = [line for line in text.splitlines() if line[:1].isupper()]
    assert titles == ["Segments", "Records by kind", "Records by queue"]
    assert f"oldest    message {traffic[0]} in mail, published 20" in text
    whole, *_ = objects(run("inspect", "--json"))
    assert (whole["oldest"]["id"], whole["oldest"]["queue"]) == (traffic[0], "mail")
    mail, dead = (
        objects(run("inspect", "--json"), type="queue", queue=name)[0] for name in ("mail", "mail.dead")
    )
    assert (mail["messages"], mail["records"]["publish"], dead["messages"]) == (2, 2, 0)
    (topics,) = objects(run("inspect", "--json"), queue="(topics)")
    assert topics["records"] == {"declare": 1, "fanout": 1}


def test_inspect_names_who_has_it_open(run: Run, store: Path, traffic: list[int]) -> None:
    assert objects(run("inspect", "--json"))[0]["processes"] == []
    with mq.open(store):
        (holder,) = objects(run("inspect", "--json"))[0]["processes"]
        assert holder["pid"] == os.getpid() and holder["command"]
        assert "Processes that have it open\n" in run("inspect").stdout


def test_peek_shows_all_that_a_message_was_published_with(run: Run, store: Path) -> None:
    run("publish", "q", "one", "-p", "9", "--group", "g", "--ttl", "1h", "-H", "a=b")
    header, row = run("peek", "q").stdout.splitlines()
    assert header.split() == ["id", "age", "attempts", "kind", "size", "with", "body"]
    assert "priority 9, group g, a=b, expires in" in row
    text = run("peek", "q", "--long").stdout
    for said in ("priority   9", "group      g", "header     a=b", "expires    20", "body       text, 3 B"):
        assert said in text
    id = row.split()[0]
    assert run("peek", "q", id, "--long").stdout.startswith("message    " + id)
    missing = run("peek", "q", "1")
    assert missing.exit_code == 3 and "`mq dump --message 1` has its story" in missing.stderr


def test_tail_says_that_the_log_is_damaged(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for ever for what will never be whole."""
    monkeypatch.setattr("mq.cli.tail.LOOK_SECONDS", 0)
    with mq.open(store) as broker:
        ids = [broker.queue("q").publish(body) for body in ("one", "two")]
        with (store / "log" / f"{0:020}.seg").open("r+b") as file:
            file.seek(72 + ids[1] + 25)
            file.write(b"\xff")
        seen = []
        shown: Any = SimpleNamespace(count=0, show=lambda each, found: seen.append(found.lsn))
        with pytest.raises(Failure, match="cannot be read on") as caught:
            _follow(Follower(RealDisk(), str(store), 0), shown, None, once=True)
    assert caught.value.exit_code == 4 and seen[-1] == ids[0]


def test_questions_are_answered_from_one_reading(run: Run, store: Path, traffic: list[int]) -> None:
    """Beside a process that writes, the log is read once, and not for each question."""
    reads, attach = [], Reader.attach

    def attach_and_note(reader: Reader) -> None:
        reads.append(reader)
        attach(reader)
        with mq.open(store) as broker:  # writes whenever it was looked
            broker.queue("mail").publish("more")

    with pytest.MonkeyPatch.context() as patch, mq.open(store):
        patch.setattr(Reader, "attach", attach_and_note)
        for command in ("queues", "dead", "stats mail", "topics", "subscriptions", "peek mail --long"):
            reads.clear()
            assert run(*command.split()).exit_code == 0
            assert len(reads) == 1, command


def test_what_was_read_is_read_again_once_its_segment_goes(store: Path) -> None:
    """P7: no message that was moved meanwhile is called damaged."""
    with mq.open(store, segment_bytes=4096) as broker:
        queue = broker.queue("q")
        kept = queue.publish("kept")
        with mq.open(store, read_only=True) as reader:
            reader._store.hold_still()
            queue.receive(timeout=0)
            assert reader.queue("q").stats().ready == 1, "as it was"
            for _ in range(5):
                queue.publish_many(["x" * 100] * 30)
                queue.ack_many(queue.receive_many(30))
            broker._store.maintenance.compact(lambda done, total: None)
            assert not (store / "log" / f"{0:020}.seg").exists()
            found = reader.queue("q").get(kept)
            assert found and found.body == "kept"
            assert reader.queue("q").stats().in_flight == 1, "as it is now"
            queue.publish("more")
            assert reader.queue("q").stats().ready == 0
            reader._store.hold_still(again=True)
            assert reader.queue("q").stats().ready == 1


def test_top_names_the_queues_there_are(run: Run, traffic: list[int]) -> None:
    result = run("top", "nope", "-n", "1")
    assert (result.exit_code, result.stdout) == (1, "") and "there are: " in result.stderr


@pytest.mark.parametrize(
    "args", [["queues"], ["dump"], ["receive", "mail"], ["verify"], ["top"]], ids=" ".join
)
def test_a_missing_store_is_told_of_in_one_way(run: Run, store: Path, args: list[str]) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "mq: data: there is no store here; check --store, or publish something first\n"


def test_the_path_of_a_backup_is_shown_with_its_control_characters(run: Run, traffic: list[int]) -> None:
    assert run("backup", "there\x1b[2J").stdout.startswith("there\\x1b[2J is a backup")
