"""Writes docs/cli.md from the commands themselves; a test compares."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from mq.cli.root import ROWS, cli

PAGE = Path(__file__).parents[1] / "docs/cli.md"
HEAD = """\
# The command line

Written by `python scripts/cli_manual.py` from the commands themselves; `mq COMMAND --help` says the same.

- **The store** is `--store DIR` (`-s`), before or behind the command's name; else `$MQ_STORE`, else `./data`.
- **`python -m mq`** is the same as `mq`, where that is not on the PATH.
- **Output**: data goes to standard output, everything else to standard error. `--json` prints one JSON object
  a line. In a pipe, names and bodies are whole; on a terminal tables are cut to its width, control characters
  are shown as escapes, and what needs an eye has a colour, unless `NO_COLOR` is set.
- **Exit codes**: 0 ok, 1 error, 2 usage, 3 nothing there, 4 corruption found; 130 Ctrl-C, 143 SIGTERM,
  141 the reader of the output has gone.
- **What destroys** (`cancel`, `queue purge`, `queue delete`, `dead purge`) asks first on a terminal.
  Elsewhere it needs `--yes`, and without it does nothing.
- **Values**: durations are seconds, or have `ms`, `s`, `m`, `h`, `d` behind them (`90s`, `1.5h`); sizes are
  bytes, or have `K`, `M`, `G` behind them; times have a zone (`2030-01-31T06:30Z`,
  `2030-01-31T06:30+01:00`); a place is an id, a time, or how long ago (`10m`); `none` takes a limit back.
- **Looking changes nothing**: `peek`, `tail`, `queues`, `stats`, `top`, `dead`, `dead show`, `topics`,
  `topic history`, `subscriptions`, `schedules`, `inspect`, `dump`, `verify`, `doctor`, `export`, and `copy`
  to another store write no byte. They work beside processes that write, on a read-only file system, and
  without write permission.
- **Shells**: `mq completion bash|zsh|fish` prints what completes commands, options, files and names.
"""
WIDTH = 110
EVERYWHERE = {"store", "help"}  # options that the head tells of


def manual() -> str:
    return "\n".join([HEAD, *_pages()]).rstrip() + "\n"


def _pages() -> Iterator[str]:
    ctx = click.Context(cli, info_name="mq")
    for row in ROWS:
        if row.section:
            yield f"## {row.section}\n"
        for name in row.names.split():
            command = cli.get_command(ctx, name)
            assert command
            yield from _command(command, f"mq {name}")


def _command(command: click.Command, path: str) -> Iterator[str]:
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    usage = " ".join([path, *map(_argument, arguments)])
    yield f"### {path}\n"
    yield f"`{usage}`\n"
    yield from _help(inspect.cleandoc(command.help or ""))
    options = [each for each in command.params if isinstance(each, click.Option)]
    rows = [_option(each) for each in options if not each.hidden and each.name not in EVERYWHERE]
    if rows:
        yield "| option | |\n|---|---|"
        yield "\n".join(rows) + "\n"
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from _command(sub, f"{path} {name}")


def _argument(each: click.Argument) -> str:
    name = each.metavar or (each.name or "").upper()
    return name if each.required or name.startswith("[") else f"[{name}]"


def _help(text: str) -> Iterator[str]:
    for part in text.split("\n\n"):
        if part.startswith("\b"):
            yield "```sh\n" + "\n".join(part.splitlines()[1:]) + "\n```\n"
        else:
            yield textwrap.fill(" ".join(part.split()), WIDTH, break_on_hyphens=False) + "\n"


def _option(each: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in each.opts)
    if not each.is_flag:
        kind = each.metavar or (
            "\\|".join(map(str, each.type.choices)) if isinstance(each.type, click.Choice) else each.type.name
        )
        names += f" {kind}"
    text = re.sub(r"([*#|<>])", r"\\\1", each.help or "")
    return f"| {names} | {text} |"


if __name__ == "__main__":
    PAGE.write_text(manual())
