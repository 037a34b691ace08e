"""mq completion: what a shell needs to complete commands, options, files, and the names of queues.

    mq peek shop:e▮     the shell runs `_MQ_COMPLETE=bash_complete COMP_WORDS='mq peek shop:e' mq`
                        which prints what may stand there, `plain,shop:eu`, and the shell takes it

A name may have spaces, colons and quotes in it, with which the script that click has for bash does not get
along; its script for fish cuts a name at a comma.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Final

import click
from click.shell_completion import (
    BashComplete,
    FishComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from mq.cli import output
from mq.cli.app import COMPLETE_VARIABLE, command

SECONDS_MAX: Final = 2  # then a shell is told of nothing: a store may take long to open, or not answer

BASH: Final = r"""
%(complete_func)s() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} word prefix response type value
    word=${line##*[[:space:]]}
    prefix=${word%%"${word##*[:=]}"}  # bash replaces what is behind it
    response=$(COMP_WORDS=$line %(complete_var)s=bash_complete "$1" 2>/dev/null)
    COMPREPLY=()
    while IFS=, read -r type value; do
        if [[ $type == file ]]; then
            compopt -o default
        elif [[ $type == plain ]]; then
            value=${value#"$prefix"}
            case ${COMP_WORDS[COMP_CWORD]} in
                \"*)
                    value=${value//\\/\\\\} value=${value//\"/\\\"}
                    value=${value//\$/\\\$} value=${value//\`/\\\`} ;;
                \'*) value=${value//\'/\'\\\'\'} ;;
                *) [[ $value != *[^[:alnum:]._/:@%%+,=-]* ]] || printf -v value %%q "$value" ;;
            esac
            COMPREPLY+=("$value")
        fi
    done <<< "$response"
}
complete -o nosort -F %(complete_func)s %(prog_name)s 2>/dev/null || # of bash 4.4
    complete -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    source_template = BASH

    def source(self) -> str:
        return self.source_template % self.source_vars()  # click's asks which bash is here

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        # A letter at the end tells whether the last word has begun, whatever quotes are open.
        *words, last = split_arg_string(f"{line}x")
        return words[1:], last[:-1]


class Fish(FishComplete):
    source_template = FishComplete.source_template.replace('split ","', 'split -m 1 ","')


SHELLS: Final = {"bash": Bash, "zsh": ZshComplete, "fish": Fish}


@command(short_help="Print what a shell needs to complete commands and names.")
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script with which SHELL completes commands, options, files and the names of queues.

    \b
    mq completion bash > ~/.local/share/bash-completion/completions/mq
    mq completion zsh > "${fpath[1]}/_mq"
    mq completion fish > ~/.config/fish/completions/mq.fish
    """
    output.line(SHELLS[shell](ctx.find_root().command, {}, "mq", COMPLETE_VARIABLE).source().strip())


def prepare() -> None:
    """Before a shell is answered: by these scripts, and soon."""
    os.environ.setdefault("COMP_WORDS", "")  # a user who tries it by hand
    os.environ.setdefault("COMP_CWORD", "0")
    for each in SHELLS.values():
        add_completion_class(each)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(SECONDS_MAX)


def _give_up(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)
