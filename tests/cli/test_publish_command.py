"""mq publish."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import Result
from commands import Run

import mq
from mq.engine.bodies import BODY_BYTES_MAX


def bodies(store: Path, queue: str = "q") -> list[object]:
    with mq.open(store, read_only=True) as broker:
        return [message.body for message in broker.queue(queue).peek(1000)]


def ids(result: Result) -> list[int]:
    return [int(line) for line in result.stdout.splitlines()]


def test_each_argument_is_a_message_and_its_id_is_printed(run: Run, store: Path) -> None:
    result = run("publish", "q", "a", "b\nc", "")
    assert result.exit_code == 0
    assert bodies(store) == ["a", "b\nc", ""]
    with mq.open(store, read_only=True) as broker:
        assert ids(result) == [message.id for message in broker.queue("q").peek()]


def test_beside_a_live_process_that_waits(run: Run, store: Path) -> None:
    with mq.open(store) as broker, ThreadPoolExecutor() as pool:
        waiting = pool.submit(broker.queue("q").receive, timeout=300)
        result = run("publish", "q", "a")
        message = waiting.result()
        assert [message.id] == ids(result)
        message.ack()
    assert bodies(store) == []


def test_the_first_publish_says_where_it_made_the_store(run: Run, store: Path) -> None:
    assert str(store) in run("publish", "q", "a").stderr
    assert run("publish", "q", "a").stderr == ""


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256])
def test_no_store_is_made_for_a_name_that_no_queue_can_have(run: Run, store: Path, name: str) -> None:
    result = run("publish", name, "a")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert not store.exists()


def test_each_line_is_a_message_also_an_empty_one_and_one_without_an_end(run: Run, store: Path) -> None:
    result = run("publish", "q", input="wörld\n\r\n\nlast".encode())
    assert bodies(store) == ["wörld", "\r", "", "last"]
    assert len(ids(result)) == 4


def test_json_becomes_structures_and_blank_lines_are_skipped(run: Run, store: Path) -> None:
    run("publish", "q", "--as", "json", input=b'{"a": [1, 2.5, null]}\n\n  \n"text"\n7\n')
    assert bodies(store) == [{"a": [1, 2.5, None]}, "text", 7]


def test_json_with_a_bom(run: Run, store: Path) -> None:
    run("publish", "q", "--as", "json", input=b'\xef\xbb\xbf{"a": 1}\n')
    assert bodies(store) == [{"a": 1}]


@pytest.mark.parametrize("way", ["arguments", "lines"])
def test_objects_and_arrays_become_structures_and_all_else_is_text(run: Run, store: Path, way: str) -> None:
    given = [
        '{"to": "ada"}',
        " [1, 2] ",
        "42",
        "null",
        '"x"',
        "{no",
        "[error] disk",
        "1e999",
        '{"n": 1' + "0" * 400 + "}",
    ]
    stored = [{"to": "ada"}, [1, 2], *given[2:]]
    lines = "\n".join(given).encode()
    args, input = (given, None) if way == "arguments" else ([], lines)
    result = run("publish", "q", *args, input=input)
    assert bodies(store) == stored
    assert "mq: 2 of 9 stored as JSON structures; --as text stores" in result.stderr
    assert "JSON" not in run("publish", "other", "hello", "42").stderr
    assert "mq: stored as a JSON structure" in run("publish", "other", "[]").stderr
    for options in (["-q"], ["--as", "json"]):
        assert "JSON" not in run("publish", "other", "[]", *options).stderr
    run("publish", "text", *args, "--as", "text", input=input)
    with mq.open(store) as broker:
        assert [each.body for each in broker.queue("text").peek(99)] == given


def test_bytes_are_stored_as_they_are(run: Run, store: Path) -> None:
    run("publish", "q", "--as", "bytes", input=b"\xff\x00\n\xfe")
    assert bodies(store) == [b"\xff\x00", b"\xfe"]


def test_ids_as_json_and_no_ids_at_all(run: Run, store: Path) -> None:
    first = json.loads(run("publish", "q", "a", "--json").stdout)
    assert first["queue"] == "q" and isinstance(first["id"], int)
    assert run("publish", "q", "a", "-q").stdout == ""


def test_no_lines_no_messages(run: Run, store: Path) -> None:
    result = run("publish", "q", input=b"")
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.parametrize(
    "kind, bad, why",
    [
        pytest.param("text", b"caf\xe9", "not UTF-8 at byte 3", id="not UTF-8"),
        pytest.param("json", b"{oops", "not JSON", id="not JSON"),
        pytest.param("json", b'"\xff"', "not", id="JSON that is not UTF-8"),
        pytest.param("json", b"[" * 100_000, "not JSON", id="nested too deep"),
        pytest.param("json", b"1" + b"0" * 30, "cannot be stored", id="a number too big"),
    ],
)
def test_a_bad_line_is_named_and_all_before_it_is_published(
    run: Run, store: Path, kind: str, bad: bytes, why: str
) -> None:
    result = run("publish", "q", "--as", kind, input=b'"a"\n"b"\n' + bad + b'\n"c"\n')
    assert result.exit_code == 1
    assert "line 3: " in result.stderr and why in result.stderr and "2 messages" in result.stderr
    assert len(ids(result)) == len(bodies(store)) == 2


@pytest.mark.parametrize(
    "error, last, said",
    [
        (mq.StoreFailed("data", "an fsync failed"), b"c", r"whether lines 263 to 265 are is open"),
        (mq.StoreFailed("data", "an fsync failed"), b"\xff", r"whether lines 263 to 264 are is open"),
        (mq.QueueFull("q is full"), b"c", r"go on from there"),
    ],
)
def test_a_batch_that_failed_is_told_from_one_whose_outcome_is_open(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: mq.MqError, last: bytes, said: str
) -> None:
    plain, batches = mq.Queue.publish_many, []

    def fails_at_the_second(queue: mq.Queue[object], bodies: list[object]) -> object:
        batches.append(len(bodies))
        if len(batches) > 1:
            raise error
        return plain(queue, bodies)

    monkeypatch.setattr(mq.Queue, "publish_many", fails_at_the_second)
    result = run("publish", "q", input=b"\n".join([b"x" * 999] * 262 + [b"a" * 999, b"b", last, b""]))
    assert result.exit_code == 1 and len(ids(result)) == batches[0] == 262
    told, why = result.stderr.splitlines()[-2:]
    assert told.startswith("mq: all before line 263 is published (262 messages); ") and said in told
    assert ("go on from there" in told) != ("mq peek q" in told)
    assert str(error) in why


def test_a_bad_argument_publishes_nothing(run: Run, store: Path) -> None:
    result = run("publish", "q", "--as", "json", "1", "{oops")
    assert result.exit_code == 2
    assert "not JSON" in result.stderr
    assert not store.exists()


def test_a_line_over_the_limit_is_refused(run: Run, store: Path) -> None:
    result = run("publish", "q", input=b"ok\n" + b"x" * (BODY_BYTES_MAX + 1))
    assert result.exit_code == 1
    assert "line 2: longer than 67,108,864 bytes" in result.stderr
    assert bodies(store) == ["ok"]


def test_lines_longer_than_what_is_read_at_once_stay_whole(run: Run, store: Path) -> None:
    long = [letter * 700_000 for letter in "abc"]
    run("publish", "q", input="\n".join([*long, "d", ""]).encode())
    assert bodies(store) == [*long, "d"]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256])
def test_a_name_that_cannot_be_a_queue_is_a_usage_error(run: Run, name: str) -> None:
    result = run("publish", name, "a")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("mq: ")


def test_a_directory_with_other_files_does_not_become_a_store(run: Run, store: Path) -> None:
    store.mkdir()
    (store / "holiday.jpg").touch()
    result = run("publish", "q", "a")
    assert result.exit_code == 1 and "other files are in there (holiday.jpg)" in result.stderr
    assert [each.name for each in store.iterdir()] == ["holiday.jpg"]


def test_an_empty_directory_becomes_a_store(run: Run, store: Path) -> None:
    store.mkdir()
    assert run("publish", "q", "a").exit_code == 0


def test_the_end_of_a_line_of_another_system_and_a_bom_are_kept(run: Run, store: Path) -> None:
    run("publish", "q", input=b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert bodies(store) == ["\ufeffone\r", "two\r"]
    run("publish", "json", "--as", "json", input=b'\xef\xbb\xbf{"a": 1}\r\n[2]\r\n')
    with mq.open(store) as broker:
        assert [each.body for each in broker.queue("json").peek()] == [{"a": 1}, [2]]
