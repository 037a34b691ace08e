"""Settings: what the URL and `transport_options` say of a connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from mq.api.broker import Sync
from mq.contrib import stores
from mq.errors import UsageError

VISIBILITY_TIMEOUT: Final = 30.0  # seconds, of queues that are made here and say nothing else


class Settings(NamedTuple):
    """path                  the store's directory
    sync                  "always" (the default), seconds, "never": as of `mq.open`
    visibility_timeout    seconds (30) after which the tasks of a worker that died are delivered again
    max_attempts          None: for ever (the default); N: after so many failures to the dead letters
    priority_order        "high_first" (the default), as RabbitMQ; "low_first", as kombu with Redis
    eta                   "queue" (the default): a task with an ETA waits in the store; "worker": in a worker
    """

    path: str
    sync: Sync = "always"
    visibility_timeout: float | None = None
    max_attempts: int | None = None
    priority_order: Literal["high_first", "low_first"] = "high_first"
    eta: Literal["queue", "worker"] = "queue"


CHOICES: Final = {"priority_order": ("high_first", "low_first"), "eta": ("queue", "worker")}
NAMES: Final = frozenset(Settings._fields) - {"path"}


def settings(url: str, options: Mapping[str, Any]) -> Settings:
    """The URL counts, then *options*, which may hold others: of kombu itself, or of other transports.

    Raises UsageError.
    """
    path, asked = stores.parse(url)
    if unknown := asked.keys() - NAMES:
        raise UsageError(f"{url!r}: {min(unknown)} is no option, those are {', '.join(sorted(NAMES))}")
    given = {name: options[name] for name in NAMES & options.keys()} | dict(asked)
    return Settings(
        path, **{name: _checked(name, value) for name, value in given.items() if value is not None}
    )


def _checked(name: str, value: Any) -> Any:
    if name not in CHOICES:
        return stores.checked(name, value)
    if value not in CHOICES[name]:
        raise UsageError(f"{name} is one of {', '.join(CHOICES[name])}, not {value!r}")
    return value
