"""mq receive."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import Run, Start
from companions import until, wait_until_asleep

import mq
import mq.engine.bodies
from mq.cli import output, receive
from mq.cli.signals import Interrupts

SLOW_SECONDS = 120.0  # for what takes a millisecond


def counts(store: Path, queue: str = "mail") -> tuple[int, int, int]:
    """Ready, in flight, acked."""
    with mq.open(store, read_only=True) as broker:
        stats = broker.queue(queue).stats()
        return stats.ready, stats.in_flight, stats.acked


def test_all_that_is_ready_is_printed_and_acked(run: Run, store: Path, filled: list[int]) -> None:
    result = run("receive", "mail")
    assert result.exit_code == 0
    assert result.stdout_bytes == b'one\n\xff\x00\n{"three":3}\n'
    assert counts(store) == (0, 0, 3)


def test_n_is_the_most(run: Run, store: Path, filled: list[int]) -> None:
    assert run("receive", "mail", "-n", "2").stdout_bytes == b"one\n\xff\x00\n"
    assert counts(store) == (1, 0, 2)


def test_json_says_what_the_body_is(run: Run, filled: list[int]) -> None:
    text, raw, structure = map(json.loads, run("receive", "mail", "--json").stdout.splitlines())
    assert (text["id"], text["queue"], text["attempts"]) == (filled[0], "mail", 1)
    assert (text["body_type"], text["body"]) == ("text", "one")
    assert (raw["body_type"], base64.b64decode(raw["body_base64"])) == ("bytes", b"\xff\x00")
    assert "body" not in raw
    assert (structure["body_type"], structure["body"]) == ("structure", {"three": 3})


def test_without_ack_they_stay_in_flight_and_the_receipt_settles_them(
    run: Run, store: Path, filled: list[int]
) -> None:
    lines = run("receive", "mail", "--no-ack", "--json").stdout.splitlines()
    assert counts(store) == (0, 3, 0)
    with mq.open(store) as broker:
        broker.queue("mail").ack_many([json.loads(line)["receipt"] for line in lines])
    assert counts(store) == (0, 0, 3)


@pytest.mark.parametrize(
    "queue, said", [("mail", "nothing is ready"), ("mial", "no queue 'mial' in data; there are: mail")]
)
def test_nothing_there_is_exit_code_3_and_says_why(
    run: Run, filled: list[int], queue: str, said: str
) -> None:
    run("receive", "mail", "-n", "3")
    result = run("receive", queue)
    assert (result.exit_code, result.stdout) == (3, "")
    assert said in result.stderr


def test_what_is_in_flight_or_delayed_is_told(run: Run, filled: list[int]) -> None:
    run("receive", "mail", "--no-ack")
    assert "3 in flight" in run("receive", "mail").stderr


def test_there_has_to_be_a_store(run: Run, store: Path) -> None:
    result = run("receive", "mail")
    assert result.exit_code == 1 and "--store" in result.stderr
    assert not store.exists()


@pytest.mark.parametrize(
    "options", [["-n", "0"], ["--wait", "-1"], ["--wait", "nan"], ["--wait", "1", "--follow"]]
)
def test_values_that_cannot_be_right(run: Run, filled: list[int], options: list[str]) -> None:
    assert run("receive", "mail", *options).exit_code == 2


def test_beside_a_live_process(run: Run, store: Path, filled: list[int]) -> None:
    """What it holds is its own; what is ready is anybody's."""
    with mq.open(store) as broker:
        queue = broker.queue("mail")
        held = queue.receive(timeout=0)
        assert run("receive", "mail").stdout_bytes == b'\xff\x00\n{"three":3}\n'
        assert queue.stats()[:3] == (0, 1, 0)
        held.ack()
        queue.publish("more")
        assert run("receive", "mail").stdout == "more\n"


def test_a_store_that_somebody_has_alone_names_the_process(
    start: Start, store: Path, filled: list[int]
) -> None:
    with mq.open(store, exclusive=True):
        process = start("receive", "mail")
        _, said = process.communicate(timeout=300)
    assert process.returncode == 1 and f"in use by process {os.getpid()}" in said.decode()


@pytest.mark.parametrize(
    "text, shown", [("plain", "plain"), ("\x1b[31mred", r"\x1b[31mred"), ("a\tb\nc", "a\tb\nc")]
)
def test_on_a_terminal_control_characters_are_shown(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str
) -> None:
    flags, raw = mq.engine.bodies.encode_body(text)
    assert output.body_shown(flags, raw) == raw
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    assert output.body_shown(flags, raw).decode() == shown


def test_a_structure_that_json_cannot_say_is_printed_all_the_same(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        id = broker.queue("odd").publish({(1, 2): 3})
        raw = broker.queue("odd").get(id).raw  # type: ignore[union-attr]
    assert base64.b64decode(json.loads(run("peek", "odd", "--json").stdout)["body_base64"]) == raw
    assert run("receive", "odd").stdout_bytes == raw + b"\n"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_say_is_not_null(run: Run, store: Path, number: float) -> None:
    with mq.open(store) as broker:
        for body in ({"a": [1, number]}, {"a": [None, 1.5]}):
            broker.queue("odd").publish(body)
    odd, whole = map(json.loads, run("peek", "odd", "--json").stdout.splitlines())
    found = msgspec.msgpack.decode(base64.b64decode(odd["body_base64"]))
    assert repr(found) == repr({"a": [1, number]}) and "body" not in odd
    assert whole["body"] == {"a": [None, 1.5]}


def test_output_that_takes_a_part_gets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unbuffered file may write less than it was given, and say so."""

    class Sips(io.BytesIO):
        def write(self, data: Any, /) -> int:
            return super().write(bytes(data[:3]))

    sips = Sips()
    monkeypatch.setattr(output, "stream", lambda: sips)
    output.line(b"more than a sip")
    assert sips.getvalue() == b"more than a sip\n"


def test_it_asks_again_only_when_there_may_be_a_message(tmp_path, monkeypatch) -> None:
    asked: list[float | None] = []
    plain = mq.Queue.receive

    def counted(self: mq.Queue, timeout: float | None = None, **options: Any) -> Any:
        asked.append(timeout)
        return plain(self, timeout, **options)

    monkeypatch.setattr(mq.Queue, "receive", counted)
    with mq.open(tmp_path / "store") as broker, Interrupts() as interrupts:
        queue = broker.queue("mail")

        def publish() -> None:
            until(lambda: broker._store.waiters.asleep)
            queue.publish(b"x")

        publisher = threading.Thread(target=publish)
        publisher.start()
        delivery = receive._next(queue, receive._Bell(broker, queue), math.inf, interrupts)
        publisher.join()
        assert delivery and delivery.raw == b"x"
    assert asked == [0, 0]


def test_a_signal_that_no_wait_was_there_for_ends_the_waiting(tmp_path: Path) -> None:
    """As one that comes just before the command falls asleep: it interrupts no system call of the thread.

    Here another thread gets it.
    """
    ended, in_time = threading.Event(), list[bool]()
    with mq.open(tmp_path / "store") as broker, Interrupts() as interrupts:
        queue = broker.queue("mail")

        def strike() -> None:
            until(lambda: broker._store.waiters.asleep)
            wait_until_asleep(main)
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            in_time.append(ended.wait(SLOW_SECONDS))
            queue.publish("so that it ends in any case")

        main, striker = threading.get_native_id(), threading.Thread(target=strike)
        striker.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                receive._next(queue, receive._Bell(broker, queue), math.inf, interrupts)
        finally:
            ended.set()
            striker.join()
    assert in_time == [True]
    assert signal.set_wakeup_fd(-1) == -1
