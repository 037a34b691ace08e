"""Where a store is, or may be made; and the error, with its advice, for each path that is none."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes import open_on

import mq
from mq.cli import cli
from mq.storage import locks
from mq.storage import paths as stores
from mq.storage.real_disk import RealDisk


def refused(path: Path | str, **options: object) -> str:
    """The one line that says why; nothing is changed."""
    with pytest.raises(mq.StorageError) as raised:
        mq.open(path, **options)  # type: ignore[call-overload]
    assert "\n" not in str(raised.value)
    return raised.value.reason


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Paths of no store, by what is wrong with them."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    return {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "data",
        "dangling": tmp_path / "link",
        "circle": tmp_path / "circle",
        "long": tmp_path.joinpath(*["a"] * 3000),
        "missing": tmp_path / "none",
    }


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "what, advice",
    [
        ("file", "this is a file, not a directory; move it elsewhere, or choose another path"),
        ("dangling", "this is a link that leads nowhere"),
        ("circle", "this is a link that leads nowhere"),
        ("long", "too long for this system; choose a shorter one"),
    ],
)
def test_a_path_that_can_be_no_store_gets_the_advice_that_helps(
    tmp_path: Path, paths: dict[str, Path], what: str, advice: str, read_only: bool
) -> None:
    assert advice in refused(paths[what], read_only=read_only)
    for command in (
        ["publish", "q", "x"],
        ["queues"],
        ["receive", "q"],
        ["compact"],
        ["inspect"],
        ["repair"],
    ):
        result = CliRunner().invoke(cli, ["-s", str(paths[what]), *command])
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1 and (
            "not a directory" in result.stderr or advice in result.stderr
        )
    assert {each.name for each in tmp_path.iterdir()} == {"file", "link", "circle"}


def test_a_path_through_a_file(paths: dict[str, Path]) -> None:
    assert "part of the path is a file" in refused(paths["below a file"])
    assert "no such file or directory" in refused(paths["below a file"], read_only=True)


def test_directories_are_made_however_many_are_missing(tmp_path: Path) -> None:
    """Python's own os.makedirs recurses."""
    path = tmp_path.joinpath(*["a"] * 1010)
    mq.open(path).close()
    mq.open(path, read_only=True).close()
    shutil.rmtree(path)
    os.removedirs(path.parent)  # nor can pytest, which would remove them at the end of a later run


def test_a_reader_makes_no_directory(paths: dict[str, Path]) -> None:
    assert "no such file or directory" in refused(paths["missing"], read_only=True)
    assert not paths["missing"].exists()


def test_the_working_directory_was_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for read_only in (False, True):
        assert "the working directory was deleted" in refused("data", read_only=read_only)
    mq.open(tmp_path / "data").close()


@pytest.mark.parametrize("path", ["current/../data", "./current/..//data/"])
def test_what_is_above_a_symbolic_link_is_above_where_it_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """As for every other program, and for every command of mq."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "current").symlink_to("real/inner")
    with mq.open(path) as broker:
        broker.queue("q").publish("x")
        assert os.path.samefile(broker.path, tmp_path / "real" / "data")
    assert not (tmp_path / "data").exists()
    for command in (["queues"], ["inspect", "--json"], ["verify", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "mq", "-s", path, *command],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr


def test_a_path_means_what_it_meant_when_the_store_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stores.absolute("./a//b/./c") == f"{tmp_path}/a/b/c"
    assert stores.absolute("/a/../b") == "/a/../b"
    assert (stores.absolute("/"), stores.tidy("./"), stores.tidy("./a//../b/")) == ("/", ".", "a/../b")


# ── other files ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "names", [["holiday.jpg"], ["log/app.log"], ["log/"], ["checkpoint/epoch-1.pt", "LOCK"], [".git/"]]
)
def test_a_directory_with_other_files_is_refused_and_left_as_it_was(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    if names == ["log/"]:  # an empty one is what a creation that was cut off leaves
        mq.open(tmp_path).close()
        return
    assert "other files are in there" in refused(tmp_path)
    assert "other files are in there" in refused(tmp_path, recover="salvage")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("names", [["lost+found"], ["LOCK"], ["FORMAT.tmp", "LOCK"], []])
def test_an_empty_directory_becomes_a_store(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir() if name == "lost+found" else (tmp_path / name).touch()
    with mq.open(tmp_path) as broker:
        broker.queue("q").publish("x")
    mq.open(tmp_path).close()


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_creation_that_was_cut_off_anywhere_is_no_stranger(tmp_path: Path, cut: int) -> None:
    class Cut(BaseException):
        pass

    class CutDisk(RealDisk):
        calls = 0

        def make_directory(self, path: str) -> None:
            self.step()
            super().make_directory(path)

        def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
            self.step()
            return super().open(path, write=write, create=create)

        def rename(self, old: str, new: str) -> None:
            self.step()
            super().rename(old, new)

        def step(self) -> None:
            self.calls += 1
            if self.calls == cut:
                raise Cut

    with suppress(Cut):
        open_on(CutDisk(), tmp_path / "data", background=False).close()
    mq.open(tmp_path / "data").close()


def test_a_store_may_have_other_files_beside_its_own(tmp_path: Path) -> None:
    mq.open(tmp_path).close()
    (tmp_path / "README").write_text("ours")
    mq.open(tmp_path).close()


def test_a_handler_may_open_the_store_that_was_just_made(tmp_path: Path) -> None:
    """The lock is free when it is logged."""
    opened: list[str] = []

    class Opening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "created the store" in record.getMessage():
                with mq.open(tmp_path / "data") as broker:
                    opened.append(broker.path)

    handler, logger = Opening(), logging.getLogger("mq")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        mq.open(tmp_path / "data").close()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert opened == [str(tmp_path / "data")]


# ── who has it ─────────────────────────────────────────────────────────────────────


def test_a_strangers_lock_names_the_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`flock DIR command`: not the process that used the store last."""
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)
    path = tmp_path / "data"
    mq.open(path).close()
    for name in (path, path / "LOCK"):
        code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print(flush=True); input()"
        stranger = subprocess.Popen(
            [sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with stranger:
            assert stranger.stdout and stranger.stdin
            stranger.stdout.readline()
            with pytest.raises(mq.StoreLocked) as raised:
                mq.open(path)
            if RealDisk().lockers(str(name)):  # not every system says
                assert raised.value.pid == stranger.pid and f"process {stranger.pid}" in str(raised.value)
            assert "LOCK" not in raised.value.reason and "delete" not in raised.value.reason
            stranger.stdin.close()
    mq.open(path).close()


def test_a_process_of_another_container_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number there may be this one's here; the system names no locks of other containers."""
    with mq.open(tmp_path, exclusive=True):
        with pytest.raises(mq.StoreLocked, match="in use by this process; close it there") as raised:
            if RealDisk().lockers(str(tmp_path / "LOCK")):
                mq.open(tmp_path)
            else:
                raise mq.StoreLocked(str(tmp_path), os.getpid())
        assert raised.value.pid == os.getpid()
        monkeypatch.setattr(RealDisk, "lockers", lambda self, path: [])
        with pytest.raises(
            mq.StoreLocked, match=f"this process, or process {os.getpid()} of another container"
        ):
            mq.open(tmp_path)


def test_no_thread_at_the_end_of_a_program_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert 'open it with sync="always"' in refused(tmp_path / "data", sync=0.1)
    with mq.open(tmp_path / "data") as broker:
        broker.queue("q").publish("x")
