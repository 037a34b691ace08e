"""mq doctor: each finding about the store itself, in the situation that it is about; and all of it together.

Where a situation needs root, or cannot be had on this system, its test is skipped by name.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from crc32c import crc32c
from ill import Hold, findings, hold, names_of, quick

import mq
from mq.cli import checks, doctor
from mq.cli.checks import finding
from mq.storage import identity, locks
from mq.storage.real_disk import RealDisk

__all__ = ["hold", "quick"]  # fixtures

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can take on another account"
)


# ── nothing to look at ─────────────────────────────────────────────────────────────


def test_a_store_in_order(run: Run, filled: list[int]) -> None:
    assert names_of(findings(run)) == set()


def test_a_store_in_use(run: Run, store: Path, hold: Hold) -> None:
    hold("hold(lambda broker: broker.queue('mail').publish('x'))")
    with mq.open(store) as broker:
        broker.queue("mail").publish("y")
        assert names_of(findings(run)) == set()


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_where_there_is_no_store_it_says_so(run: Run, store: Path, name: str) -> None:
    result = run("-s", name, "doctor")
    assert result.exit_code == 1 and "there is no store here" in result.stderr


# ── whether it opens ───────────────────────────────────────────────────────────────


def damage(path: Path, at: int = 0x300) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def segment(store: Path) -> Path:
    return sorted((store / "log").glob("*.seg"))[0]


def checkpoints(store: Path) -> list[Path]:
    return list((store / "checkpoint").iterdir())


@pytest.fixture
def many(store: Path) -> None:
    with mq.open(store) as broker:
        broker.queue("mail").publish_many(["x" * 100] * 50)


def test_a_corrupt_store(run: Run, store: Path, many: None) -> None:
    for path in checkpoints(store):
        path.unlink()
    damage(segment(store))
    found = findings(run)
    assert found["corrupt"]["severity"] == "error" and found["corrupt"]["path"] == str(
        segment(store).resolve()
    )
    assert "mq repair --dry-run" in found["corrupt"]["advice"]
    run("repair")
    assert findings(run)["quarantine"]["severity"] == "note"


def test_a_store_without_its_format(run: Run, store: Path, filled: list[int]) -> None:
    (store / "FORMAT").unlink()
    assert findings(run)["format-missing"]["severity"] == "error"


def test_a_creation_that_was_cut_off(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*args: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched, pytest.raises(mq.StorageError):
        patched.setattr(identity, "write", cut)
        mq.open(store)
    found = findings(run)
    assert names_of(found) == {"creation"} and found["creation"]["severity"] == "warning"
    with mq.open(store) as broker:
        broker.queue("mail").publish("x")
    assert names_of(findings(run)) == set()


def test_a_store_of_another_format(run: Run, store: Path, filled: list[int]) -> None:
    _, _, store_id, key, _ = (store / "FORMAT").read_text().split()
    text = f"mq 9 {store_id} {key}".encode()
    (store / "FORMAT").write_bytes(text + b" %08x\n" % crc32c(text))
    assert "upgrade mq" in findings(run)["unopened"]["what"]


def test_a_checkpoint_that_cannot_be_used(run: Run, store: Path, many: None) -> None:
    with mq.open(store) as broker:
        broker._store.maintenance.checkpoints.write()
    assert names_of(findings(run)) == set()
    damage(next(each for each in checkpoints(store) if each.suffix == ".state"), 40)
    assert findings(run)["checkpoint"]["severity"] == "warning"


def test_a_process_that_was_killed(run: Run, store: Path, hold: Hold) -> None:
    process = hold("hold(lambda broker: broker.queue('mail').publish('x'))")
    process.kill()
    process.wait()
    assert findings(run)["unclosed"]["severity"] == "note"


RECOVERING = """
from mq.engine.loading import Loader
def wait(*args, **options):
    print("ready", flush=True)
    sys.stdin.read()
Loader.load = wait
hold()
"""


def test_a_process_that_recovers_for_long(
    run: Run, filled: list[int], hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = hold(RECOVERING)
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.1)
    found = findings(run)
    assert found["locked"]["severity"] == "error"
    assert found["recovering"]["pid"] == process.pid and "stuck" not in found


# ── files ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["notes.txt", "log/old.seg", "checkpoint/x", "wake/README", "FORMAT~"])
def test_files_of_something_else(run: Run, store: Path, filled: list[int], name: str) -> None:
    (store / "wake").mkdir(exist_ok=True)
    (store / name).touch()
    found = findings(run)
    assert names_of(found) - {"unopened"} == {"foreign"} and Path(name).name in found["foreign"]["what"]
    assert (found["foreign"]["severity"] == "error") == ("unopened" in found) == name.startswith("log")


@pytest.mark.parametrize("name", ["mark.tmp", "log/segment.tmp", "checkpoint/00000000000000000001.state.tmp"])
def test_what_was_cut_off(run: Run, store: Path, filled: list[int], name: str) -> None:
    (store / name).touch()
    found = findings(run)
    assert names_of(found) == {"leftover"} and found["leftover"]["severity"] == "note"
    with mq.open(store):
        assert "leftover" not in findings(run), "a process may be at it"


def test_segments_that_were_not_removed(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    with mq.open(store) as broker:
        broker.queue("mail").publish(bytes(2 << 20))
        broker.queue("mail").purge()
    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "unlink", lambda self, path: None)  # as if it died before
        run("compact")
    found = findings(run)
    assert names_of(found) == {"leftover"} and "1 segment" in found["leftover"]["what"]


@pytest.mark.parametrize("name", ["CLEANER", "wake/0", "reserve"])
def test_what_is_no_file(run: Run, store: Path, filled: list[int], name: str) -> None:
    path = store / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.mkdir()
    found = findings(run)
    assert found["irregular"]["severity"] == "error" and found["irregular"]["path"].endswith(name)
    assert "a directory" in found["irregular"]["what"]


def test_a_copy(run: Run, store: Path, filled: list[int]) -> None:
    store.rename("original")
    shutil.copytree("original", store)
    found = findings(run)
    assert names_of(found) == {"copied"} and "mq backup" in found["copied"]["advice"]
    with mq.open(store):
        pass
    assert names_of(findings(run)) == set()


def test_a_copy_of_links(run: Run, store: Path, filled: list[int]) -> None:
    store.rename("original")
    shutil.copytree("original", store, copy_function=os.link)
    found = findings(run)
    assert names_of(found) == {"copied", "linked"} and found["linked"]["severity"] == "warning"


# ── owners and modes ───────────────────────────────────────────────────────────────


def test_files_with_another_mode(run: Run, store: Path, filled: list[int]) -> None:
    (store / "mark").chmod(0o400)
    (store / "reserve").chmod(0o400)
    found = findings(run)["owner"]
    assert "mode 400, and 1 file more" in found["what"] and found["path"].endswith("mark")


@needs_root
def test_files_of_another_account(run: Run, store: Path, filled: list[int]) -> None:
    os.chown(store / "FORMAT", 61_001, 61_001)
    assert findings(run)["owner"]["advice"].startswith("`chown -R 61001:61001 data`")


def test_a_store_that_is_open_to_all(run: Run, store: Path, filled: list[int]) -> None:
    store.chmod(0o777)
    assert findings(run)["open-to-all"]["severity"] == "warning"


@needs_root
def test_a_store_of_another_account(run: Run, store: Path, filled: list[int]) -> None:
    found = findings_of_another_account(run, store)
    assert found["unwritable"]["severity"] == "note" and set(names_of(found)) == {"unwritable"}
    (store / "mark").chmod(0o600)
    assert findings_of_another_account(run, store)["unreadable"]["severity"] == "error"


def findings_of_another_account(run: Run, store: Path) -> dict[str, Any]:
    """What a child finds that has taken on an account, in directories that it may search."""
    findings(run)  # all is imported
    closed = [each for each in store.resolve().parents if not each.stat().st_mode & 0o001]
    for each in closed:
        each.chmod(each.stat().st_mode | 0o011)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.setgroups([])
            os.setgid(61_001)
            os.setuid(61_001)
            os.write(writer, run("doctor", "--json").stdout.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    for each in closed:
        each.chmod(each.stat().st_mode & ~0o011)
    found = [json.loads(line) for line in said.splitlines()][:-1]
    return {each["name"]: each for each in found}


# ── queues ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count, severity", [(1, "note"), (100, "warning")])
def test_dead_letters(run: Run, store: Path, count: int, severity: str) -> None:
    with mq.open(store, sync="never") as broker:
        broker.queue("mail.dead").publish("mine")
        mail = broker.queue("mail", max_attempts=1)
        mail.publish_many(["x"] * count)
        mail.reject_many(mail.receive_many(count, timeout=0))
    found = findings(run)
    assert names_of(found) == {"dead-letters"}
    found = found["dead-letters"]
    assert (found["severity"], found["queue"]) == (severity, "mail.dead")
    assert found["what"].startswith(f"mail.dead: {count} dead letter")


def test_a_paused_queue(run: Run, store: Path, filled: list[int]) -> None:
    with mq.open(store) as broker:
        broker.queue("mail").pause()
    found = findings(run)["paused"]
    assert found["severity"] == "warning" and found["what"] == "mail: paused, with 3 messages waiting"


@pytest.mark.parametrize(
    "options", [{"max_length": 3}, {"max_bytes": 5}, {"max_length": 3, "overflow": "drop_oldest"}]
)
def test_a_full_queue(run: Run, store: Path, filled: list[int], options: Any) -> None:
    with mq.open(store) as broker:
        broker.queue("mail", **options)
    what = "drops the oldest" if "overflow" in options else "refused"
    assert what in findings(run)["queue-full"]["what"]


def test_a_queue_without_a_consumer(run: Run, store: Path) -> None:
    with mq.open(store, clock=lambda: time.time() - 7200) as broker:
        broker.queue("mail").publish("x")
        broker.queue("held").publish_many(["y", "z"])
        broker.queue("held").receive(timeout=0, visibility_timeout=86_400)
        broker.queue("stopped").publish("z")
        broker.queue("stopped").pause()
    found = findings(run)
    assert found["no-consumer"]["queue"] == "mail" and names_of(found) == {"no-consumer", "paused"}
    assert "nothing was ever taken" in found["no-consumer"]["what"]


def test_a_schedule_that_no_process_serves(run: Run, store: Path) -> None:
    with mq.open(store, clock=lambda: time.time() - 7200) as broker:
        broker.schedule("beat", "health", "ping", every=3600)
    found = findings(run)["overdue"]
    assert "schedule beat" in found["what"] and "no process has the store open" in found["what"]


# ── all of it ──────────────────────────────────────────────────────────────────────


def test_what_cannot_be_looked_at_is_said_and_hides_nothing_else(
    run: Run, store: Path, filled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(subject: Any) -> Iterator[finding.Finding]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
        yield

    monkeypatch.setitem(doctor.CHECKS, "the clock", fail)
    (store / "x").touch()
    found = findings(run)
    assert names_of(found) == {"unchecked", "foreign"} and "the clock" in found["unchecked"]["what"]


def test_text_has_the_worst_first_and_what_to_do(run: Run, store: Path, filled: list[int]) -> None:
    (store / "mark.tmp").touch()
    (store / "x").touch()
    (store / "FORMAT").unlink()
    lines = run("doctor").stdout.splitlines()
    assert lines[0].startswith("error    FORMAT is missing") and lines[0].endswith("[data/FORMAT]")
    assert lines[1].startswith("         → restore FORMAT from a copy")
    assert [line.split()[0] for line in lines[::2]][:3] == ["error", "warning", "note"]
    assert re.fullmatch(r"1 error, \d warnings?, \d notes?", lines[-1])


SOURCES = [Path(doctor.__file__), *sorted(Path(checks.__file__).parent.glob("*.py"))]
TESTS = Path(__file__).parent.glob("test_doctor*.py")


def test_every_finding_is_in_the_manual_and_has_a_test() -> None:
    names = {
        name for path in SOURCES for name in re.findall(r'Finding\(\s*"([a-z-]+)"', path.read_text())
    }  # fmt: skip
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    table = page.partition("## What mq doctor finds")[2].partition("\n## ")[0]
    tests = "".join(path.read_text() for path in TESTS)
    assert len(names) > 50
    assert sorted(name for name in names if f"| `{name}` |" not in page) == []
    assert sorted(name for name in names if f'"{name}"' not in tests) == []
    assert sorted(set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) - names) == []
