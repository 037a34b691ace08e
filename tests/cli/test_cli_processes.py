"""The command line as a real process: pipes that close, signals, terminals, full disks, live neighbours."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import AT_ONCE, COMMAND, Start

import mq
from mq.cli import cli
from mq.cli.receive import receive

BIG = 1 << 20  # more than any pipe holds


def stats(store: Path, queue: str = "q") -> mq.Stats:
    with mq.open(store, read_only=True) as broker:
        return broker.queue(queue).stats()


def publish(store: Path, *bodies: object) -> None:
    with mq.open(store, sync="never") as broker:
        broker.queue("q").publish_many(bodies)


def end(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """The exit code, and what was said on standard error."""
    code = process.wait(300)
    return code, process.stderr.read() if process.stderr else b""


@pytest.mark.parametrize(
    "command",
    [["dump"], ["dump", "--json"], ["peek", "q", "-n", "5000"], ["receive", "q"], ["export"],
     ["tail", "--since", "0"], ["top", "--every", "0.001"]],
    ids=" ".join,
)  # fmt: skip
def test_a_reader_that_has_seen_enough_ends_it_quietly(store: Path, start: Start, command: list[str]) -> None:
    publish(store, *["x" * 200] * 5000)
    process = start(*command)
    process.stdout.readline()  # type: ignore[union-attr]
    process.stdout.close()  # type: ignore[union-attr]
    assert end(process) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_nobody_could_read_is_released_not_acked(store: Path, start: Start, unbuffered: str) -> None:
    publish(store, "first", "x" * BIG, "last")
    process = start("receive", "q", env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert process.stdout.readline() == b"first\n"  # type: ignore[union-attr]
    process.stdout.close()  # type: ignore[union-attr]
    end(process)
    after = stats(store)
    assert (after.acked, after.ready, after.in_flight, after.failed) == (1, 2, 0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_waits(store: Path, start: Start, number: signal.Signals) -> None:
    publish(store, "one")
    process = start("receive", "q", "--follow")
    assert process.stdout.readline() == b"one\n"  # type: ignore[union-attr]
    process.send_signal(number)
    assert end(process) == (128 + number, b"")
    assert (stats(store).acked, stats(store).in_flight) == (1, 0)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_body_that_no_pipe_holds_comes_out_whole(store: Path, start: Start, unbuffered: str) -> None:
    publish(store, "x" * BIG, "last")
    process = start("receive", "q", env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert process.communicate(timeout=300) == (b"x" * BIG + b"\nlast\n", b"")
    assert stats(store).acked == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_message_is_half_printed_lets_it_come_out_whole(
    store: Path, start: Start, number: signal.Signals
) -> None:
    publish(store, "x" * BIG, "next")
    process = start("receive", "q", "--follow")
    assert os.read(process.stdout.fileno(), 1) == b"x"  # type: ignore[union-attr]
    process.send_signal(number)
    out, said = process.communicate(timeout=300)
    assert (process.returncode, out, said) == (128 + number, b"x" * (BIG - 1) + b"\n", b"")
    assert (stats(store).acked, stats(store).ready) == (1, 1)


def test_a_second_signal_while_a_message_is_half_printed_gives_it_back(store: Path, start: Start) -> None:
    publish(store, "x" * BIG)
    process = start("receive", "q", "--follow")
    assert os.read(process.stdout.fileno(), 1) == b"x"  # type: ignore[union-attr]
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert end(process) in [(130, b""), (143, b"")], "two signals at once come in either order"
    with mq.open(store, read_only=True) as broker:
        (message,) = broker.queue("q").peek()
    assert (message.state, message.attempts) == ("ready", 0)


def test_the_way_to_move_messages_that_the_help_shows_loses_none(store: Path) -> None:
    shown = "\n".join(line for line in receive.help.splitlines() if "taken\n" in line + "\n")  # type: ignore[union-attr]
    assert "mq publish" not in shown and shown.count("mq ") == 3
    script = shown.replace("mq -s other", "mq").replace("mq ", shlex.join(COMMAND) + " ")
    script = script.replace("publish mail", "publish q").replace("receive mail", "receive from")
    with mq.open(store) as broker:
        broker.queue("from").publish_many(map(str, range(50)))
        broker.queue("q", max_length=10)
    failed = subprocess.run(script, shell=True, capture_output=True, timeout=300)
    assert failed.returncode == 1 and stats(store, "from").acked == 0
    with mq.open(store) as broker:
        broker.queue("from").publish_many(map(str, range(50)))
        broker.queue("q", max_length=None)
    done = subprocess.run(script, shell=True, capture_output=True, timeout=300)
    assert done.returncode == 0 and stats(store, "from").acked == 50
    assert "lost" in receive.help  # type: ignore[operator]


def test_a_signal_while_publish_reads(store: Path, start: Start) -> None:
    process = start("publish", "q", stdin=subprocess.PIPE)
    process.stdin.write(b"one\ntwo\nhal")  # type: ignore[union-attr]
    process.stdin.flush()  # type: ignore[union-attr]
    lines = [process.stdout.readline() for _ in range(2)]  # type: ignore[union-attr]
    process.send_signal(signal.SIGINT)
    code, said = end(process)
    assert code == 130 and said.count(b"\n") == 2 and b"created" in said
    assert b"mq: 2 messages published to q before the interruption\n" in said
    with mq.open(store, read_only=True) as broker:
        found = broker.queue("q").peek()
    assert [message.body for message in found] == ["one", "two"]
    assert [int(line) for line in lines] == [message.id for message in found]


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no /dev/zero")
def test_a_line_without_an_end_is_given_up(store: Path, start: Start) -> None:
    with open("/dev/zero", "rb") as endless:
        code, said = end(start("publish", "q", stdin=endless))
    assert code == 1 and b"line 1: longer than" in said


def test_follow_prints_what_is_there_at_once(store: Path, start: Start) -> None:
    """Every line is flushed: a pipe behind it does not wait for a buffer to fill."""
    publish(store, "one", "two")
    process = start("receive", "q", "--follow", "--json")
    assert json.loads(process.stdout.readline())["body"] == "one"  # type: ignore[union-attr]
    assert json.loads(process.stdout.readline())["body"] == "two"  # type: ignore[union-attr]


def test_readers_beside_a_busy_writer_never_see_damage(store: Path) -> None:
    """P7: the records that a live process is just writing are neither torn nor corrupt."""
    stop = threading.Event()
    with mq.open(store) as broker:
        queue = broker.queue("q")

        def write() -> None:
            while not stop.is_set():
                queue.publish("x" * 100)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(10):
                with mq.open(store, read_only=True) as reader:
                    reader.queue("q").peek()
            for command in ("inspect", "dump"):
                done = subprocess.run([*COMMAND, command], capture_output=True, timeout=300)
                assert (done.returncode, done.stderr) == (0, b"")
        finally:
            stop.set()
            writer.join()


CHURN = """
import mq
with mq.open("data", sync="never", segment_bytes=16_384) as broker:
    queue = broker.queue("q")
    print("ready", flush=True)
    while True:
        queue.publish_many(["x" * 100] * 20)
        for message in queue.receive_many(20, timeout=0):
            message.ack()
"""


def test_readers_beside_compaction_never_miss_a_segment(store: Path) -> None:
    """P7: a segment that compaction drops while somebody looks is not a missing one."""
    with subprocess.Popen([sys.executable, "-c", CHURN], stdout=subprocess.PIPE) as writer:
        try:
            writer.stdout.readline()  # type: ignore[union-attr]
            for _ in range(12):
                mq.open(store, read_only=True).close()
                for command in ("inspect", "dump"):
                    result = CliRunner().invoke(cli, [command])
                    assert (result.exit_code, result.stderr) == (0, "")
        finally:
            writer.kill()


def run_on_a_terminal(*args: str, stdin: Path) -> tuple[int, bytes, bytes]:
    """Run with standard error on a terminal; the exit code, the output, what the terminal got."""
    own, other = pty.openpty()
    with stdin.open("rb") as source:
        process = subprocess.Popen([*AT_ONCE, *args], stdin=source, stdout=subprocess.PIPE, stderr=other)
    os.close(other)
    shown = b""
    while True:
        try:
            data = os.read(own, 4096)
        except OSError:  # EIO: the other side is closed
            break
        if not data:
            break
        shown += data
    os.close(own)
    output = process.communicate(timeout=300)[0]
    return process.returncode, output, shown


def test_the_progress_bar_is_on_a_terminal_only(store: Path, tmp_path: Path) -> None:
    source = tmp_path / "lines"
    source.write_text("some line\n" * 1000)
    code, output, shown = run_on_a_terminal("publish", "q", stdin=source)
    assert code == 0 and len(output.split()) == 1000
    assert b"100%" in shown and b"1,000 messages published to q" in shown
    with source.open("rb") as lines:
        done = subprocess.run([*COMMAND, "publish", "q"], stdin=lines, capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")
    assert stats(store).ready == 2000


def test_an_error_behind_the_bar_is_a_line_of_its_own(store: Path, tmp_path: Path) -> None:
    source = tmp_path / "lines"
    source.write_bytes(b"1\n{bad\n")
    code, output, shown = run_on_a_terminal("publish", "q", "--as", "json", stdin=source)
    assert code == 1 and len(output.split()) == 1
    assert b"\nmq: line 2: not JSON" in shown and b"Traceback" not in shown


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", [["queues"], ["receive", "q"], ["dump"]], ids=" ".join)
def test_output_that_does_not_fit(store: Path, start: Start, command: list[str]) -> None:
    publish(store, "one")
    with open("/dev/full", "wb") as full:
        process = start(*command, stdout=full)
    code, said = end(process)
    assert code == 1 and said.startswith(b"mq: standard output: ") and said.count(b"\n") == 1
    assert (stats(store).ready, stats(store).acked) == (1, 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", [["publish", "q"], ["publish", "q", "one", "two"]], ids=" ".join)
def test_ids_that_do_not_fit_leave_messages_that_are_told_of(
    store: Path, start: Start, command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "lines").write_text("one\ntwo\n")
    with open("/dev/full", "wb") as full, (tmp_path / "lines").open("rb") as lines:
        process = start(*command, stdin=lines, stdout=full)
    code, said = end(process)
    assert code == 1 and b"mq: 2 messages published to q; not all of their ids were printed\n" in said
    assert stats(store).ready == 2


HELP = [["--help"], ["-h"], ["--version"], ["publish", "--help"], ["dump", "-h"]]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_that_does_not_fit(start: Start, command: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        process = start(*command, stdout=full)
    assert end(process) == (1, b"mq: standard output: No space left on device; the rest was not printed\n")


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_that_nobody_reads(start: Start, command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*command, stdout=writer)
    os.close(writer)
    assert end(process) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_closed_standard_stream(store: Path, stream: int) -> None:
    publish(store, "one")
    code = (
        "import os, sys; os.close(int(sys.argv[1]));os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    for command in (["publish", "q"], ["receive", "q"]):
        process = subprocess.run(
            [sys.executable, "-c", code, str(stream), *COMMAND[1:], *command],
            input=b"two\n", capture_output=True, timeout=300,
        )  # fmt: skip
        assert b"Traceback" not in process.stderr
    held = stats(store)
    assert held.in_flight == 0
    assert held.acked == 0 if stream == 1 else held.acked > 0


def test_a_full_disk_is_one_line_and_loses_nothing(store: Path) -> None:
    """A limit on the size of files stands for the disk."""
    publish(store, "one")
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20));"
        "from mq.cli import main; main()"
    )
    lines = b"".join(b"%05d" % number + b"x" * 1000 + b"\n" for number in range(5000))
    done = subprocess.run(
        [sys.executable, "-c", code, "publish", "q"], input=lines, capture_output=True, timeout=300
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr and b"free some space" in done.stderr
    printed = done.stdout.split()
    assert 0 < len(printed) < 5000
    with mq.open(store) as broker:
        ids = {message.id for message in broker.queue("q").peek(10_000)}
        assert {int(id) for id in printed} <= ids
        broker.queue("q").publish("there is room again")


LOGS = """
import atexit, logging, os
from mq.cli import main
path = os.path.abspath("data")
atexit.register(logging.getLogger("mq").warning, "%s/mark: \\x1b[2J\\nwhat is tried again", path)
main()
"""


def test_what_the_library_logs_is_a_line_like_all_others(start: Start, filled: list[int]) -> None:
    """A checkpoint that a full disk has no room for, as an example."""
    process = start("queues", command=[sys.executable, "-c", LOGS])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and b"mail" in out
    assert err == b"mq: data/mark: \\x1b[2J what is tried again\n"


HELD = """
import atexit, os, sys
from mq.cli import main
number = int(sys.argv.pop())
atexit.register(lambda: os._exit(os.fstat(number).st_rdev != os.stat(os.devnull).st_rdev))
main()
"""


@pytest.mark.parametrize("number", [0, 1, 2])
def test_no_file_gets_the_number_of_a_stream_that_is_closed(
    start: Start, filled: list[int], number: int
) -> None:
    """`mq serve >&-` was aborted by uvloop, which found a socket there."""
    closed = f'exec "$@" {number}<&-'
    process = start("queues", str(number), command=["sh", "-c", closed, "sh", sys.executable, "-c", HELD])
    process.communicate(timeout=60)
    assert process.returncode == 0
