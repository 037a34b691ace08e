"""The demo's arithmetic: it must be able to say that something was lost.

What is run here is the real thing, small; and the audit, on notes that do not agree with
the store.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mq

CRASH_DEMO = Path(__file__).parents[1] / "scripts" / "crash_demo"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The modules audit and notes, which stand beside the demo and are not installed."""
    monkeypatch.syspath_prepend(CRASH_DEMO)
    import audit
    import notes

    return audit, notes


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CRASH_DEMO, *arguments], capture_output=True, text=True)


def test_the_demo_kills_and_finds_nothing_lost(tmp_path: Path) -> None:
    """P1, P2, P3 on real processes; the table has a row for each round and one for the total."""
    lines = tmp_path / "lines"
    lines.write_text("".join(f"line {number}, ä ö ü\n" for number in range(300)))
    done = run("--kills", "2", "--messages", "300", "--seed", "7", str(lines))
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.split("──\n")[1].splitlines()
    assert [row.split()[0] for row in table[:-1]] == ["publish"] * 2 + ["publish,"] + ["consume"] * 2 + [
        "consume,"
    ]
    assert "Nothing was lost, nothing was altered." in done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    "arguments, says",
    [
        pytest.param(["/no/such/file"], "No such file", id="missing"),
        pytest.param(["/dev/null"], "no lines", id="empty"),
        pytest.param([str(CRASH_DEMO)], "directory", id="a directory"),
        pytest.param(["--kills", "-1"], "at least 0", id="a negative number"),
    ],
)
def test_bad_input_is_one_line_that_says_what_is_wrong(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode
    assert says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name, note, found",
    [
        pytest.param("published", "", {}, id="all there"),
        pytest.param("published", "3 999999 {ada}", {"lost": 1}, id="published, and not in the store"),
        pytest.param("published", "3 {extra} {bob}", {"altered": 1}, id="another body in the store"),
        pytest.param("consumed", "got {first} 1 {bob}", {"altered": 1}, id="another body delivered"),
        pytest.param("consumed", "got 999999 1 {bob}", {"altered": 1}, id="delivered out of nowhere"),
        pytest.param("consumed", "acked {first}", {"revived": 1}, id="acked, and still there"),
        pytest.param(
            "consumed", "got {second} 1 {ada}\ngot {first} 1 {ada}", {"disordered": 1}, id="out of order"
        ),
    ],
)
def test_the_audit_counts_what_does_not_agree(
    name: str, note: str, found: dict[str, int], tmp_path: Path, demo: tuple[ModuleType, ModuleType]
) -> None:
    audit, notes = demo
    ada, bob = notes.digest(b"ada"), notes.digest(b"bob")
    logs = {name: notes.Notes(tmp_path / name) for name in ("published", "consumed")}
    with mq.open(":memory:") as broker:
        queue = broker.queue("webhooks")
        ids = queue.publish_many([b"ada"] * 3)
        extra = queue.publish(b"ada")
        for index, id in enumerate(ids):
            logs["published"].add(index, id, ada)
        for line in note.format(ada=ada, bob=bob, first=ids[0], second=ids[1], extra=extra).splitlines():
            logs[name].add(line)
        row = audit.Row("publish 1", killed=True)
        audit.Audit(logs["published"], logs["consumed"], [b"ada"]).check(row, queue)
    kinds = ("lost", "altered", "invented", "revived", "disordered")
    assert {kind: getattr(row, kind) for kind in kinds if getattr(row, kind)} == found


def test_a_message_that_nobody_published_is_noticed(
    tmp_path: Path, demo: tuple[ModuleType, ModuleType]
) -> None:
    """One for each kill may be a publish that was cut off; a second is invented."""
    audit, notes = demo
    published, consumed = notes.Notes(tmp_path / "published"), notes.Notes(tmp_path / "consumed")
    with mq.open(":memory:") as broker:
        queue = broker.queue("webhooks")
        published.add(0, queue.publish(b"ada"), notes.digest(b"ada"))
        queue.publish_many([b"ada", b"ada"])
        row = audit.Row("publish 1", killed=True)
        audit.Audit(published, consumed, [b"ada"]).check(row, queue)
    assert row.invented == 1


def test_a_note_that_the_kill_cut_short_never_happened(
    tmp_path: Path, demo: tuple[ModuleType, ModuleType]
) -> None:
    _, notes = demo
    path = tmp_path / "notes"
    path.write_text("acked 1\nacked 1")
    assert notes.Notes(path).read() == [["acked", "1"]]
    assert path.read_text() == "acked 1\n"
