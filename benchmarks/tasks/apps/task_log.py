"""The log in which tasks say that they run: a line is one write, so that lines of processes do not mix."""

import os
import time

_log = open(os.environ["TASKS_LOG"], "a", buffering=1)  # noqa: SIM115  as long as the process


def ran() -> None:
    _log.write(f"{time.time()}\n")


def ran_late(sent: float) -> None:
    _log.write(f"{(time.time() - sent) * 1000}\n")
