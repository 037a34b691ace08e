"""Compatibility: this mq beside 0.1.0, as it was, in both orders.  FORMAT.md, Versions.

tests/golden/make_mq_0_1_0.py says where that one comes from.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from companions import Companion, until
from fakes import QuickDisk, open_on

import mq
from mq.storage import record, repair, segment, shared

ARCHIVE = Path(__file__).parent / "golden" / "mq-0.1.0.tar.xz"
OLD_BODIES = ["one", "two", "three"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory that 0.1.0 is in."""
    where = tmp_path_factory.mktemp("mq-0.1.0")
    with tarfile.open(ARCHIVE) as archive:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and later; from 3.12 on it warns without one
            archive.extractall(where, filter="data")
        else:
            archive.extractall(where)
    return str(where)


@pytest.fixture
def old(library: str) -> Iterator[Companion]:
    """A process with 0.1.0."""
    with Companion("program", library=library) as companion:
        assert companion.do("library").startswith(library)
        yield companion


def features(path: Path) -> list[int]:
    return [int.from_bytes(each.read_bytes()[12:16], "little") for each in sorted((path / "log").iterdir())]


def files(path: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}


def log_of(path: Path) -> dict[str, bytes]:
    return files(path / "log")


def left_by(old: Companion, path: Path, *, close: bool = True) -> None:
    """A store that 0.1.0 made."""
    old.do("open", str(path))
    old.do("publish", "q", *OLD_BODIES)
    old.do("receive", "q")
    if close:
        old.do("close")


def bodies(broker: mq.Broker) -> list[object]:
    q = broker.queue("q")
    return [each.body for state in ("in_flight", "ready") for each in q.peek(state=state)]


# ── one after the other ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("close", [True, False], ids=["closed", "killed"])
def test_an_old_store_opens_and_is_of_this_revision_before_anything_is_written(tmp_path, old, close):
    path = tmp_path / "s"
    left_by(old, path, close=close)
    if not close:
        old.kill()
    before = log_of(path)
    assert features(path) == [0]
    with open_on(QuickDisk(), path, background=False) as broker:  # nothing is cleaned meanwhile
        assert features(path) == [0, segment.REVISION_2]
        assert bodies(broker) == OLD_BODIES
        after = log_of(path)
        for name, content in before.items():  # but for room that was reserved
            assert after[name].rstrip(b"\0") == content.rstrip(b"\0")
        (last,) = after.keys() - before.keys()
        assert [kind for kind, _ in records(Path(last))][:2] == [record.FENCE, record.CLOSED]
        broker.queue("q").publish("four")
    with open_on(QuickDisk(), path, background=False) as broker:
        assert max(log_of(path)) == last  # once
        assert bodies(broker) == [*OLD_BODIES, "four"]


def records(path: Path) -> Iterator[tuple[int, bytes]]:
    data, at = path.read_bytes(), segment.HEADER_BYTES
    while at + 24 <= len(data) and any(data[at : at + 24]):
        length, kind = int.from_bytes(data[at + 4 : at + 8], "little"), data[at + 20]
        yield kind, data[at + 24 : at + 24 + length]
        at += 24 + length


def test_a_new_store_has_the_bit_in_its_first_segment(tmp_path):
    with mq.open(tmp_path / "s") as broker:
        broker.queue("q").publish("q")
        assert features(tmp_path / "s") == [segment.REVISION_2]
    mq.open(tmp_path / "s").close()
    assert features(tmp_path / "s") == [segment.REVISION_2]


def test_an_old_mq_refuses_a_store_of_this_one_by_name_and_leaves_it_as_it_is(tmp_path, old):
    path = tmp_path / "s"
    left_by(old, path)
    with mq.open(path) as broker:
        broker.queue("q").publish("four")
    before = files(path / "log") | files(path / "checkpoint")
    for options in ({}, {"read_only": True}, {"recover": "salvage"}, {"exclusive": True}):
        with pytest.raises(mq.Unsupported, match=r"features 0x1 .*upgrade mq"):
            old.do("open", str(path), **options)
    assert files(path / "log") | files(path / "checkpoint") == before
    with mq.open(path) as broker:
        assert bodies(broker) == [*OLD_BODIES, "four"]


def test_a_reader_never_upgrades(tmp_path, old):
    path = tmp_path / "s"
    left_by(old, path)
    before = files(path)
    with mq.open(path, read_only=True) as broker:
        assert bodies(broker) == OLD_BODIES
    assert files(path) == before
    old.do("open", str(path))
    assert old.do("publish", "q", "four")


def mend(path: Path, name: str) -> None:
    """Damage the header of a segment, and have it written again."""
    from mq.delivery import records
    from mq.delivery.decode import refusals  # not at the top: the old mq, which reads this file, has none

    with Path(name).open("r+b") as file:
        file.seek(20)
        file.write(b"damage")
    assert len(repair.repair(QuickDisk(), str(path), records.NEW, records.message_of, refusals)) == 1


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_repair_of_a_store_of_both_revisions_keeps_an_old_mq_out(tmp_path, old, index):
    path = tmp_path / "s"
    left_by(old, path)
    for _ in range(2):
        broker = open_on(QuickDisk(), path, background=False)
        broker.queue("q").publish("x" * 600)
        broker._store.let_go()  # killed
    assert features(path) == [0, 1, 1]
    mend(path, sorted(log_of(path))[index])
    assert features(path)[1:] == [1, 1]
    with mq.open(path, read_only=True) as broker:
        assert bodies(broker) == [*OLD_BODIES, "x" * 600, "x" * 600]


def test_a_repair_of_a_store_of_one_revision_leaves_it_there(tmp_path, old):
    left_by(old, tmp_path / "old")
    with mq.open(tmp_path / "new") as broker:
        broker.queue("q").publish("new")
    for path in (tmp_path / "old", tmp_path / "new"):
        ((name, before),) = log_of(path).items()
        mend(path, name)
        assert log_of(path) == {name: before}
    old.do("open", str(tmp_path / "old"))
    assert old.do("receive", "q")[1] == "two"


# ── beside each other ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [{}, {"exclusive": True}, {"recover": "salvage"}])
def test_beside_an_old_mq_this_one_is_refused_with_both_versions_named(tmp_path, old, options):
    path = tmp_path / "s"
    left_by(old, path, close=False)
    before = files(path)
    says = "version 1 of the page.*version 4"
    kind: type[Exception] = mq.Unsupported
    if options.get("exclusive"):
        kind, says = mq.StoreLocked, str(old.pid)
    with pytest.raises(kind, match=says):
        mq.open(path, **options)
    assert files(path) == before
    with mq.open(path, read_only=True) as broker:
        assert bodies(broker) == OLD_BODIES
        old.do("publish", "q", "four")
        assert bodies(broker) == [*OLD_BODIES, "four"]
    assert old.do("receive", "q")[1] == "two"
    old.do("close")
    with mq.open(path) as broker:
        assert bodies(broker)[-1] == "four"


def test_beside_this_mq_an_old_one_is_refused_by_name(tmp_path, old):
    path = tmp_path / "s"
    left_by(old, path)
    with mq.open(path) as broker:
        for options in ({}, {"read_only": True}):
            with pytest.raises(mq.Unsupported, match=r"features 0x1 .*upgrade mq"):
                old.do("open", str(path), **options)
        assert broker.queue("q").publish("four")
        assert bodies(broker) == [*OLD_BODIES, "four"]


def test_an_old_reader_is_refused_by_name_once_the_store_is_of_this_revision(tmp_path, old):
    path = tmp_path / "s"
    left_by(old, path)
    old.do("open", str(path), read_only=True)
    assert old.do("get", "q", 999) is None
    with mq.open(path) as broker:
        broker.queue("q").publish("four")
        with pytest.raises(mq.Unsupported, match=r"features 0x1 .*upgrade mq"):
            old.do("counts", "q")


def test_an_old_mq_that_waited_for_the_lock_meanwhile_is_refused_by_name(tmp_path, old):
    """It came while this one recovered, alone, and gets in after the store is of this revision."""
    path = tmp_path / "s"
    left_by(old, path)
    waiting: list[bool] = []

    class Slow(QuickDisk):
        """Others come while the old store's log goes on in a new segment."""

        def sync_directory(self, path: str) -> None:
            if path.endswith("/log") and not waiting:
                old.begin("open", os.path.dirname(path))
                until(lambda: any("LOCK" in each for each in descriptors(old.pid)))
                waiting.append(True)

    with open_on(Slow(), path) as broker:
        assert waiting
        with pytest.raises(mq.Unsupported, match=r"features 0x1 .*upgrade mq"):
            old.result()
        broker.queue("q").publish("four")
        assert bodies(broker) == [*OLD_BODIES, "four"]


def descriptors(pid: int) -> list[str]:
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(each))
        except FileNotFoundError:  # closed since
            continue
    return found


# ── the page ───────────────────────────────────────────────────────────────────────


def page_of(path: Path) -> memoryview:
    return memoryview(bytearray((path / "mark").read_bytes())).cast("Q")


def put(path: Path, word: int, value: int) -> None:
    with (path / "mark").open("r+b") as mark:
        mark.seek(8 * word)
        mark.write(value.to_bytes(8, "little"))


def test_a_page_of_another_version_is_made_anew_by_a_process_that_is_alone(tmp_path):
    path = tmp_path / "s"
    with mq.open(path) as broker:
        broker.queue("q").publish("q")
    synced = page_of(path)[shared.SYNCED]
    put(path, shared.VERSION, 9)
    for word in range(shared.WORDS, 512):
        put(path, word, word)  # a later version has more words
    with mq.open(path) as broker:
        words = page_of(path)
        assert words[shared.VERSION] == shared.PAGE_VERSION
        assert not any(words[shared.WORDS :])
        assert words[shared.SYNCED] >= synced
        assert bodies(broker) == ["q"]


@pytest.mark.parametrize("read_only", [True, False])
def test_beside_a_later_version_of_the_page_nobody_is_admitted(tmp_path, read_only):
    path = tmp_path / "s"
    with mq.open(path) as broker:
        broker.queue("q").publish("q")
        put(path, shared.VERSION, 9)
        before = files(path)
        with pytest.raises(mq.Unsupported, match=r"version 9 of the page.*version 4"):
            mq.open(path, read_only=read_only)
        assert files(path) == before


@pytest.mark.parametrize("bit", [1, 31])
def test_a_feature_of_a_later_version_is_refused_by_name(tmp_path, bit):
    path = tmp_path / "s"
    mq.open(path).close()
    (name,) = (path / "log").iterdir()
    data = bytearray(name.read_bytes())
    data[12:16] = (1 | 1 << bit).to_bytes(4, "little")
    data[68:72] = record.CRC.pack(segment.crc32c(bytes(data[:68])))
    name.write_bytes(data)
    for read_only in (True, False):
        with pytest.raises(mq.Unsupported, match=f"features {1 | 1 << bit:#x} .*upgrade mq"):
            mq.open(path, read_only=read_only)
