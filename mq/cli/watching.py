"""--alert and --alert-webhook of mq serve: what is watched, and where it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mq.cli.params import Param
from mq.serve.alerts import EXAMPLE, Rule, check_webhook

F = TypeVar("F", bound=Callable[..., Any])


class _Alert(Param):
    name = "rule"
    example = EXAMPLE

    def read(self, text: str) -> Rule | None:
        return Rule.read(text)


class _Webhook(Param):
    name = "url"
    example = "an address that begins with https:// or http://"

    def read(self, text: str) -> str | None:
        return text if check_webhook(text) else None


def alert_options(function: F) -> F:
    function = click.option(
        "--alert-webhook",
        type=_Webhook(),
        metavar="URL",
        help="Post alerts there, as JSON, when they begin and end.",
    )(function)
    return click.option(
        "--alert", "alerts", type=_Alert(), multiple=True, metavar="RULE",
        help="Log, and show, when a rule is met, as 'orders depth>1000', '* age>5min' or '*.dead ready>0'."
        "  May be repeated.",
    )(function)  # fmt: skip
