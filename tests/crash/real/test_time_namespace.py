"""A time namespace: its monotonic clock is another one than that of the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mq

from .conftest import skip

APART_SECONDS = 1000
OPEN = """
import sys, mq
try:
    broker = mq.open(sys.argv[1])
except mq.Unsupported as error:
    print("refused:", error)
else:
    print("held:", broker.queue("q").receive(timeout=0) is None)
    broker.close()
"""


def elsewhere(path: Path) -> str:
    """What a process says that opens the store in a namespace of its own."""
    unshare = ["unshare", "--time", "--fork", "--monotonic", str(APART_SECONDS)]
    command = [*unshare, sys.executable, "-c", OPEN, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_process_in_another_time_namespace_is_refused(need, tmp_path):
    need("unshare")
    if subprocess.run(["unshare", "--time", "--fork", "true"], capture_output=True).returncode:
        skip("no time namespace can be made")
    with mq.open(tmp_path / "s") as broker:
        broker.queue("q", visibility_timeout=APART_SECONDS // 2).publish("held")
        broker.queue("q").receive(timeout=0)
        said = elsewhere(tmp_path / "s")
        assert said.startswith("refused:")
        assert "time namespace" in said
    assert elsewhere(tmp_path / "s") == "held: True\n"
    with mq.open(tmp_path / "s") as broker:
        assert len(broker.queue("q").peek(state="in_flight")) == 1
