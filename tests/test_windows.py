"""Where the system has no flock and no pread: `import mq` works, and opening says what is missing.

A process of its own plays such a system.
"""

from __future__ import annotations

import subprocess
import sys

PRELUDE = """
import os, sys
sys.modules["fcntl"] = None
for name in ("pread", "pwrite", "fork", "register_at_fork", "mkfifo", "posix_fallocate", "fdatasync"):
    if hasattr(os, name):
        delattr(os, name)
import mq
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, check=False, timeout=300
    )


def test_opening_says_in_one_line_what_is_missing(tmp_path):
    path = tmp_path / "data"
    done = run(f"""
try:
    mq.open({str(path)!r})
except mq.Unsupported as error:
    print(error)
""")
    assert done.stderr == ""
    assert "needs flock and pread" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert not path.exists()


def test_the_command_line_says_so_too(tmp_path):
    done = run(f"""
from mq.cli import main
sys.argv = ["mq", "--store", {str(tmp_path / "data")!r}, "publish", "mail", "one"]
main()
""")
    assert done.returncode == 1
    assert done.stderr.startswith("mq: mq needs flock")
    assert len(done.stderr.splitlines()) == 1


def test_a_store_in_memory_works():
    done = run("""
with mq.open(":memory:") as broker:
    broker.queue("mail").publish("one")
    with broker.queue("mail").receive() as message:
        print(message.body)
""")
    assert (done.stdout, done.stderr) == ("one\n", "")
