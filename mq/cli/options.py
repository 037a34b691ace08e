"""The options of queues and topics, for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

import mq
from mq.cli import output
from mq.delivery.options import Options

SECONDS: Final = frozenset(
    {
        "visibility_timeout",
        "ttl",
        "dedup_window",
        "delete_when_idle",
        "delete_when_abandoned",
        "delay",
        "retain_for",
    }
)


def shown_options(queue: str, options: mq.QueueOptions) -> Iterator[tuple[str, str]]:
    """The visibility timeout, and what is not as by default, for a person."""
    usual = {**msgspec.structs.asdict(Options()), "dead_letter": f"{queue}.dead"}
    for name, value in options.items():
        if name == "visibility_timeout" or value not in (usual[name], ""):
            yield name.replace("_", " "), shown_value(name, value)


def shown_value(name: str, value: object) -> str:
    if isinstance(value, mq.Backoff):
        initial, maximum = output.span(value.initial), output.span(value.maximum)
        return f"initial {initial}, factor {value.factor:g}, maximum {maximum}, jitter {value.jitter:g}"
    if isinstance(value, (int, float)):
        return output.span(value) if name in SECONDS else f"{value:,}"
    return output.escape(str(value))
