"""What all commands share: which store they use, and how errors reach the user.

    0    ok
    1    an error
    2    the command line, or a value in it, cannot be right
    3    nothing there to receive or to peek at
    4    the store is corrupt
    130  Ctrl-C;  143  SIGTERM;  141  the reader of the output has gone

No command prints a traceback: an error is one line on standard error that says what to do.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import click

from mq.cli import output, progress
from mq.cli.params import FILE
from mq.engine.names import is_elsewhere
from mq.errors import CorruptStore, MqError, StorageError, Unsupported, UsageError
from mq.storage import paths
from mq.storage.explain import explain, storage_error
from mq.storage.real_disk import RealDisk

ERROR: Final = 1
USAGE: Final = 2
EMPTY: Final = 3
CORRUPT: Final = 4
SIGNALLED: Final = 128  # and the number of the signal
INTERRUPTED: Final = 130
UNREAD: Final = 141

DEFAULT_STORE: Final = "data"
COMPLETE_VARIABLE: Final = "_MQ_COMPLETE"  # with which a shell asks, as click calls it for a command `mq`
NO_STORE: Final = "there is no store here; check --store, or publish something first"
DESTRUCTIVE: Final = frozenset({"delete", "purge", "repair", "cancel", "reject", "unschedule", "unsubscribe"})
DESTRUCTIVE_OPTIONS: Final = frozenset({"--yes", "--all", "--in-flight"})

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """One line on standard error, and an exit code."""

    def __init__(self, message: str, code: int = ERROR) -> None:
        super().__init__(" ".join(message.splitlines()))
        self.code = code

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return self.code

    def show(self, file: Any = None) -> None:
        note(as_named(self.format_message()))


@contextmanager
def reported(ctx: click.Context) -> Iterator[None]:
    """Turns every error into its line and its code."""
    try:
        yield
        output.flush()
    except KeyboardInterrupt as stop:
        output.drop()
        ctx.exit(SIGNALLED + stop.args[0] if stop.args else INTERRUPTED)
    except BrokenPipeError:
        output.drop()
        ctx.exit(UNREAD)
    except CorruptStore as error:
        raise Failure(str(error), CORRUPT) from None
    except UsageError as error:
        raise Failure(str(error), USAGE) from None
    except click.UsageError as error:
        raise _usage(error) from None
    except MqError as error:
        raise Failure(str(error)) from None
    except output.OutputFailed as error:
        output.drop()
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(str(storage_error(ctx.obj, error))) from None
    except MemoryError:
        raise Failure("out of memory; use smaller messages, or ask for fewer at once (-n)") from None


def _usage(error: click.UsageError) -> Failure:
    """What is wrong with the command line, in one line.  What destroys is never suggested."""
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        near = [name for name in error.possibilities if name not in DESTRUCTIVE_OPTIONS]
        error.possibilities[:] = near
    said = error.format_message().rstrip(".")
    said = said[:1].lower() + said[1:]
    path = error.ctx.command_path if error.ctx else "mq"
    return Failure(f"{said}{'' if said.endswith('?') else ';'} `{path} --help` says how", USAGE)


class Command(click.Command):
    """Prints its help like all output: if standard output fails, the command reports that error."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option:
            option.callback = _show_help
        return option


class Group(Command, click.Group):
    """Commands about one noun.  *alone*: its function runs also without one of them; else help is shown."""

    command_class = Command
    group_class = type  # of a group in it: this one, too

    def __init__(self, *args: Any, alone: bool = False, **options: Any) -> None:
        super().__init__(*args, **(options | {"invoke_without_command": alone, "no_args_is_help": False}))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not self.invoke_without_command:
            print_and_exit(ctx, ctx.get_help())
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which one meets them

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:  # fmt: skip
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            raise Failure(self.unknown(ctx, args), USAGE)
        return super().resolve_command(ctx, args)

    def unknown(self, ctx: click.Context, args: list[str]) -> str:
        """What to say of a command that there is not, and what followed it."""
        from difflib import get_close_matches  # not before it is needed: each command starts anew

        name, path = args[0], ctx.command_path
        near = get_close_matches(name, [each for each in self.list_commands(ctx) if each not in DESTRUCTIVE])
        meant = f"; did you mean `{path} {near[0]}`?" if near else f"; `{path} --help` lists those there are"
        return f"there is no command `{path} {output.excerpt(name, 40)}`{meant}"


def command(short_help: str) -> Callable[[Callable[..., Any]], Command]:
    """A decorator that makes a function a command."""
    return click.command(cls=Command, short_help=short_help)


def group(short_help: str, *, alone: bool = False) -> Callable[[Callable[..., Any]], Group]:
    """A decorator that makes a function a group of commands."""
    return click.group(cls=Group, short_help=short_help, alone=alone)


def _show_help(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked:
        print_and_exit(ctx, ctx.get_help())


def print_and_exit(ctx: click.Context, text: str) -> None:
    if not ctx.resilient_parsing:
        output.line(text)
        output.flush()
        ctx.exit()


def store_option(command: F) -> F:
    """--store behind the command's name, where it overrides the one before."""

    def choose(ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
        if ctx.resilient_parsing:
            return value or ""
        if value is not None:
            ctx.find_root().obj = value
        store = str(ctx.find_root().obj)
        if not store:
            raise click.UsageError("--store is empty: name a directory", ctx)
        if not is_elsewhere(store):
            paths.absolute(store)  # an error, if the working directory is gone
            store = ctx.find_root().obj = paths.tidy(store)
        return store

    return click.option(
        "-s", "--store", metavar="DIR", type=FILE, callback=choose,
        help="The store's directory, or its address nats://host/name.  [default: $MQ_STORE, or ./data]",
    )(command)  # fmt: skip


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do it without asking.")


def confirm(what: str, yes: bool) -> None:
    """Ask whether to do *what*, which destroys something, unless the caller said *yes*."""
    if yes:
        return
    if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr)):
        raise Failure(f"nothing was done: to {what} without a terminal to ask on, add --yes", USAGE)
    from mq.cli import stdin  # not before it is needed: each command starts anew

    sys.stderr.write(output.escape(f"{what}? [y/N] "))
    sys.stderr.flush()
    try:
        answer = stdin.stream().readline().decode(errors="replace")
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        raise
    if answer.strip().lower() not in ("y", "yes"):
        if not answer:  # Ctrl-D
            sys.stderr.write("\n")
        raise Failure("nothing was done")


def require_store(path: str) -> None:
    """For commands that take from a store, and do not make one."""
    if is_elsewhere(path):
        from mq.nats import store as there  # its library is an extra

        there.require_store(path)
        return
    _require_usable(path)
    if not (_is_there(paths.format_file(path)) or _has_segments(path)):  # without FORMAT, the opening says so
        raise StorageError(path, NO_STORE)


def require_directory(path: str) -> None:
    """For commands that work without FORMAT, and need at least the log."""
    require_files(path)
    _require_usable(path)
    if not any(map(_is_there, (paths.format_file(path), paths.log(path)))):
        raise StorageError(path, NO_STORE)


def require_files(path: str) -> None:
    """For commands that are about files."""
    if is_elsewhere(path):
        raise Unsupported(f"{shown(path)}: this command is about files, and this store has none")


def is_made(path: str) -> bool:
    """Whether a store is there."""
    if is_elsewhere(path):
        from mq.nats import store as there  # its library is an extra

        return there.is_made(path)
    return os.path.exists(paths.format_file(path))


def shown(path: str) -> str:
    """A directory, or an address without what is secret in it."""
    scheme, colon, rest = path.partition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2].partition('?')[0]}" if is_elsewhere(path) else path


def _require_usable(path: str) -> None:
    """The error of the directory itself, if there is one."""
    disk = RealDisk()
    with explain(path):
        if disk.exists(path):
            disk.names(path)


def _is_there(path: str) -> bool:
    """StorageError if the system does not say."""
    with explain(path):
        return RealDisk().exists(path)


def _has_segments(path: str) -> bool:
    log = paths.log(path)
    with explain(path):
        return os.path.isdir(log) and bool(paths.segment_bases(RealDisk().names(log)))


def disk_at(ctx: click.Context, store: str) -> RealDisk:
    """A disk on which *store* stays the same directory, even if another one gets its name meanwhile."""
    require_directory(store)
    disk = RealDisk()
    if os.path.isdir(store):
        ctx.call_on_close(partial(disk.close, disk.anchor(store)))
    return disk


def note(message: str) -> None:
    """Print one line on standard error, without anything that a terminal might obey."""
    progress.clear()
    with suppress(OSError):  # there is no other place to say so
        click.echo(f"mq: {output.escape(output.plain(message))}", err=True)


def as_named(message: str) -> str:
    """*message*, with paths below the working directory made relative to it."""
    try:
        here = os.getcwd()
    except OSError:  # it is gone
        return message
    if here == "/":
        return message
    return re.sub(rf"(?<![^\s'\"(]){re.escape(here)}/", "", message)  # not inside of another path
