"""The group of all commands.  The file of a command is imported when that command is used.

A word that is no command, and that other tools have, is answered with what to type here.
"""

from __future__ import annotations

import gc
import importlib
import keyword
import os
from typing import Any, Final, NamedTuple

import click

from mq.cli import logs, output, progress
from mq.cli.app import COMPLETE_VARIABLE, DEFAULT_STORE, Group, print_and_exit, reported
from mq.cli.params import FILE
from mq.engine import loading


class Row(NamedTuple):
    """A line of `mq --help`: commands that do alike, and what they do."""

    section: str
    names: str
    text: str
    module: str = ""  # in which they are, if it is not called as the command


ROWS: Final = (
    Row("Messages", "publish receive", "store messages; take, print, ack"),
    Row("", "peek tail", "look at what waits, what comes"),
    Row("", "ack nack release reject extend", "settle by receipts", "receipts"),
    Row("", "cancel reschedule", "drop, or put off, what waits", "waiting"),
    Row("Queues", "queues stats top", "all; one, or the store; live"),
    Row("", "queue", "create set pause resume purge …"),
    Row("", "dead", "dead letters: show replay purge"),
    Row("Topics", "topics topic", "list; publish set history", "topics"),
    Row("", "subscriptions", "which queues get which topics"),
    Row("", "subscribe unsubscribe", "add a pattern to a queue; take it", "subscriptions"),
    Row("Schedules", "schedules schedule unschedule", "publish again and again", "schedules"),
    Row("Store", "inspect dump", "the log by segments; by records"),
    Row("", "verify repair compact", "find damage; mend it; reclaim space"),
    Row("", "backup clone restore", "copy it while it is used", "backup"),
    Row("", "doctor bench", "what is wrong; how fast is this disk"),
    Row("", "export import", "queues as lines of JSON; and back", "export"),
    Row("", "copy move", "to another queue, or another store", "move"),
    Row("Programs", "worker serve completion", "consumers; HTTP and SQS; a shell"),
)
MODULES: Final = {name: row.module or name for row in ROWS for name in row.names.split()}
ELSEWHERE: Final = {  # what other tools call it
    "list": "mq queues", "ls": "mq queues", "status": "mq queues", "info": "mq inspect",
    "send": "mq publish", "put": "mq publish", "push": "mq publish", "enqueue": "mq publish",
    "get": "mq receive -n 1", "pop": "mq receive -n 1", "dequeue": "mq receive -n 1",
    "consume": "mq receive --follow", "watch": "mq tail", "follow": "mq tail",
    "check": "mq verify", "fsck": "mq verify", "log": "mq dump", "vacuum": "mq compact",
    "replay": "mq dead replay", "redrive": "mq dead replay", "dlq": "mq dead", "failed": "mq dead",
    "create": "mq queue create", "declare": "mq queue create", "set": "mq queue set",
    "pause": "mq queue pause", "resume": "mq queue resume", "unpause": "mq queue resume",
    "rename": "mq queue rename", "transfer": "mq move", "shovel": "mq move", "migrate": "mq copy",
    "save": "mq export", "load": "mq import",
}  # fmt: skip
# These are answered with a help: no line that destroys is there to be copied.
DESTROYING: Final = frozenset({
    "purge", "delete", "rm", "remove", "drop", "clear", "empty", "flush", "truncate", "destroy"
})  # fmt: skip
NAMES_COLUMNS: Final = 30
STREAM_FD_MAX: Final = 2  # 0, 1 and 2 are standard input, output and error


class Root(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.commands and name in MODULES:
            module = importlib.import_module(f"mq.cli.{MODULES[name]}")
            self.add_command(getattr(module, f"{name}_" if keyword.iskeyword(name) else name), name)
        return super().get_command(ctx, name)

    def unknown(self, ctx: click.Context, args: list[str]) -> str:
        name, *rest = args
        if name in DESTROYING:
            helps = "`mq queue --help` and `mq dead --help` say what empties and deletes queues"
            return f"there is no command `mq {name}`: {helps}"
        if name not in ELSEWHERE:
            return super().unknown(ctx, args)
        import shlex  # not before it is needed: each command starts anew

        meant = " ".join([ELSEWHERE[name], *(output.excerpt(shlex.quote(each), 40) for each in rest)])
        return f"there is no command `mq {name}`: type `{meant}`"

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\n")
        for row in ROWS:
            formatter.write(f"{row.section:9}  {row.names:{NAMES_COLUMNS}}  {row.text}\n")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with reported(ctx):  # --help, --version
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with reported(ctx):
            return super().invoke(ctx)


def _show_version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked:
        import mq

        print_and_exit(ctx, f"mq {mq.__version__}")


@click.group(cls=Root, alone=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-s", "--store", metavar="DIR", type=FILE, envvar="MQ_STORE", default=DEFAULT_STORE,
    help="The store.  [default: $MQ_STORE, or ./data]",
)  # fmt: skip
@click.option(
    "-V", "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
    help="Show the version and exit.",
)  # fmt: skip
@click.pass_context
def cli(ctx: click.Context, store: str) -> None:
    """A durable message queue in a directory.  `mq COMMAND --help` has examples.

    \b
    mq publish mail '{"to": "ada@example.org"}'    store a message
    mq receive mail                                take all that are ready
    mq queues                                      list the queues

    Exit codes: 0 ok, 1 error, 2 usage, 3 nothing there, 4 corruption found.
    """
    ctx.obj = store
    if ctx.invoked_subcommand is None:
        print_and_exit(ctx, ctx.get_help())


def _hold_standard_streams() -> None:
    """What is closed of them (`>&-`) is /dev/null from now on, so that no file or socket gets its number.

    Else what a library writes there by number would go into that; and uvloop aborts the process.
    Python has looked already: its `sys.stdout` stays None, by which the commands know.
    """
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= STREAM_FD_MAX:
        os.set_inheritable(fd, True)
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)


def main() -> None:
    """The console script."""
    _hold_standard_streams()
    if COMPLETE_VARIABLE in os.environ:
        from mq.cli import completion

        completion.prepare()
    else:
        loading.watch = progress.opening
        logs.show()
    gc.freeze()  # what is loaded stays: it is not searched for garbage, which also the exit did
    gc.enable()
    cli(prog_name="mq")
