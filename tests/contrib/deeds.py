"""What tasks of the tests do, whichever library runs them."""

from __future__ import annotations

import os
import signal
import time


def note(name: str, text: str) -> None:
    """Add a line to a file: one write, so that lines of processes do not mix."""
    with open(name, "a") as file:
        file.write(text + "\n")


def held(log: str, gate: str) -> int:
    """Runs until the file *gate* is there."""
    note(log, f"begun {os.getpid()}")
    while not os.path.exists(gate):
        time.sleep(0.01)
    note(log, "done")
    return 7


def deadly(log: str, gate: str) -> str:
    """Kills its worker, until the file *gate* is there."""
    note(log, "begun")
    if not os.path.exists(gate):
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"
