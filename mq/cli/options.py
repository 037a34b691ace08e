"""The options of queues and topics, for a person."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

import mq
from mq.delivery.options import Options
from mq.values import option as shown_value

__all__ = ["shown_options", "shown_value"]


def shown_options(queue: str, options: mq.QueueOptions) -> Iterator[tuple[str, str]]:
    """The visibility timeout, and what is not as by default, for a person."""
    usual = {**msgspec.structs.asdict(Options()), "dead_letter": f"{queue}.dead"}
    for name, value in options.items():
        if name == "visibility_timeout" or value not in (usual[name], ""):
            yield name.replace("_", " "), shown_value(name, value)
