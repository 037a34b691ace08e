"""What the library logs, as lines of a command: after `mq:`, on one line, with nothing that a terminal obeys.

`mq worker` and `mq serve` set up logs of their own, which come before this.
"""

from __future__ import annotations

import logging

from mq.cli.app import as_named, note


class Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(as_named(" ".join(record.getMessage().split())))


def show() -> None:
    """From now on, where nothing else takes what is logged."""
    logging.lastResort = Notes(logging.WARNING)
