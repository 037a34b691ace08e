"""mq completion: what a shell needs to complete commands, options, and the names of queues."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from mq.cli import output
from mq.cli.app import command

COMPLETE_VARIABLE = "_MQ_COMPLETE"  # as click calls it, for a command `mq`


@command(short_help="Print what a shell needs to complete commands and names.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script with which SHELL completes commands, options and the names of queues.

    \b
    mq completion bash > ~/.local/share/bash-completion/completions/mq
    mq completion zsh > "${fpath[1]}/_mq"
    mq completion fish > ~/.config/fish/completions/mq.fish
    """
    found = get_completion_class(shell)
    assert found
    output.line(found(ctx.find_root().command, {}, "mq", COMPLETE_VARIABLE).source().strip())
