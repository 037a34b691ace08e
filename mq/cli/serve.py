"""mq serve: a network face of the store, and the keys that clients need for it."""

from __future__ import annotations

import logging
import sys
from typing import Final

import click

from mq.cli import output, stdin
from mq.cli.app import USAGE, Failure, group, json_option, note, store_option
from mq.cli.params import DURATION, FILE
from mq.cli.watching import alert_options
from mq.serve.alerts import Rule
from mq.serve.credentials import add_key, change
from mq.serve.passwords import PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN, hash_password

INSTALL: Final = "mq serve needs libraries of its own: pip install 'mq[serve]'"
NAME_CHARS_MAX: Final = 64


@group(short_help="Serve the store over HTTP, as Amazon SQS does.", alone=True)
@store_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "-p", "--port", type=click.IntRange(0, 65535), default=9324, show_default=True, metavar="PORT",
    help="0: the system chooses one.",
)  # fmt: skip
@click.option(
    "--sync", type=DURATION, metavar="SECONDS",
    help="Sync to the disk so often, in place of before each answer.",
)  # fmt: skip
@click.option("--read-only", is_flag=True, help="Show, and change nothing.")
@click.option("--credentials", metavar="FILE", type=FILE, help="The access keys that clients sign with.")
@click.option("--tls-cert", metavar="FILE", type=FILE, help="Speak TLS, with this certificate (PEM).")
@click.option("--tls-key", metavar="FILE", type=FILE, help="The key of the certificate (PEM).")
@click.option(
    "--allow-host", "allow_hosts", multiple=True, metavar="NAME",
    help="A name by which browsers may ask for the server, beside localhost.  May be repeated.",
)  # fmt: skip
@alert_options
@click.option(
    "--grace", type=DURATION, default=5.0, show_default=True, metavar="SECONDS",
    help="How long requests may go on after a signal.",
)  # fmt: skip
@click.option(
    "--account", default="000000000000", show_default=True, metavar="ID", help="The account in URLs and ARNs."
)
@click.option(
    "--purge-seconds", type=DURATION, default=0.0, show_default=True, metavar="SECONDS",
    help="SQS refuses a second purge within 60 s.",
)  # fmt: skip
@click.pass_context
def serve(
    ctx: click.Context, store: str, host: str, port: int, sync: float | None, read_only: bool,
    credentials: str | None, tls_cert: str | None, tls_key: str | None, allow_hosts: tuple[str, ...],
    alerts: tuple[Rule, ...], alert_webhook: str | None, grace: float, account: str, purge_seconds: float,
) -> None:  # fmt: skip
    """Serve the store to clients of Amazon SQS, until SIGTERM or Ctrl-C.

    Other processes may use the store directly meanwhile.  Any other address than that of this computer alone
    needs --credentials.

    \b
    mq serve                                         http://127.0.0.1:9324
    mq serve keys add --credentials keys.json        an access key, a secret
    mq serve --host 0.0.0.0 --credentials keys.json  for other computers
    """
    if ctx.invoked_subcommand is not None:
        return
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    try:
        from mq.serve.server import run
        from mq.serve.settings import Settings
    except ModuleNotFoundError:
        raise Failure(INSTALL) from None

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    run(
        Settings(
            store=store, host=host, port=port, sync="always" if sync is None else sync, read_only=read_only,
            credentials=credentials, tls_cert=tls_cert, tls_key=tls_key, grace=grace, account=account,
            purge_seconds=purge_seconds, allow_hosts=allow_hosts, alerts=alerts, alert_webhook=alert_webhook,
        ),
        _ready,
    )  # fmt: skip


def _ready(url: str) -> None:
    output.line(url)
    output.flush()
    note("SQS is served there; Ctrl-C ends it")


@serve.group(short_help="The access keys of clients.")
def keys() -> None:
    """The access keys with which clients sign what they ask for.

    \b
    mq serve keys add --credentials keys.json
    """


@keys.command(short_help="Make an access key.")
@click.option("--credentials", metavar="FILE", type=FILE, required=True, help="The file; made if need be.")
@json_option
def add(credentials: str, as_json: bool) -> None:
    """Make an access key, add it to FILE, and print it with its secret.

    A server that runs with the file takes the key within a second.

    \b
    mq serve keys add --credentials keys.json
    """
    name, secret = add_key(credentials)
    if as_json:
        output.json_line({"access_key_id": name, "secret_access_key": secret})
        return
    output.line(f"export AWS_ACCESS_KEY_ID={name}")
    output.line(f"export AWS_SECRET_ACCESS_KEY={secret}")


@serve.group(short_help="The users of the dashboard.")
def users() -> None:
    """The users who may log in to the dashboard, and whose passwords /metrics takes.

    \b
    mq serve users add ada --credentials keys.json
    """


@users.command("add", short_help="Add a user, or change the password of one.")
@click.argument("name")
@click.option("--credentials", metavar="FILE", type=FILE, required=True, help="The file; made if need be.")
def add_user(name: str, credentials: str) -> None:
    """Ask for a password, and add the user NAME to FILE, or change the password of that user.

    Without a terminal the password is the first line of standard input.

    \b
    mq serve users add ada --credentials keys.json
    """
    password = _password()
    if not name.isprintable() or not 0 < len(name) <= NAME_CHARS_MAX or ":" in name:
        raise click.UsageError(f"a user has a name of up to {NAME_CHARS_MAX} characters, without a colon")
    if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX:
        raise click.UsageError(f"a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters")
    hashed = hash_password(password)
    change(credentials, lambda content: content.users.update({name: hashed}))
    note(f"{name} may log in; a server that runs with {credentials} knows that within a second")


def _password() -> str:
    if output.is_terminal(sys.stdin):
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    if sys.stdin is None:
        raise Failure("standard input is closed; its first line is the password", USAGE)
    try:
        return stdin.stream().readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failure("a password is UTF-8 text", USAGE) from None
