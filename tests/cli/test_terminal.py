"""The command line on a real terminal: prompts, screens, bars, tables, Ctrl-C, at several widths."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from commands import AT_ONCE, COMMAND

import mq
from mq.cli import output, screen

WIDTHS = [40, 80, 120]
LINES = 24
PATIENCE = 60.0  # seconds without anything new on the screen
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command with all its streams on a terminal of so many columns."""

    def __init__(
        self, *args: str, columns: int = 80, command: list[str] = COMMAND, **environment: str
    ) -> None:
        self._own, self._other = pty.openpty()
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
        self.settings = self.now()
        known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
        self.process = subprocess.Popen(
            [*command, *args], stdin=self._other, stdout=self._other, stderr=self._other,
            env=known | {"TERM": "xterm"} | environment, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a character may come in two parts

    def now(self) -> list[Any]:
        """How the terminal is set."""
        return termios.tcgetattr(self._other)

    def wait_for(self, text: str, times: int = 1) -> None:
        while self.shown.count(text) < times:
            assert select.select([self._own], [], [], PATIENCE)[0], f"{text!r} is not in {self.shown!r}"
            self._see(os.read(self._own, 1 << 16))

    def _see(self, data: bytes) -> None:
        self.shown += self._decoder.decode(data)

    def send(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def end(self) -> int:
        """The exit code, once all is read that was shown."""
        settings = None
        try:
            code = self._drain()
            settings = self.now()
        finally:
            self.close()
        assert settings == self.settings, "the terminal is as it was"
        assert "Traceback" not in self.shown
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._other)
        os.close(self._own)

    def _drain(self) -> int:
        shown, give_up = "", 0.0
        while self.process.poll() is None:
            if self.shown != shown or not give_up:
                shown, give_up = self.shown, time.monotonic() + PATIENCE
            assert time.monotonic() < give_up, f"it does not end, and has shown {shown!r}"
            self._read()
        while self._read():  # each time 4 KiB at most, and the process may have ended long ago
            pass
        return self.process.returncode

    def _read(self) -> bool:
        """Take in what is there; whether anything was."""
        os.set_blocking(self._own, False)
        try:
            self._see(os.read(self._own, 1 << 16))
            return True
        except BlockingIOError:
            os.sched_yield()
            return False
        finally:
            os.set_blocking(self._own, True)

    def lines(self) -> list[str]:
        """What stood on each line, without colours."""
        return [ESCAPES.sub("", line) for line in re.split(r"[\r\n]+", self.shown)]


@pytest.fixture
def wide(store: Path) -> list[str]:
    """Queues whose names take much room, one paused, one of dead letters."""
    names = ["日本語" * 25, "plain", "a-rather-long-name." * 8 + "dead"]
    with mq.open(store, sync="never") as broker:
        for number, name in enumerate(names):
            broker.queue(name).publish_many([f"{name} {number}"] * (number + 1))
        broker.queue("plain").pause()
    return names


def ready(store: Path) -> int:
    with mq.open(store, read_only=True) as broker:
        return broker.queue("mail").stats().ready


@pytest.mark.parametrize(
    "columns, keys, code, left, said",
    [
        pytest.param(40, "y\n", 0, 0, "3 messages of mail dropped", id="y, 40"),
        pytest.param(80, "yes\n", 0, 0, "3 messages of mail dropped", id="yes"),
        pytest.param(120, "Y\n", 0, 0, "3 messages of mail dropped", id="Y, 120"),
        pytest.param(80, "n\n", 1, 3, "mq: nothing was done", id="n"),
        pytest.param(80, "\n", 1, 3, "mq: nothing was done", id="enter"),
        pytest.param(80, "\x04", 1, 3, "mq: nothing was done", id="ctrl-d"),
        pytest.param(80, "\x03", 130, 3, "", id="ctrl-c"),
    ],
)
def test_what_destroys_asks_first(
    store: Path, filled: list[int], columns: int, keys: str, code: int, left: int, said: str
) -> None:
    terminal = Terminal("queue", "purge", "mail", columns=columns)
    terminal.wait_for("drop 3 messages of mail? [y/N] ")
    assert ready(store) == 3
    terminal.send(keys)
    assert terminal.end() == code
    assert said in terminal.shown and ready(store) == left


@pytest.mark.parametrize(
    "verb, question", [("purge", "drop {} messages of mail?"), ("delete", "with {} messages?")]
)
def test_it_asks_again_if_there_is_more_by_then(
    store: Path, filled: list[int], verb: str, question: str
) -> None:
    terminal = Terminal("queue", verb, "mail")
    terminal.wait_for(question.format(3))
    with mq.open(store) as broker:
        broker.queue("mail").publish("late")
    terminal.send("y\n")
    terminal.wait_for(question.format(4))
    terminal.send("n\n")
    assert terminal.end() == 1 and ready(store) == 4


@pytest.mark.parametrize("verb", ["purge", "delete"])
def test_it_asks_again_if_the_queue_is_another_by_then(store: Path, filled: list[int], verb: str) -> None:
    terminal = Terminal("queue", verb, "mail")
    terminal.wait_for("[y/N]")
    with mq.open(store) as broker:
        broker.queue("mail").delete()
        broker.queue("mail").publish("of another queue")
    terminal.send("y\n")
    terminal.wait_for("[y/N]", 2)
    terminal.send("n\n")
    assert terminal.end() == 1 and ready(store) == 1


def test_a_dead_letter_that_died_again_of_another_cause_is_not_dropped(store: Path) -> None:
    with mq.open(store) as broker:
        mail = broker.queue("mail", max_attempts=1)
        mail.publish_many(["one", "two"])
        for _ in range(2):
            mail.receive(timeout=0).nack(reason="Timeout")  # type: ignore[union-attr]
    terminal = Terminal("dead", "purge", "mail", "--reason", "Timeout")
    terminal.wait_for("drop 2 dead letters of mail.dead? [y/N]")
    with mq.open(store) as broker:
        broker.queue("mail.dead").replay()
        broker.queue("mail").receive(timeout=0).nack(reason="a bug")  # type: ignore[union-attr]
        broker.queue("mail").receive(timeout=0).nack(reason="Timeout")  # type: ignore[union-attr]
    terminal.send("y\n")
    assert terminal.end() == 0 and "1 message of mail.dead dropped" in terminal.shown
    with mq.open(store, read_only=True) as broker:
        assert [message.body for message in broker.queue("mail.dead").peek()] == ["one"]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("keys, code", [("q", 0), ("\x03", 130)], ids=["q", "ctrl-c"])
def test_top_has_the_screen_and_gives_it_back(wide: list[str], columns: int, keys: str, code: int) -> None:
    terminal = Terminal("top", "--every", "0.05", columns=columns)
    terminal.wait_for(screen.CLEAR_BELOW, 2)
    terminal.send(keys)
    assert terminal.end() == code
    assert terminal.shown.startswith(screen.BEGIN) and terminal.shown.endswith(screen.END)
    frame = terminal.shown.split(screen.HOME)[1].partition(screen.CLEAR_BELOW)[0].split("\r\n")
    shown = [ESCAPES.sub("", line) for line in frame]
    assert len(shown) <= LINES and max(map(output.width, shown)) <= columns
    assert shown[2].split()[:2] == ["queue", "depth"]
    assert {line.split()[0][:3] for line in shown[3:]} == {"日本語", "pla", "a-r"}
    assert "\x1b[33mplain" in frame[-1] or "\x1b[33mplain" in "".join(frame), "what is paused is yellow"


LOOKING = [
    "queues", "queues pl", "stats", "stats plain", "stats TOPIC", "peek plain", "peek plain --long",
    "peek fails --state in_flight", "tail --since 0 --until-end", "dead",
    "dead show DEAD", "topics", "topic history TOPIC", "subscriptions", "schedules", "inspect", "dump",
    "dump --bodies", "verify", "compact --dry-run", "doctor", "-s damaged inspect",
    "-s damaged verify", "-s damaged dump", "-s damaged doctor", "-s damaged repair --dry-run",
    "copy --to-store there", "publish plain x --json", "queue set plain --max-length 7", "backup elsewhere",
]  # fmt: skip
EACH = """
import sys
from mq.cli import cli
for command in sys.argv[1:]:
    print(f"$ {command}", flush=True)
    try:
        cli(command.split(), prog_name="mq")
    except SystemExit:
        sys.stderr.flush()
"""


@pytest.mark.parametrize("columns", WIDTHS)
def test_no_line_is_wider_than_the_terminal(store: Path, wide: list[str], columns: int) -> None:
    """What is said on standard error, the terminal breaks: a path in it can be copied."""
    with mq.open(store) as broker:
        broker.topic("a.rather.long.topic" * 5, retain_count=1).publish("日本語" * 50)
        broker.queue(wide[0]).subscribe("a.rather.long.topic" * 5, match={"source": "shop" * 20})
        broker.queue("fails", dead_letter=wide[2]).publish("x")
        broker.queue("fails").receive(timeout=0).reject("日" * 50)  # type: ignore[union-attr]
        broker.queue("plain").publish("x" * 500, headers={"h" * 50: "日" * 50}, group="g" * 200)
        broker.queue("plain").publish("日本語\t" * 500, delay=3600, dedup_id="d" * 200)
        broker.queue("fails").publish("in flight")
        broker.queue("fails").receive(timeout=0)
        broker.schedule("s" * 100, wide[0], "x", cron="30 6 * * *", tz="America/Argentina/Buenos_Aires")
    damage(store, store.with_name("damaged"))
    words = [each.replace("TOPIC", "a.rather.long.topic" * 5).replace("DEAD", wide[2]) for each in LOOKING]
    terminal = Terminal(*words, columns=columns, command=[sys.executable, "-c", EACH])
    assert terminal.end() == 0
    for shown in terminal.shown.replace("\r\n", "\n").split("\n$ "):
        command, *lines = [ESCAPES.sub("", line) for line in re.split(r"[\r\n]+", shown) if line]
        lines = [line for line in lines if not line.startswith("mq: ")]
        assert lines and max(map(output.width, lines)) <= columns, command


def damage(store: Path, copy: Path) -> None:
    """A copy with a byte changed in it that was on the disk."""
    shutil.copytree(store, copy)
    (segment,) = (copy / "log").glob("*.seg")
    segment.write_bytes(segment.read_bytes().replace(b"plain 1", b"plane 1", 1))
    for path in (copy / "checkpoint").iterdir():
        path.unlink()


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_bar_fits_and_goes(store: Path, columns: int) -> None:
    with mq.open(store, sync="never", segment_bytes=1 << 20) as broker:
        broker.queue("q").publish_many([b"x" * 1000] * 5000)
    terminal = Terminal("verify", columns=columns, command=AT_ONCE)
    assert terminal.end() == 0
    bars = [line for line in terminal.lines() if line.startswith("verifying")]
    assert bars and max(map(output.width, bars)) < columns
    assert "%" in bars[0] and "\r\x1b[K" in terminal.shown
    assert terminal.lines()[-2].endswith("clean: closed in order") or columns == 40


def test_a_drain_into_a_file_shows_how_far_it_is(store: Path, tmp_path: Path) -> None:
    with mq.open(store, sync="never") as broker:
        broker.queue("q").publish_many(["x"] * 500)
    shell = ["sh", "-c", 'exec "$@" > drained', "sh", *AT_ONCE]
    terminal = Terminal("receive", "q", command=shell)
    assert terminal.end() == 0
    assert re.search(r"receiving █*░* +\d+%  [\d,]+ messages?  [\d,]+/s", terminal.shown)
    assert (tmp_path / "drained").read_text() == "x\n" * 500


@pytest.mark.parametrize(
    "command",
    ["receive mail --follow", "tail mail --since 0", "top -n 100000 --json", "publish q", "import", "ack"],
)
def test_ctrl_c_ends_what_waits(store: Path, filled: list[int], command: str) -> None:
    terminal = Terminal(*command.split())
    if command == "receive mail --follow":
        terminal.wait_for('{"three":3}')
    elif command.startswith("tail"):
        terminal.wait_for("three")
    else:
        terminal.wait_for("\n")
    terminal.send("\x03")
    assert terminal.end() == 128 + signal.SIGINT


@pytest.mark.parametrize("no_color, coloured", [("", True), ("1", False)])
def test_what_needs_an_eye_has_a_colour(wide: list[str], no_color: str, coloured: bool) -> None:
    terminal = Terminal("queues", columns=120, NO_COLOR=no_color)
    assert terminal.end() == 0
    assert ("\x1b[33mpaused\x1b[0m" in terminal.shown) == coloured
    assert ("\x1b[31m3\x1b[0m" in terminal.shown) == coloured
    assert ("\x1b" in terminal.shown) == coloured


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_top_gives_the_screen_back_when_it_is_told_to_stop(wide: list[str], number: signal.Signals) -> None:
    terminal = Terminal("top", "--every", "0.05")
    terminal.wait_for(screen.CLEAR_BELOW, 2)
    terminal.process.send_signal(number)
    assert terminal.end() == 128 + number
    assert terminal.shown.endswith(screen.END)


def test_top_prints_lines_on_a_terminal_that_obeys_nothing(wide: list[str]) -> None:
    terminal = Terminal("top", "-n", "1", TERM="dumb")
    assert terminal.end() == 0
    assert "\x1b" not in terminal.shown and "plain  ready 2" in terminal.shown


def test_dump_shows_control_characters(store: Path) -> None:
    with mq.open(store) as broker:
        mail = broker.queue("mail", max_attempts=1)
        mail.publish("x", headers={"k\x1b[2J": "v\x1b[2J"}, group="g\x1b[2J", dedup_id="d\x1b[2J")
        mail.update_meta({"m\x1b[2J": "\x1b[2J"})
        mail.receive(timeout=0).nack(reason="r\x1b[2J")  # type: ignore[union-attr]
    terminal = Terminal("dump", columns=200, NO_COLOR="1")
    assert terminal.end() == 0
    assert "\x1b" not in terminal.shown and "\\x1b[2J" in terminal.shown
