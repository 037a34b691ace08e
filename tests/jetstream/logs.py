"""The log of a store on NATS, which is looked into."""

from __future__ import annotations

from typing import Any

import mq
from mq.nats.log import StreamLog


def log_of(face: mq.Broker | mq.Queue[Any]) -> StreamLog:
    log: Any = face._store.replica.log
    return log  # type: ignore[no-any-return]
