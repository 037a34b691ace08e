"""mq.contrib.results: values by key for many processes, beside the log."""

from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

import mq
from mq.cli import cli
from mq.contrib.results import APPLICATION_ID, SWEPT, Results
from mq.storage import paths

PATIENCE = 120.0  # seconds, for what comes at once


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def results(path: Path, clock: Clock):
    with Results(path, sync="never", clock=clock) as results:
        yield results


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def count_elsewhere(path: Path) -> None:
    """By another process, which closes as it ends."""
    process = run("import sys; from mq.contrib.results import Results; Results(sys.argv[1]).incr('n')", path)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


# ── by key ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [b"", b"\0\xff" * 3, "", "ä\0", 0, -(1 << 63), (1 << 63) - 1])
def test_a_value_comes_back_as_it_was(results: Results, value) -> None:
    results.put("k", value)
    assert results.get("k") == value and type(results.get("k")) is type(value)


def test_a_value_of_60_mb_comes_back(results: Results) -> None:
    results.put("k", b"x" * 60_000_000)
    assert len(results.get("k")) == 60_000_000


@pytest.mark.parametrize("value", [None, 1.5, True, 1 << 63, ["x"], bytearray(b"x")])
def test_other_values_are_refused_and_nothing_is_changed(results: Results, value) -> None:
    results.put("k", b"before")
    for store in (results.put, results.add):
        with pytest.raises(mq.UsageError, match="value is bytes, text"):
            store("k" if store == results.put else "new", value)
    assert results.get("k") == b"before" and results.get("new") is None


@pytest.mark.parametrize("key", [None, 7, b"k"])
def test_a_key_is_text(results: Results, key) -> None:
    for use in (results.get, results.delete, results.incr, lambda key: results.put(key, b"")):
        with pytest.raises(mq.UsageError, match="a key is text"):
            use(key)


def test_text_that_is_no_unicode_is_refused(results: Results) -> None:
    for use in (results.get, results.delete, results.incr, results.items, lambda key: results.put(key, b"")):
        with pytest.raises(mq.UsageError, match="not valid Unicode"):
            use("\ud800")
    with pytest.raises(mq.UsageError, match="not valid Unicode"):
        results.put("k", "\ud800")
    assert results.get("k") is None


def test_the_last_put_counts(results: Results) -> None:
    results.put("k", b"1", ttl=5)
    results.put("k", "2")
    assert results.get("k") == "2"
    assert results.delete("k") and not results.delete("k") and results.get("k") is None


def test_many_keys_at_once(results: Results) -> None:
    keys = [f"k{n}" for n in range(1_200)]
    with results.transaction():
        for key in keys[::2]:
            results.put(key, key)
    assert results.get_many(keys) == {key: key for key in keys[::2]}


def test_one_of_many_adds(results: Results) -> None:
    assert results.add("lock", b"mine") and not results.add("lock", b"theirs")
    assert results.get("lock") == b"mine"


def test_a_value_is_popped_by_one_of_many(results: Results, path: Path, clock: Clock) -> None:
    results.put("k", b"v", ttl=5)
    got: list[object] = []
    threads = [threading.Thread(target=lambda: got.append(results.pop("k"))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert got.count(b"v") == 1 and got.count(None) == 7
    results.put("k", b"v", ttl=5)
    clock.now += 6
    assert results.pop("k") is None


def test_keys_with_a_prefix_are_looked_at_counted_and_forgotten_together(results, clock) -> None:
    for key in ("a/", "a/1", "a/\U0010fffe", "a0", "a", "A/1", "a%", "b"):
        results.put(key, key)
    results.put("a/old", b"", ttl=5)
    clock.now += 6
    assert results.items("a/") == {key: key for key in ("a/", "a/1", "a/\U0010fffe")}
    assert results.count("a/") == 3 and results.count("") == 8 and results.count("c") == 0
    assert results.clear("a/") == 3 and results.clear("a/") == 0
    assert results.items("").keys() == {"a0", "a", "A/1", "a%", "b"}


def test_a_counter_counts_and_refuses_what_is_no_number(results: Results) -> None:
    assert [results.incr("n"), results.incr("n", 5), results.incr("n", -2)] == [1, 6, 4]
    results.put("text", "1")
    with pytest.raises(mq.UsageError, match="no number"):
        results.incr("text")
    results.put("most", (1 << 63) - 1)
    with pytest.raises(mq.UsageError, match="64 bits"):
        results.incr("most")


# ── expiry ─────────────────────────────────────────────────────────────────────────


def test_what_has_expired_is_not_there_for_any_operation(results: Results, clock: Clock) -> None:
    for key in ("a", "b", "c", "d", "n"):
        results.put(key, 7, ttl=10)
    clock.now += 9.9
    assert results.get("a") == 7
    clock.now += 0.2
    assert results.get("a") is None and results.get_many(["a", "b"]) == {}
    assert results.add("b", b"new") and results.get("b") == b"new"
    assert not results.expire("c", 100) and not results.delete("d")
    assert results.incr("n") == 1


def test_expiry_is_changed_and_a_counter_keeps_its_own(results: Results, clock: Clock) -> None:
    results.put("k", b"x", ttl=10)
    assert results.expire("k", None)
    results.incr("n", ttl=10)
    results.incr("n")
    clock.now += 11
    assert results.get("k") == b"x" and results.get("n") is None


def test_the_room_of_what_has_expired_is_given_back(results: Results, path: Path, clock: Clock) -> None:
    with results.transaction():
        for number in range(SWEPT + 10):
            results.put(f"k{number}", b"", ttl=10)
        results.put("stays", b"")
    clock.now += 11
    assert results.sweep() == SWEPT + 10
    with closing(sqlite3.connect(paths.results(str(path)))) as other:
        assert other.execute("SELECT key FROM results").fetchall() == [("stays",)]


@pytest.mark.parametrize("ttl", [0, -1, float("nan")])
def test_a_ttl_is_more_than_nothing(results: Results, ttl) -> None:
    with pytest.raises(mq.UsageError, match="ttl"):
        results.put("k", b"", ttl=ttl)


# ── transactions ───────────────────────────────────────────────────────────────────


def test_a_transaction_that_raises_leaves_no_trace(results: Results) -> None:
    results.put("k", b"before")
    with pytest.raises(KeyError), results.transaction():
        results.put("k", b"after")
        with results.transaction():
            results.incr("n")
        raise KeyError
    assert results.get("k") == b"before" and results.get("n") is None


def test_a_transaction_of_one_process_keeps_others_from_writing(results: Results, path: Path) -> None:
    made = "import sys; from mq.contrib.results import Results; r = Results(sys.argv[1]);"
    add = f"{made} print(flush=True); r.incr('n')"
    with results.transaction():
        seen = results.incr("n")
        other = run(add, path)
        assert other.stdout and other.stdout.readline() == "\n"  # it is about to write
        results.put("n", seen)
    assert other.wait(PATIENCE) == 0 and results.get("n") == 2
    other.communicate()


ADD = """
import sys, os
from mq.contrib.results import Results
with Results(sys.argv[1], sync="never") as results:
    for n in range(100):
        results.incr("n")
        results.add(f"won-{n}", str(os.getpid()))
        with results.transaction():
            results.put("pair", results.get("pair") or b"")
            results.incr("a"), results.incr("b")
"""


def test_many_processes_lose_and_invent_nothing(results: Results, path: Path) -> None:
    processes = [run(ADD, path) for _ in range(3)]
    assert [each.communicate() and each.returncode for each in processes] == [0] * 3
    assert results.get_many(["n", "a", "b"]) == {"n": 300, "a": 300, "b": 300}
    pids = {str(each.pid) for each in processes}
    assert set(results.get_many([f"won-{n}" for n in range(100)]).values()) <= pids


def test_another_one_of_this_process_takes_no_lock_from_the_first(results: Results, path: Path) -> None:
    """Else another process takes itself for the last one, and removes the log that this one writes to."""
    with Results(path):
        pass
    count_elsewhere(path)
    results.incr("n")
    count_elsewhere(path)
    assert results.get("n") == 3


def test_threads_share_one(results: Results) -> None:
    threads = [threading.Thread(target=lambda: [results.incr("n") for _ in range(50)]) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert results.get("n") == 400


def test_a_killed_process_leaves_what_it_committed_and_nothing_of_what_it_had_not(results, path) -> None:
    code = """
import sys
from mq.contrib.results import Results
results = Results(sys.argv[1], sync="never")
results.put("whole", b"1")
with results.transaction():
    results.put("half", b"1")
    print(flush=True)
    sys.stdin.read()
"""
    process = run(code, path)
    assert process.stdout and process.stdout.readline() == "\n"
    process.kill()
    process.communicate()
    assert results.get("whole") == b"1" and results.get("half") is None
    results.put("half", b"2")


# ── fork ───────────────────────────────────────────────────────────────────────────


def in_child(check) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            check()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_goes_on_with_a_connection_of_its_own(path: Path) -> None:
    with Results(path, sync=0.01) as results:
        mine = results._connection
        results.put("k", b"1")

        def check() -> None:
            assert results.get("k") == b"1"
            assert results._connection is not mine
            results.incr("n")
            results.close()

        assert in_child(check) == 0
        assert results.incr("n") == 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_leaves_a_transaction_of_its_parent_changes_nothing(results: Results) -> None:
    with results.transaction():
        results.put("k", b"1")
        held = results._connection

        def check() -> None:
            results._depth = 0  # the block of this function's caller is left by os._exit
            assert results.get("k") is None and results._connection is not held

        assert in_child(check) == 0
    assert results.get("k") == b"1"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_lock_that_another_thread_held_over_a_fork_does_not_stop_the_child(results: Results) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with results._lock:
            inside.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(PATIENCE)
    assert in_child(lambda: results.put("k", b"1")) == 0
    leave.set()
    thread.join()
    assert results.get("k") == b"1"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_loses_nothing_when_its_parent_has_closed(path: Path) -> None:
    """It has locks of its own: else the next process removes the log that it writes to."""
    results = Results(path, sync="never")
    results.incr("n")
    (said, say), (asked, ask) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            results.incr("n")
            os.write(say, b"!")
            os.read(asked, 1)
            results.incr("n")
            os._exit(0)
        finally:
            os._exit(1)
    os.close(say)
    os.read(said, 1)
    results.close()
    count_elsewhere(path)
    os.write(ask, b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with Results(path) as other:
        assert other.get("n") == 4
    for each in (said, asked, ask):
        os.close(each)


def test_a_child_that_ends_last_and_in_order_leaves_the_database_whole(path: Path) -> None:
    """It has the parent's connection still, and must not close it: sqlite would move an old log."""
    code = """
import os, sys
from mq.contrib.results import Results
results = Results(sys.argv[1], sync="never")
results.put("k", b"old")
child = os.fork()
if child == 0:
    print(flush=True)
    sys.stdin.read()        # until the parent of the parent has written
    sys.exit()              # in order, with all that interpreters do then
results.close()
os._exit(0)
"""
    process = run(code, path)
    assert process.stdout and process.stdin and process.stdout.readline() == "\n"
    process.wait(PATIENCE)
    with Results(path) as other:
        other.put("k", b"new")
    process.stdin.close()
    process.stdout.read()  # until it has ended
    process.stdout.close()
    with Results(path) as other:
        assert other.get("k") == b"new"


# ── waiting ────────────────────────────────────────────────────────────────────────


def test_wait_returns_what_is_there_and_gives_up(results: Results) -> None:
    results.put("k", b"x")
    assert results.wait("k", 0) == b"x"
    assert results.wait("none", 0) is None and results.wait("none", 0.01) is None


def test_wait_hears_of_this_and_of_other_processes(results: Results, path: Path) -> None:
    code = "import sys; from mq.contrib.results import Results; Results(sys.argv[1]).put('theirs', b'1')"
    with run(code, path):
        assert results.wait("theirs", PATIENCE) == b"1"
    thread = threading.Thread(target=results.put, args=("ours", b"1"))
    thread.start()
    assert results.wait("ours", PATIENCE) == b"1"
    thread.join()


def test_a_probe_is_called_only_when_something_was_written(results: Results) -> None:
    calls = []
    assert results.wait_for(lambda: calls.append(1), 0.05) is None
    assert len(calls) == 1


def test_those_that_wait_are_woken_by_close(results: Results) -> None:
    found: list[BaseException] = []
    begun = threading.Event()

    def wait() -> None:
        try:
            results.wait_for(lambda: begun.set(), PATIENCE)
        except mq.Closed as error:
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait(PATIENCE)
    results.close()
    thread.join()
    assert len(found) == 1


# ── durability ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sync, level", [("always", 2), (0.5, 1), ("never", 1)])
def test_sync_is_that_of_the_store(path: Path, sync, level) -> None:
    with Results(path, sync=sync) as results:
        assert results._connection.execute("PRAGMA synchronous").fetchone() == (level,)


def test_sync_seconds_syncs_the_log_of_sqlite(path: Path, monkeypatch) -> None:
    synced = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda fd: synced.set())
    with Results(path, sync=0.01) as results:
        results.put("k", b"1")
        assert synced.wait(PATIENCE)


def test_after_a_sync_that_failed_nothing_is_promised(path: Path, monkeypatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    results = Results(path, sync=0.01)
    results.put("k", b"1")
    with pytest.raises(mq.StoreFailed, match="a sync failed"):
        results.wait("never", PATIENCE)
    results.close()


def test_close_tells_of_a_sync_that_failed_if_nothing_has(path: Path, monkeypatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    results = Results(path, sync=1000)
    results.put("k", b"1")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", fail)
        with pytest.raises(mq.StoreFailed, match="a sync failed"):
            results.close()
    results.close()


@pytest.mark.parametrize("sync", ["sometimes", 0, -1, None])
def test_sync_is_checked(path: Path, sync) -> None:
    with pytest.raises(mq.UsageError, match="sync is"):
        Results(path, sync=sync)


def test_a_full_disk_stores_nothing_and_says_so(results: Results) -> None:
    results.put("k", b"before")
    results._connection.execute("PRAGMA max_page_count = 8")
    with pytest.raises(mq.DiskFull, match="no space left"):
        results.put("k", b"x" * 100_000)
    assert results.get("k") == b"before"
    results.put("k", b"after")


# ── the file ───────────────────────────────────────────────────────────────────────


def test_it_is_made_with_or_before_the_store_and_has_its_mode(path: Path) -> None:
    Results(path).close()
    with mq.open(path, mode=0o640) as broker:
        assert broker.queues() == []
    os.unlink(paths.results(str(path)))
    with Results(path):
        assert os.stat(paths.results(str(path))).st_mode & 0o777 == 0o640


def test_a_file_that_cannot_be_made_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(mq.StorageError, match="part of the path is a file"):
        Results(tmp_path / "file" / "data")
    (tmp_path / "results.sqlite").mkdir()
    with pytest.raises(mq.StorageError, match="this is a directory, not a file"):
        Results(tmp_path)


def test_what_is_no_results_is_left_alone(path: Path) -> None:
    path.mkdir()
    file = Path(paths.results(str(path)))
    file.write_bytes(b"something else\n" * 100)
    with pytest.raises(mq.CorruptStore, match="put back that of a backup"):
        Results(path)
    file.unlink()
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE others (x)")
    with pytest.raises(mq.CorruptStore, match="something else"):
        Results(path)
    file.unlink()
    with closing(sqlite3.connect(file)) as newer:
        newer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        newer.execute("PRAGMA user_version = 2")
    with pytest.raises(mq.Unsupported, match="upgrade mq"):
        Results(path)
    with pytest.raises(mq.UsageError, match="give a directory"):
        Results(":memory:")


def test_a_closed_one_says_so(results: Results) -> None:
    results.close()
    results.close()
    with pytest.raises(mq.Closed):
        results.get("k")


def test_one_that_a_program_forgets_lets_go_of_its_file_without_a_warning(path: Path) -> None:
    """From Python 3.13 on sqlite3 warns, and pytest makes that an error."""
    results = Results(path)
    results.put("k", 1)
    assert results.path in _open_files()
    del results
    gc.collect()
    assert str(path / "results.sqlite") not in _open_files()


def _open_files() -> list[str]:
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread has closed it
            found.append(os.readlink(each))
    return found


# ── backups ────────────────────────────────────────────────────────────────────────


def test_a_backup_has_the_results_as_they_are_then(path: Path, tmp_path: Path) -> None:
    copy, clone = tmp_path / "copy", tmp_path / "clone"
    with mq.open(path) as broker, Results(path) as results:
        results.put("k", b"1")
        broker.backup(copy)
        results.put("k", b"2")
        broker.backup(copy)
        results.put("k", b"3")
    there = sorted(each.name for each in copy.iterdir())
    assert "results.sqlite" in there and not [each for each in there if each.startswith("results.sqlite-")]
    done = CliRunner().invoke(cli, ["restore", str(copy), "-s", str(clone)])
    assert done.exit_code == 0, done.output
    for each in (copy, clone):
        with Results(each) as found:
            assert found.get("k") == b"2"


def test_a_backup_ends_while_results_are_stored(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is, for each page that is copied; what is copied is as it was before them."""

    class Watched(sqlite3.Connection):
        def backup(self, target: sqlite3.Connection, *, pages: int) -> None:  # type: ignore[override]
            super().backup(target, pages=1, progress=store_one)

    connect, steps = sqlite3.connect, 0

    def store_one(status: int, remaining: int, total: int) -> None:
        nonlocal steps
        steps += 1
        assert steps <= total, "it begins anew"
        results.put("k", b"%d" % steps)

    def watched(database: str, **given: object) -> sqlite3.Connection:
        factory = Watched if "mode=ro" in database else sqlite3.Connection
        return connect(database, factory=factory, **given)  # type: ignore[call-overload, no-any-return]

    with mq.open(path) as broker, Results(path, sync="never") as results:
        with results.transaction():
            for number in range(100):
                results.put(f"k{number}", os.urandom(3000))
        results.put("k", b"before")
        monkeypatch.setattr(sqlite3, "connect", watched)
        broker.backup(tmp_path / "copy")
        monkeypatch.undo()
        assert steps > 50 and results.get("k") == b"%d" % steps
    with Results(tmp_path / "copy") as found:
        assert found.get("k") == b"before" and found.count("k") == 101


def test_a_clone_does_not_write_over_results_that_are_there(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with mq.open(path), Results(path), Results(other) as theirs:
        theirs.put("k", b"theirs")
        done = CliRunner().invoke(cli, ["-s", str(path), "clone", str(other)])
        assert done.exit_code != 0 and "choose an empty or a new directory" in done.output
        assert theirs.get("k") == b"theirs"


def test_a_store_without_results_has_none_in_its_backup(path: Path, tmp_path: Path) -> None:
    with mq.open(path) as broker:
        broker.backup(tmp_path / "copy")
    assert not (tmp_path / "copy" / "results.sqlite").exists()


def test_verify_names_damaged_results_and_no_message(path: Path) -> None:
    with mq.open(path) as broker, Results(path) as results:
        broker.queue("q").publish(b"x")
        with results.transaction():
            for number in range(200):
                results.put(f"k{number}", b"x" * 1000)
    file = Path(paths.results(str(path)))
    assert CliRunner().invoke(cli, ["-s", str(path), "verify"]).exit_code == 0
    assert sorted(each.name for each in path.glob("results*")) == ["results.sqlite"]
    data = bytearray(file.read_bytes())
    data[4096:8192] = b"\xa5" * 4096
    file.write_bytes(data)
    done = CliRunner().invoke(cli, ["-s", str(path), "verify"])
    assert done.exit_code == 4 and "results.sqlite" in done.output and "no message is" in done.output
    said = CliRunner().invoke(cli, ["-s", str(path), "verify", "--json"]).stdout
    assert '"type":"damage"' in said.replace(" ", "")
