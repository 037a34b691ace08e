"""What the other tests here stand on: servers that are the pinned ones, and end when they have to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from companions import is_gone
from servers import Cluster
from servers.binary import NoServer, check
from servers.node import until

TESTS = Path(__file__).parents[1]
KEEPER = """
import sys, time
from pathlib import Path
from servers import Cluster
with Cluster(Path(sys.argv[1])) as cluster:
    print(*(node.pid for node in cluster), flush=True)
    time.sleep(3600)
"""


def test_no_server_outlives_a_process_that_was_killed(tmp_path: Path) -> None:
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER, tmp_path], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )  # fmt: skip
    with keeper:
        assert keeper.stdout
        pids = [int(word) for word in keeper.stdout.readline().split()]
        assert len(pids) == 3
        assert not any(map(is_gone, pids))
        keeper.send_signal(signal.SIGKILL)
    until(lambda: all(map(is_gone, pids)), "servers live on")


def test_a_server_ends_with_its_cluster_though_it_is_paused(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        cluster["n1"].pause()
        pid = cluster["n1"].pid
    assert is_gone(pid)


def test_a_server_comes_back_at_the_same_place(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        before = cluster.servers()
        cluster.kill_all()
        cluster.start_all()
        assert cluster.servers() == before
        assert cluster["n1"].healthy()


def test_another_program_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "nats-server"
    other.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(NoServer, match="not the server that is pinned"):
        check(other)
