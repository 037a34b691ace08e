"""ConnectionSettings: what the URL and `transport_options` say of a connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, Self

from mq.contrib.settings import Settings, parse

VISIBILITY_TIMEOUT: Final = 30.0  # seconds, of queues that are made here and say nothing else


class ConnectionSettings(Settings, frozen=True):
    """priority_order        "high_first" (the default), as RabbitMQ; "low_first", as kombu with Redis
    eta                   "queue" (the default): a task with an ETA waits in the store; "worker": in a worker
    """

    priority_order: Literal["high_first", "low_first"] = "high_first"
    eta: Literal["queue", "worker"] = "queue"

    EXPECTED: ClassVar[Mapping[str, str]] = {
        **Settings.EXPECTED,
        "priority_order": "one of high_first, low_first",
        "eta": "one of queue, worker",
    }

    @classmethod
    def of_url(cls, url: str, options: Mapping[str, Any]) -> Self:
        """The URL counts, then *options*, which may hold others: of kombu itself, or of other transports.

        Raises UsageError.
        """
        parse(url)  # kombu's own URLs may have no scheme, and name no directory then
        return cls.of(url, **{name: options[name] for name in cls.EXPECTED.keys() & options.keys()})
