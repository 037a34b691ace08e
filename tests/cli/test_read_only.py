"""What only looks changes no byte and needs no right to write, whoever has the store open."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from commands import COMMAND, Run, contents

import mq
from mq.cli import cli
from mq.cli.root import MODULES

LOOKING = [
    "peek mail", "peek mail --long", "tail --since 0 --until-end", "queues", "stats", "stats mail",
    "stats shop", "top -n 1", "dead", "dead show mail", "topics", "topic history shop", "subscriptions",
    "schedules", "inspect", "dump", "dump --queue mail", "verify", "compact --dry-run", "doctor", "export",
    "export mail", "copy mail --to-store TARGET", "copy --to-store TARGET"
]  # fmt: skip
FOUND = {"doctor": {0, 1}}  # the exit codes of those that do not always end with 0
ACCOUNT = 61_001
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can take on another account"
)


def fill(path: Path) -> None:
    """A little of everything."""
    with mq.open(path, segment_bytes=4096) as broker:
        use(broker)


def use(broker: mq.Broker) -> None:
    mail = broker.queue("mail", max_attempts=1)
    mail.publish_many(["one", {"two": 2}, b"three"])
    mail.receive(timeout=0).nack(reason="no route")  # type: ignore[union-attr]
    mail.receive(timeout=0, visibility_timeout=0)
    mail.publish("late", delay=3600)
    broker.queue("audit").subscribe("shop.#")
    broker.topic("shop", retain_count=5).publish("x")
    broker.schedule("beat", "health", "ping", every=3600)
    broker.queue("bulk").publish_many(["x" * 100] * 100)


def words(command: str, target: Path) -> list[str]:
    return command.replace("TARGET", str(target)).split()


def is_fine(command: str, code: int) -> bool:
    return code in FOUND.get(command, {0})


@pytest.fixture
def home() -> Iterator[Path]:
    """Not below tmp_path, which is closed to other accounts."""
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)
        yield Path(base, "data")


@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("command", LOOKING)
def test_no_byte_is_changed(run: Run, store: Path, command: str, json: list[str]) -> None:
    """Closed; open in a process; and as a process left it that was killed, its last record torn."""
    fill(store)
    targets = iter([store.with_name(name) for name in ("one", "two", "three")])
    before = contents(store)
    assert is_fine(command, run(*words(command, next(targets)), *json).exit_code)
    assert contents(store) == before
    with mq.open(store) as broker:
        use(broker)
        before = contents(store)
        assert is_fine(command, run(*words(command, next(targets)), *json).exit_code)
        assert contents(store) == before
        shutil.copytree(store, "killed", ignore=shutil.ignore_patterns("wake"))
    before = contents(Path("killed"))
    assert is_fine(command, run("-s", "killed", *words(command, next(targets)), *json).exit_code)
    assert contents(Path("killed")) == before


@pytest.mark.parametrize("left", [{"FORMAT", "LOCK"}, {"FORMAT", "LOCK", "CLEANER", "mark"}], ids=len)
@pytest.mark.parametrize("command", LOOKING)
def test_of_a_store_whose_creation_was_cut_off_before_its_first_segment(
    run: Run, store: Path, command: str, left: set[str]
) -> None:
    """A kill -9 comes to that.  There is nothing to be seen, and each command says so."""
    mq.open(store).close()
    for path in [*store.iterdir(), *(store / "log").iterdir()]:
        if path.is_file() and path.name not in left:
            path.unlink()
    page = store / "mark"
    if page.exists():
        page.write_bytes(bytes(4096))
    result = run(*words(command, store.with_name("target")))
    assert result.exit_code in (0, 1, 3)
    if command == "doctor":
        assert result.exit_code == 1 and "its creation was cut off" in result.output
        assert "1 warning" in result.output.splitlines()


def test_no_copy_is_made_of_a_store_whose_creation_was_cut_off(run: Run, store: Path) -> None:
    mq.open(store).close()
    (store / "mark").unlink()
    for path in (store / "log").iterdir():
        path.unlink()
    assert run("compact", "--dry-run").stdout == "0 B now; nothing would be given back\n"
    result = run("-s", "new", "restore", str(store))
    assert result.exit_code == 1 and "its creation was cut off" in result.stderr
    with mq.open(store, read_only=True) as broker, pytest.raises(mq.StorageError, match="cut off"):
        broker.backup(store.with_name("new"))
    assert not store.with_name("new").exists()


WRITER = """
import sys, mq
with mq.open("data", sync="never", segment_bytes=1 << 20) as broker:
    mail = broker.queue("mail", max_attempts=2, backoff=mq.Backoff(initial=0))
    broker.queue("audit").subscribe("shop.#")
    topic = broker.topic("shop", retain_count=50)
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(4):
            mail.publish_many(["x" * 100] * 20)
            topic.publish("y" * 100)
            for number, message in enumerate(mail.receive_many(20, timeout=0)):
                message.nack(reason="odd") if number % 2 else message.ack()
            broker.queue("audit").purge()
"""


def test_beside_a_live_writer_every_look_is_whole(run: Run, store: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WRITER], text=True, **pipes) as writer:
        assert writer.stdin and writer.stdout
        try:
            writer.stdout.readline()
            for command in LOOKING:
                writer.stdin.write("some more\n")  # it writes while the command looks
                writer.stdin.flush()
                result = run(*words(command, store.with_name("target")))
                # 1: a part of what was to be copied went meanwhile; what doctor found
                known = {0, 1, 3} if command.startswith(("copy", "doctor")) else {0, 3}
                assert result.exit_code in known, (command, result.output)
        finally:
            writer.kill()


@needs_root
def test_without_the_right_to_write(home: Path) -> None:
    """Another account looks at what it may only read, closed and open."""
    fill(home)
    import_all()
    for path in [home, *home.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert failures_of_another_account(home) == ""
    with mq.open(home):
        assert failures_of_another_account(home) == ""


def import_all() -> None:
    """Another account might not be allowed to read the library."""
    ctx = click.Context(cli)
    for name in MODULES:
        cli.get_command(ctx, name)
    for command in LOOKING:
        CliRunner().invoke(cli, words(command, Path("target")))


def failures_of_another_account(store: Path) -> str:
    """What did not work, as a child tells it that has taken on the account."""
    reader, writer = os.pipe()
    target = Path(tempfile.mkdtemp(), "target")
    os.chmod(target.parent, 0o777)
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            os.setgroups([])
            os.setgid(ACCOUNT)
            os.setuid(ACCOUNT)
            for command in LOOKING:
                result = CliRunner().invoke(cli, ["-s", str(store), *words(command, target)])
                if not is_fine(command, result.exit_code):
                    os.write(writer, f"{command}: {result.output} {result.exception}\n".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    shutil.rmtree(target.parent)
    return said


EACH = """
import sys
from click.testing import CliRunner
from mq.cli import cli
for command in sys.argv[1:]:
    result = CliRunner().invoke(cli, command.split())
    if result.exit_code > (command == "doctor"):
        print(command, result.output)
print("done")
"""


@needs_root
def test_on_a_read_only_file_system(store: Path) -> None:
    fill(store)
    mount = "mount --bind data data && mount -o remount,ro,bind data && ! touch data/x && exec "
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount + '"$@"', "sh", sys.executable, "-c", EACH,
         *(command.replace("TARGET", "target") for command in [*LOOKING, "backup saved", "clone tried"])],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if not done.stdout and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip("this system lets nobody mount here")
    assert done.stdout == "done\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after", [1, 50, 400])
def test_a_signal_while_messages_are_drained_loses_none(
    store: Path, number: signal.Signals, after: int
) -> None:
    """What was printed is acked; what was not is ready again, none of its attempts used."""
    with mq.open(store, sync="never") as broker:
        broker.queue("q").publish_many([f"message {number}" for number in range(2000)])
    process = subprocess.Popen(
        [*COMMAND, "receive", "q", "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    printed = [process.stdout.readline() for _ in range(after)]
    process.send_signal(number)
    printed += process.stdout.readlines()
    said = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert (process.wait(60), said) == (128 + number, b"")
    with mq.open(store, read_only=True) as broker:
        stats = broker.queue("q").stats()
        left = broker.queue("q").peek(2000)
    assert (stats.acked, stats.in_flight, stats.failed) == (len(printed), 0, 0)
    assert [line.decode().strip() for line in printed] + [each.body for each in left] == [
        f"message {number}" for number in range(2000)
    ]
    assert all(each.attempts == 0 for each in left)
