"""In real shells, on a terminal: names are completed, and Ctrl-Z gives the terminal back."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import COMMAND
from test_terminal import Terminal

import mq
from mq.cli import screen

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
SETUP = {"bash": ". ./script", "zsh": "autoload -U compinit; compinit -D; . ./script"}
NAMES = ["two words", "shop:eu", "a,b", "it's", "$audit"]
TYPED = {"tw": r"two\ words", "shop:": "shop:eu", "a": "a,b", "it": r"it\'s"}  # and how it ends then
QUOTED = {"'it": r"\''s'", '"it': "'s\"", '"$': '$audit"', "'$": "$audit'", r"\$": "$audit", "$": r"\$audit"}


@pytest.fixture
def shop(store: Path) -> Path:
    """Queues whose names a shell has to quote, and a command `mq` that is found."""
    with mq.open(store, sync="never") as broker:
        for name in NAMES:
            broker.queue(name).publish(name)
    path = store.parent / "bin"
    path.mkdir()
    (path / "mq").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    (path / "mq").chmod(0o755)
    return path


def begin(shell: str, path: Path) -> Terminal:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    places = f"{path}:{os.environ['PATH']}"
    terminal = Terminal(command=SHELLS[shell], PATH=places, PS1="> ", HOME=str(path), HISTFILE="")
    terminal.wait_for("> ")
    return terminal


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_names_as_it_quotes_them(shop: Path, shell: str) -> None:
    with open("script", "wb") as script:
        subprocess.run([shop / "mq", "completion", shell], stdout=script, check=True)
    terminal = begin(shell, shop)
    terminal.send(f"{SETUP[shell]}; echo re''ady\n")
    terminal.wait_for("ready")
    for typed, completed in (TYPED | (QUOTED if shell == "bash" else {})).items():
        terminal.send(f"mq peek {typed}\t")
        terminal.wait_for(completed)
        terminal.send(" --json\n")
        (name,) = (each for each in NAMES if each.startswith(typed.strip("\\'\"")))
        terminal.wait_for(f'"body":"{name}"')
        terminal.shown = ""
    terminal.send("exit\n")
    terminal.process.wait(60)
    assert "Traceback" not in terminal.shown
    terminal.close()


@pytest.mark.parametrize(
    "line", ["mq peek ", "mq -s nowhere peek ", "mq -s '' peek ", "mq -s bin/mq peek ", ""]
)
def test_a_completion_makes_no_store_and_says_nothing(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (tmp_path / "data").rename("elsewhere")
    before = sorted(tmp_path.rglob("*"))
    environment = os.environ | {"_MQ_COMPLETE": "bash_complete", "COMP_WORDS": line}
    done = subprocess.run(COMMAND, env=environment, capture_output=True, timeout=60)
    assert done.stderr == b"" and b"plain,shop" not in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_ctrl_z_gives_the_terminal_back_until_the_command_goes_on(shop: Path) -> None:
    terminal = begin("bash", shop)
    terminal.send("mq top --every 0.05\n")
    terminal.wait_for(screen.CLEAR_BELOW, 2)
    terminal.send("\x1a")
    terminal.wait_for("Stopped")
    stopped = terminal.shown
    assert screen.END in stopped.rpartition(screen.CLEAR_BELOW)[2]
    terminal.send("stty -a; echo do''ne\n")
    terminal.wait_for("done")
    assert " icanon" in terminal.shown[len(stopped) :]
    begun = terminal.shown.count(screen.BEGIN)
    terminal.send("fg\n")
    terminal.wait_for(screen.BEGIN, begun + 1)
    terminal.wait_for(screen.CLEAR_BELOW, terminal.shown.count(screen.CLEAR_BELOW) + 2)
    terminal.send("q")
    terminal.wait_for(screen.END, 2)
    terminal.send("exit\n")
    terminal.process.wait(60)
    terminal.close()
