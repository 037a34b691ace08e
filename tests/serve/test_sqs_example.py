"""What the README and docs/serve.md show of boto3, run as a stranger would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from served import Served

import mq

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/serve.md"])
def test_the_example_for_boto3_runs(page: str, served: Served, store: mq.Broker) -> None:
    pytest.importorskip("boto3", reason="boto3 is not installed")
    [example] = re.findall(r"^```py\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    code = example.replace("http://127.0.0.1:9324", served.url)
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    before = store.queue("orders").stats().acked
    done = subprocess.run(
        [sys.executable, "-c", code], env=stranger, capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert store.queue("orders").stats().acked == before + 1


def test_the_demo_kills_the_server_and_loses_nothing() -> None:
    pytest.importorskip("boto3", reason="boto3 is not installed")
    command = [sys.executable, str(ROOT / "scripts/serve_demo.py"), "--messages", "60", "--kills", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 invented, 0 twice" in done.stdout
