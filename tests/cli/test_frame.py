"""What all commands have in common: help, mistakes, tables, progress, prompts."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from commands import COMMAND, Run

import mq
from mq.cli import app, cli, output, progress
from mq.cli.params import DURATION, INSTANT, PLACE, SIZE_TYPE
from mq.cli.root import ELSEWHERE, MODULES
from mq.errors import UsageError


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command, those of groups too, with the words that name it."""
    ctx = click.Context(cli, info_name="mq")
    for name in MODULES:
        command = cli.get_command(ctx, name)
        assert command
        yield (name,), command
        yield from parts((name,), command)


def parts(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for word, sub in command.commands.items():
            yield (*words, word), sub
            yield from parts((*words, word), sub)


ALL = dict(commands())
WORDS = [pytest.param(words, id=" ".join(words)) for words in ALL]


# ── help ───────────────────────────────────────────────────────────────────────────


def test_the_help_fits_a_screen_and_names_every_command(run: Run) -> None:
    lines = run("--help").stdout.splitlines()
    assert len(lines) <= 34 and max(map(len, lines)) <= 80
    shown = " ".join(lines)
    assert all(re.search(rf"\b{name}\b", shown) for name in MODULES)
    assert run().stdout == run("-h").stdout == "\n".join(lines) + "\n"


@pytest.mark.parametrize("words", WORDS)
def test_every_help_is_short_and_has_an_example(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert f"mq {' '.join(words)}" in result.stdout.partition("\n")[2]
    lines = result.stdout.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 80


@pytest.mark.parametrize("words", WORDS)
def test_every_command_that_prints_data_prints_json(words: tuple[str, ...]) -> None:
    options = {name for param in ALL[words].params for name in param.opts}
    no_data = [
        ("queue",),
        ("topic",),
        ("worker",),
        ("serve",),
        ("serve", "keys"),
        ("serve", "users"),
        ("serve", "users", "add"),
        ("completion",),
    ]
    assert ("--json" in options) == (words not in no_data)
    without_store = [
        ("queue",),
        ("topic",),
        ("worker",),
        ("serve", "keys"),
        ("serve", "users"),
        ("serve", "keys", "add"),
        ("serve", "users", "add"),
        ("completion",),
    ]
    assert "--store" in options or words in without_store


def test_the_manual_is_current() -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts/cli_manual.py"))
    assert script["PAGE"].read_text() == script["manual"](), "run python scripts/cli_manual.py"


def test_no_command_is_imported_before_it_is_used() -> None:
    code = "import sys, mq.cli; print(*sorted(name for name in sys.modules if name.startswith('mq.cli.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [
        "mq.cli.app",
        "mq.cli.logs",
        "mq.cli.output",
        "mq.cli.params",
        "mq.cli.progress",
        "mq.cli.root",
    ]


# ── mistakes ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "typed, said",
    [
        ("dunp", "did you mean `mq dump`?"),
        ("publsh", "did you mean `mq publish`?"),
        ("replay x", "type `mq dead replay x`"),
        ("purge x", "`mq queue --help` and `mq dead --help` say what empties and deletes queues"),
        ("drop x", "`mq queue --help` and `mq dead --help` say what empties and deletes queues"),
        ("ls", "type `mq queues`"),
        ("queue creat x", "did you mean `mq queue create`?"),
        ("nonsense", "`mq --help` lists those there are"),
        ("queues --jsn", "did you mean '--json'? `mq queues --help` says how"),
        ("peek", "missing argument 'QUEUE'; `mq peek --help` says how"),
        ("\x1b[31mred", "`mq --help` lists those there are"),
        ("queues --store=", "--store is empty: name a directory; `mq queues --help` says how"),
    ],
)
def test_a_mistake_is_answered_in_one_line(run: Run, store: Path, typed: str, said: str) -> None:
    result = run(*typed.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.lower().rstrip("\n").endswith(said.lower()) and result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr and not store.exists()


@pytest.mark.parametrize(
    "typed",
    ["repare", "repai", "queue delet x", "queue purg x", "cancle q 1", "rejct", "dead purg x", "unsubscrib",
     "queue purge q --ye", "dead purge q --al"],
)  # fmt: skip
def test_what_destroys_is_never_suggested(run: Run, store: Path, typed: str) -> None:
    result = run(*typed.split())
    assert result.exit_code == 2
    assert "there is no command" in result.stderr or "no such option" in result.stderr
    named = set(re.findall(r"[\w-]+", result.stderr.partition("mean")[2].partition(" --help` says")[0]))
    assert not named & (app.DESTRUCTIVE | app.DESTRUCTIVE_OPTIONS) - {"purge"}


def typos(word: str) -> Iterator[str]:
    """The word with a letter left out, doubled, or replaced, and with two exchanged."""
    for at in range(len(word)):
        yield word[:at] + word[at + 1 :]
        yield word[:at] + word[at] + word[at:]
        yield word[:at] + "x" + word[at + 1 :]
        yield word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :]


def suggested(group: click.Group, words: tuple[str, ...], typed: str) -> str:
    """What is said of a command that is not there; nothing, if it is."""
    ctx = click.Context(group, info_name=" ".join(["mq", *words]))
    if not typed or group.get_command(ctx, typed):
        return ""
    assert isinstance(group, app.Group)
    return (
        group.unknown(ctx, [typed, "x"]).partition("`: ")[2]
        or group.unknown(ctx, [typed]).partition("mean")[2]
    )


def test_no_typo_of_any_command_is_answered_with_what_destroys() -> None:
    groups: dict[tuple[str, ...], click.Group] = {(): cli}
    groups |= {words: command for words, command in ALL.items() if isinstance(command, click.Group)}
    meant = {words[-1] for words in ALL} | set(ELSEWHERE) | app.DESTRUCTIVE
    answers = {
        answer
        for words, group in groups.items()
        for word in meant
        for typed in {word, *typos(word)}
        if (answer := suggested(group, words, typed))
    }
    assert any("mq dead replay" in answer for answer in answers) and len(answers) > 30
    for answer in answers:
        assert not set(re.findall(r"[\w-]+", answer)) & app.DESTRUCTIVE, answer


@pytest.mark.parametrize("words", WORDS)
def test_no_typo_of_an_option_is_answered_with_what_destroys(words: tuple[str, ...]) -> None:
    known = [name for param in ALL[words].params for name in param.opts if name.startswith("--")]
    for typed in {typo for name in known for typo in typos(name[2:]) if f"--{typo}" not in known}:
        with pytest.raises(click.ClickException) as caught, app.reported(click.Context(ALL[words])):
            raise click.NoSuchOption(f"--{typed}", possibilities=known)
        said = caught.value.format_message().partition("Did you mean")[2] or caught.value.message
        assert not set(re.findall(r"--[\w-]+", said.partition("` --help`")[0])) & app.DESTRUCTIVE_OPTIONS


def test_every_word_of_other_tools_is_answered_with_a_command_that_is_there() -> None:
    for word, meant in ELSEWHERE.items():
        assert word not in MODULES
        _, *rest = meant.split()
        assert tuple(rest[:2]) in ALL or tuple(rest[:1]) in ALL, meant


def bad_values() -> Iterator[object]:
    """For each option that takes something in particular: values that cannot be right."""
    for words, command in ALL.items():
        for param in command.params:
            kind = getattr(param.type, "_inner", param.type)
            if isinstance(param, click.Argument) or param.type.name in ("text", "boolean", "queue", "topic"):
                continue
            bad = ["", "nonsense", "-1e400"]
            if kind.name == "key=value":
                bad = ["", "=x"]
            if kind.name in ("place", "time"):
                bad += ["2030-01-01T00:00", "99999999999999999999d", "-5m"]
            for value in bad:
                name = max(param.opts, key=len)
                yield pytest.param(words, param, value, id=f"{' '.join(words)} {name} {value}")


@pytest.mark.parametrize("words, param, value", list(bad_values()))
def test_a_bad_value_of_any_option_is_one_line(
    run: Run, store: Path, words: tuple[str, ...], param: click.Option, value: str
) -> None:
    arguments = [each for each in ALL[words].params if isinstance(each, click.Argument)]
    given = ["1" if each.type.name == "integer" else "x" for each in arguments if each.required]
    result = run(*words, *given, f"{max(param.opts, key=len)}={value}", input=b"")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("mq: ") and result.stderr.count("\n") == 1
    assert not store.exists()


@pytest.mark.parametrize(
    "args",
    [
        ["queue", "create", "q", "--max-attempts", "0"],
        ["queue", "create", "q", "--backoff", "speed=1"],
        ["queue", "create", "q", "--backoff", "factor=0"],
        ["queue", "create", "q", "--visibility-timeout", "99999999999d"],
        ["queue", "create", "q", "--dead-letter", ""],
        ["queue", "create", ""],
        ["publish", "q", "x", "--delay", "1", "--at", "2030-01-01T00:00Z"],
        ["publish", "q", "x", "--group", ""],
        ["publish", "q", "x", "y", "--dedup-id", "a"],
        ["publish", "q", "--dedup-id", "a"],
        ["publish", "q", "x", "--ttl", "0"],
        ["topic", "publish", "a.*", "x"],
        ["topic", "set", "a"],
        ["subscribe", "q", "a..b"],
        ["reschedule", "q", "1", "--delay", "1", "--at", "2030-01-01T00:00Z"],
        ["tail", "-t", "a.b*"],
    ],
    ids=" ".join,
)
def test_values_that_do_not_go_together_are_one_line_and_nothing_is_made(
    run: Run, store: Path, args: list[str]
) -> None:
    result = run(*args, input=b"x\n")
    assert (result.exit_code, result.stdout) == (2, "")
    *told, said = result.stderr.splitlines()
    assert said.startswith("mq: ") and len(told) <= 1
    if args[0] != "queue":
        assert not store.exists()


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (DURATION, "90", 90), (DURATION, "90s", 90), (DURATION, "1.5h", 5400), (DURATION, "250ms", 0.25),
        (DURATION, "2min", 120), (DURATION, "2m", 120), (DURATION, "1d", 86_400),
        (SIZE_TYPE, "100", 100), (SIZE_TYPE, "2K", 2048), (SIZE_TYPE, "1.5MiB", 3 << 19),
        (SIZE_TYPE, "1g", 1 << 30),
        (PLACE, "4711", 4711),
    ],
)  # fmt: skip
def test_values(kind: click.ParamType, text: str, value: float) -> None:
    assert kind.convert(text, None, None) == value


def test_times() -> None:
    at = INSTANT.convert("2030-01-31T06:30+01:00", None, None)
    assert PLACE.convert("2030-01-31T05:30Z", None, None) == at
    ago = PLACE.convert("10m", None, None)
    assert ago.tzinfo is not None and ago < PLACE.convert("1s", None, None)


# ── tables ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text, columns", [("abc", 3), ("日本語", 6), ("e\u0301", 1), ("🦆", 2), ("a\u200bb", 2)]
)
def test_the_width_of_a_text(text: str, columns: int) -> None:
    assert output.width(text) == columns


def test_no_table_is_wider_than_its_terminal() -> None:
    header = ["queue", "ready", "state"]
    rows = [["日本語" * 20, "1,234,567", "paused"], ["plain", "1", ""]]
    for room in (10, 20, 40, 80, 120, 200):
        lines = output.laid_out(header, rows, room, ["queue", "state"], ["queue"])
        assert max(map(output.width, lines)) <= room
        if room >= 40:
            assert lines[1].endswith("paused") and lines[1].startswith("日本語"), "only the name is cut"
        assert ("…" in lines[1]) == (room < 140)
    assert output.laid_out(header, rows, None)[1].strip().startswith("日本語" * 20), "whole, in a pipe"


def test_what_can_be_spared_goes_before_names_are_cut_short() -> None:
    header, rows = ["queue", "ready", "size", "state"], [["a-rather-long-name", "1", "1.0 KiB", "paused"]]
    for room, kept in [(None, header), (80, header), (36, header), (35, ["queue", "ready", "state"]),
                       (26, ["queue", "state"])]:  # fmt: skip
        spare = ["size", "ready"]
        lines = output.laid_out(header, rows, room, ["queue"], ["queue"], spare)
        assert lines[0].split() == kept
        assert room is None or max(map(output.width, lines)) <= room


@pytest.mark.parametrize("room", [20, 30, 40, 80])
@pytest.mark.parametrize(
    "text",
    ["a sentence of some words that goes on for a while", "日本語 " * 20, "/a/path" * 20, "  led by two",
     "one part  another part  " * 5, ""],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_text_goes_on_below_and_nothing_of_it_is_lost(text: str, room: int) -> None:
    lines = output.wrapped(text, room, 2)
    assert max(map(output.width, lines)) <= room
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(line.startswith("  ") for line in lines[1:]) or text.startswith("/a/path")
    assert output.wrapped(text, None, 2) == [text]
    pieces = output.folded(text, room)
    assert "".join(pieces) == text and max(map(output.width, pieces)) <= room


def test_a_text_is_broken_between_its_parts_first() -> None:
    assert output.wrapped("one  two of it  three", 14, 2) == ["one  two of it", "  three"]
    assert output.wrapped("one  two of it  three", 12, 2) == ["one", "  two of it", "  three"]


def test_columns_stay_aligned_beside_wide_characters() -> None:
    lines = output.laid_out(["name", "n"], [["日本", "1"], ["ab", "22"]], None, ["name"])
    assert [output.width(line) for line in lines] == [8, 8, 8]


@pytest.mark.parametrize(
    "environment, coloured", [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    rows = [[output.coloured("dead", output.RED), "1"]]
    assert "\x1b" not in "".join(output.laid_out(["a", "b"], rows, 80))
    monkeypatch.setattr(output, "is_terminal", lambda file=None: True)
    shown = output.laid_out(["a", "b"], rows, 80)[1]
    assert ("\x1b[31mdead\x1b[0m" in shown) == coloured
    assert "\x1b" not in output.laid_out(["a", "b"], rows, 3)[1], "no escape is cut in two"


# ── progress ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "room, text",
    [
        (119, "verifying ███████████████░░░░░░░░░░░░░░░  50%  1.0 GiB  102.4 MiB/s  0:10 left"),
        (79, "verifying ███████████████░░░░░░░░░░░░░░░  50%  1.0 GiB  102.4 MiB/s  0:10 left"),
        (39, "verifying █████░░░░░  50%  0:10 left"),
        (20, "verifying   50%  1.…"),
    ],
)
def test_progress_fits_the_terminal(room: int, text: str) -> None:
    bar = progress.Progress("verifying", 2 << 30)
    bar.done = 1 << 30
    found = bar.text(10.0, room)
    assert output.width(found) <= room
    assert found.split() == text.split() or room == 39


def test_progress_without_a_total_says_how_many_and_how_fast() -> None:
    bar = progress.Progress("receiving", 0, "message")
    bar.done = 5000
    assert bar.text(2.0, 79) == "receiving  5,000 messages  2,500/s"


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3661, "1:01:01")])
def test_the_time_left_is_a_clock(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


# ── prompts ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "args",
    [["queue", "purge", "mail"], ["queue", "delete", "mail"], ["cancel", "mail", "1"]],
    ids=" ".join,
)
def test_without_a_terminal_nothing_is_destroyed_unless_it_is_said(
    run: Run, store: Path, filled: list[int], args: list[str]
) -> None:
    result = run(*args, input=b"y\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "nothing was done" in result.stderr and "--yes" in result.stderr
    assert result.stderr.count("\n") == 1
    with mq.open(store, read_only=True) as broker:
        assert broker.queue("mail").stats().ready == 3


def test_an_error_of_the_library_is_a_usage_error(run: Run, filled: list[int]) -> None:
    with pytest.raises(UsageError), mq.open("data") as broker:
        broker.queue("")
    assert run("stats", "x" * 300).exit_code == 2


# ── completion ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shell, said", [("bash", "complete"), ("zsh", "compdef"), ("fish", "complete")])
def test_a_shell_is_told_how_to_complete(run: Run, shell: str, said: str) -> None:
    text = run("completion", shell).stdout
    assert said in text and "_MQ_COMPLETE" in text


@pytest.mark.parametrize(
    "line, found",
    [
        ("mq que", ["queues", "queue"]),
        ("mq queue pau", ["pause"]),
        ("mq peek ma", ["mail"]),
        ("mq queue pause o", ["orders"]),
        ("mq --store data peek o", ["orders"]),
        ("mq -s nowhere peek o", []),
        ("mq publish mail x --pri", ["--priority"]),
    ],
)
def test_names_are_completed(store: Path, filled: list[int], line: str, found: list[str]) -> None:
    with mq.open(store) as broker:
        broker.queue("orders").publish("x")
    words = line.split()
    environment = {
        **os.environ, "_MQ_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert [each.partition(",")[2] for each in done.stdout.split()] == found


def test_json_is_one_object_a_line_everywhere(run: Run, filled: list[int]) -> None:
    for args in (
        ["queues"],
        ["stats"],
        ["stats", "mail"],
        ["peek", "mail"],
        ["inspect"],
        ["dump"],
        ["verify"],
    ):
        for line in run(*args, "--json").stdout.splitlines():
            assert isinstance(json.loads(line), dict)
