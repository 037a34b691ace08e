"""What cannot be right is refused in one clear line, by an error of the tree, and nothing is written."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import made_here

import mq
from mq.engine.bodies import BODY_BYTES_MAX
from mq.storage import segment
from mq.storage.record import GROUP_BYTES_MAX

Call = Callable[[mq.Broker, mq.Queue, mq.Delivery], object]


class Unknown:
    pass


LOOP: list[object] = []
LOOP.append(LOOP)

SECONDS = [-1, -0.001, math.nan, math.inf, -math.inf, 1e300, "5", b"5", True, [5], 10**400]
COUNTS = [-1, 1.5, "5", None, True, 2**63, math.nan, [5]]
NAMES = [
    "", "x" * 256, "é" * 128, "a\nb", "a\0b", "\x7f", "a\tb", "\x1b[31m", "\ud800", "\u202e", 5, None,
    b"mail", ["mail"], {"mail": 1}, 1.5,
]  # fmt: skip
BODIES = [
    Unknown(), Unknown, LOOP, lambda: 1, 2**64, -(2**63) - 1, "\ud800", {"key": "\ud800"},
    {"deep": [Unknown()]}, range(3), (n for n in range(3)), 1j,
]  # fmt: skip
SEVERAL = [5, None, "text", b"bytes", {"a": 1}, bytearray(b"x"), Unknown()]

CALLS: dict[str, tuple[Call, list[object]]] = {}


def refused(name: str, values: list[object]) -> Callable[[Callable[..., object]], None]:
    """Note a call that must refuse each of *values*."""

    def note(call: Callable[..., object]) -> None:
        for value in values:
            CALLS[f"{name}={str(value)[:20]!a}:{type(value).__name__}"] = call, value

    return note


refused("queue name", NAMES)(lambda broker, queue, held, bad: broker.queue(bad))
refused("queue type", ["int", 5, Unknown()])(lambda broker, queue, held, bad: broker.queue("new", type=bad))
refused("queue visibility_timeout", [*SECONDS, None])(
    lambda broker, queue, held, bad: broker.queue("new", visibility_timeout=bad)
)
refused("queue option", ["max_size", "type_"])(
    lambda broker, queue, held, bad: broker.queue("new", **{bad: 1})
)
refused("publish body", BODIES)(lambda broker, queue, held, bad: queue.publish(bad))
refused("first publish body", BODIES)(lambda broker, queue, held, bad: broker.queue("new").publish(bad))
refused("publish_many body", BODIES)(
    lambda broker, queue, held, bad: queue.publish_many(["fine", bad, "fine"])
)
refused("publish_many bodies", SEVERAL)(lambda broker, queue, held, bad: queue.publish_many(bad))
refused("receive timeout", SECONDS)(lambda broker, queue, held, bad: queue.receive(bad))
refused("receive visibility_timeout", SECONDS)(
    lambda broker, queue, held, bad: queue.receive(timeout=0, visibility_timeout=bad)
)
refused("receive_many limit", [*COUNTS, 0])(
    lambda broker, queue, held, bad: queue.receive_many(bad, timeout=0)
)
refused("receive_many timeout", SECONDS)(lambda broker, queue, held, bad: queue.receive_many(1, bad))
refused("receive_many visibility_timeout", SECONDS)(
    lambda broker, queue, held, bad: queue.receive_many(1, 0, visibility_timeout=bad)
)
refused("ack_many", SEVERAL)(lambda broker, queue, held, bad: queue.ack_many(bad))
refused(
    "ack_many of", ["", "x", "1-2", "1-2-3-4", "1-2-x", "--", 5, None, 1.5, b"1-2-3", "9" * 5000 + "-1-1"]
)(lambda broker, queue, held, bad: queue.ack_many([held, bad]))
refused("peek limit", COUNTS)(lambda broker, queue, held, bad: queue.peek(bad))
refused("peek state", ["dead", "", None, 5, ["ready"]])(
    lambda broker, queue, held, bad: queue.peek(state=bad)
)
refused("get id", COUNTS)(lambda broker, queue, held, bad: queue.get(bad))
refused("nack delay", SECONDS)(lambda broker, queue, held, bad: held.nack(delay=bad))
refused("nack reason", [None, 5, b"because", ValueError()])(
    lambda broker, queue, held, bad: held.nack(reason=bad)
)
refused("extend seconds", SECONDS)(lambda broker, queue, held, bad: held.extend(bad))


@pytest.fixture(scope="module")
def store():
    """A store with one message that waits and one that is held."""
    with mq.open(":memory:") as broker:
        queue = broker.queue("mail")
        queue.publish_many(["held", "waits"])
        yield broker, queue, queue.receive()


def one_line(error: mq.MqError) -> bool:
    text = str(error)
    return bool(text) and len(text.splitlines()) == 1 and text.isprintable()


@pytest.mark.parametrize(("call", "bad"), CALLS.values(), ids=CALLS)
def test_a_bad_argument_is_refused_and_nothing_is_written(store, call, bad):
    broker, queue, held = store
    before, end, names = queue.stats()[:3], broker._store.replica.log.end, broker.queues()
    with pytest.raises(mq.UsageError) as raised:
        call(broker, queue, held, bad)
    assert one_line(raised.value), str(raised.value)
    assert isinstance(raised.value, ValueError)
    assert raised.value.__cause__ is None, "no chain of tracebacks"
    assert (queue.stats()[:3], broker._store.replica.log.end, broker.queues()) == (before, end, names)


def test_what_was_refused_did_no_harm(store):
    """Last of its module."""
    _, queue, held = store
    held.ack()
    assert queue.receive(timeout=0).body == "waits"
    assert queue.stats()[:3] == (0, 1, 0)


# ── too much ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [bytes, bytearray, lambda size: "x" * size, lambda size: [bytes(size)]])
def test_a_body_over_the_limit_is_refused(kind):
    with mq.open(":memory:") as broker:
        queue = broker.queue("mail")
        end = broker._store.replica.log.end
        with pytest.raises(mq.UsageError, match="67,108,864 is the most") as raised:
            queue.publish(kind(BODY_BYTES_MAX + 1))
        assert one_line(raised.value)
        assert (broker.queues(), broker._store.replica.log.end) == ([], end)


def test_a_body_at_the_limit_is_not(tmp_path):
    with mq.open(tmp_path / "data", sync="never") as broker:
        queue = broker.queue("mail")
        queue.publish(bytes(BODY_BYTES_MAX))
        assert len(queue.receive(timeout=0).raw) == BODY_BYTES_MAX


def test_a_batch_over_the_limit_is_refused_whole():
    body = bytes(BODY_BYTES_MAX)
    with mq.open(":memory:") as broker:
        queue = broker.queue("mail")
        end = broker._store.replica.log.end
        with pytest.raises(mq.UsageError, match=f"{GROUP_BYTES_MAX} is the most.*smaller batches") as raised:
            queue.publish_many([body] * 4)
        assert one_line(raised.value)
        assert (queue.stats().ready, broker.queues(), broker._store.replica.log.end) == (0, [], end)


# ── opening ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [
        *({"sync": bad} for bad in ("", "ALWAYS", None, True, 0, 0.0, -1, math.nan, math.inf, b"never", [])),
        *({"segment_bytes": bad} for bad in (0, -1, 1023, 1.5, "64", None, True, GROUP_BYTES_MAX + 1, 2**70)),
        *({"mode": bad} for bad in (0, -1, 0o60, 0o400, 0o770, 0o1660, 660, "0o660", True, 1.5, 2**70)),
        *({"clock": bad} for bad in (5, 1.5, "now")),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_option_makes_no_store(tmp_path, options):
    with pytest.raises(mq.UsageError) as raised:
        mq.open(tmp_path / "data", **options)
    assert one_line(raised.value)
    assert next(iter(options)) in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", "a\0b", None, 5, b"data", ["data"], 1.5], ids=repr)
def test_a_path_is_the_name_of_a_directory(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mq.UsageError, match="path"):
        mq.open(path)
    assert list(tmp_path.iterdir()) == []


def test_memory_cannot_be_read_only():
    with pytest.raises(mq.UsageError, match="new and empty"):
        mq.open(":memory:", read_only=True)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("below", ["", "below"])
def test_a_store_that_is_a_file(tmp_path, read_only, below):
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(mq.StorageError) as raised:
        mq.open(path / below, read_only=read_only)
    assert one_line(raised.value)
    assert raised.value.path.startswith(str(path))
    assert path.read_text() == "precious"


def test_a_reader_of_what_is_not_there(tmp_path):
    with pytest.raises(mq.StorageError, match="there is no such file or directory") as raised:
        mq.open(tmp_path / "nothing", read_only=True)
    assert one_line(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_for_the_file_system(tmp_path):
    with pytest.raises(mq.StorageError) as raised:
        mq.open(tmp_path / ("x" * 300))
    assert one_line(raised.value)


# ── damaged stores ─────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("store") / "data"
    with mq.open(path, segment_bytes=1024) as broker:
        queue = broker.queue("mail")
        for n in range(12):
            queue.publish(b"%2d" % n * 120)
        queue.receive().ack()
    shutil.rmtree(path / "checkpoint", ignore_errors=True)
    return path


@pytest.fixture
def data(template, tmp_path) -> Path:
    """A closed store of several segments that a test may spoil."""
    shutil.copytree(template, path := tmp_path / "data")
    made_here(path)
    return path


def segments(data: Path) -> list[Path]:
    return sorted((data / "log").iterdir())


def content(data: Path) -> dict[str, bytes]:
    """What must not be changed by looking: everything but the lock and the page of numbers."""
    files = [each for each in data.rglob("*") if each.is_file()]
    return {
        str(each.relative_to(data)): each.read_bytes() for each in files if each.name not in ("LOCK", "mark")
    }


def refuses(data: Path, error: type[mq.MqError], *, match: str) -> mq.MqError:
    """Both ways of opening are refused, and nothing was changed."""
    before = content(data)
    for read_only in (True, False):
        with pytest.raises(error, match=match) as raised:
            mq.open(data, read_only=read_only)
        assert one_line(raised.value), str(raised.value)
        assert content(data) == before
    return raised.value


def whole(data: Path) -> bool:
    with mq.open(data) as broker:
        return [message.raw for message in broker.queue("mail").peek(20)] == [
            b"%2d" % n * 120 for n in range(1, 12)
        ]


def test_the_template_is_whole(data):
    assert len(segments(data)) > 3
    assert whole(data)


def test_an_unknown_format_version(data):
    from crc32c import crc32c

    path = data / "FORMAT"
    line = path.read_bytes()
    text = b"mq 99" + line[4:].rpartition(b" ")[0]
    path.write_bytes(text + b" %08x\n" % crc32c(text))
    refuses(data, mq.Unsupported, match=f"{path}: store format 99 .* upgrade mq")
    path.write_bytes(line)
    assert whole(data)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda line: b"", id="empty"),
        pytest.param(lambda line: line[:-5], id="cut short"),
        pytest.param(lambda line: line.replace(b"a", b"b").replace(b"1 ", b"1 0", 1), id="altered"),
        pytest.param(lambda line: b"\xff" * 80, id="garbage"),
        pytest.param(lambda line: line * 2, id="twice"),
    ],
)
def test_a_damaged_format_file(data, spoil):
    path = data / "FORMAT"
    line = path.read_bytes()
    path.write_bytes(spoil(line))
    error = refuses(data, mq.CorruptStore, match="FORMAT at offset 0")
    assert (error.path, error.offset) == (str(path), 0)
    path.write_bytes(line)
    assert whole(data)


def test_a_log_without_a_format_file(data):
    line = (data / "FORMAT").read_bytes()
    (data / "FORMAT").unlink()
    refuses(data, mq.StorageError, match="no FORMAT file")
    (data / "FORMAT").write_bytes(line)
    assert whole(data)


@pytest.mark.parametrize("at", [segment.HEADER_BYTES + 100, 400, 700])
def test_a_flipped_bit(data, at):
    path = segments(data)[1]
    good = path.read_bytes()
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    error = refuses(data, mq.CorruptStore, match="gone or altered")
    assert error.path == str(path)
    assert error.offset is not None
    assert error.offset <= at
    assert error.ids
    path.write_bytes(good)
    assert whole(data)


@pytest.mark.parametrize("size", [0, 10, segment.HEADER_BYTES, segment.HEADER_BYTES + 50, 500])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_truncated_segment(data, which, size):
    path = segments(data)[which]
    good = path.read_bytes()
    os.truncate(path, size)
    error = refuses(data, mq.CorruptStore, match=r".")
    assert error.path.startswith(str(data / "log"))
    assert error.offset is not None
    path.write_bytes(good)
    assert whole(data)


def test_a_missing_segment(data):
    path = segments(data)[2]
    good = path.read_bytes()
    path.unlink()
    error = refuses(data, mq.CorruptStore, match="missing")
    assert error.path == str(path)
    path.write_bytes(good)
    assert whole(data)


def test_a_zero_length_segment_behind_the_last_is_one_that_was_never_used(data):
    base = int(segments(data)[-1].stem) + 1024
    (data / "log" / f"{base:020}.seg").touch()
    assert whole(data)


def test_a_segment_of_another_store(data, tmp_path):
    with mq.open(tmp_path / "other", segment_bytes=1024) as other:
        for _ in range(8):
            other.queue("mail").publish(b"x" * 240)
    path = segments(data)[1]
    good = path.read_bytes()
    path.write_bytes(segments(tmp_path / "other")[1].read_bytes())
    error = refuses(data, mq.CorruptStore, match="belongs to another store")
    assert (error.path, error.offset) == (str(path), 0)
    path.write_bytes(good)
    assert whole(data)


@pytest.mark.parametrize("name", ["notes.txt", "00000000000000000000.seg.bak", ".hidden", "7.seg"])
def test_a_foreign_file_in_the_log(data, name):
    path = data / "log" / name
    path.write_text("mine")
    error = refuses(data, mq.StorageError, match="move it elsewhere")
    assert error.path == str(path)
    path.unlink()
    assert whole(data)


def test_a_damaged_page_of_numbers_costs_nothing(data):
    for page in (b"", b"\xff" * 10, os.urandom(4096), bytes(4096)):
        (data / "mark").write_bytes(page)
        assert whole(data)


def test_one_bad_body_costs_itself_alone(data):
    """P10: found while the store is open."""
    with mq.open(data) as broker:
        queue = broker.queue("mail")
        ids = [message.id for message in queue.peek(20)]
        path = next(each for each in reversed(segments(data)) if int(each.stem) <= ids[4])
        at = ids[4] - int(path.stem) + segment.HEADER_BYTES + 50
        good = path.read_bytes()
        path.write_bytes(good[:at] + b"~" + good[at + 1 :])
        got = []
        for _ in ids:
            try:
                got.append(queue.receive(timeout=0).id)
            except mq.CorruptStore as error:
                assert error.ids == (ids[4],)
                assert one_line(error)
        assert got == ids[:4] + ids[5:]
        path.write_bytes(good)
