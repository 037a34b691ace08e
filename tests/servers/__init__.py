"""NATS servers on this machine, for tests, the demo and the benchmark: one, or a cluster that is mistreated.

    with Cluster(directory, size=3, links=True) as cluster:      ready when it is entered
        mq.open(cluster.url("orders"))
        cluster.leader("orders").kill()                          SIGKILL; also pause, resume, stop, start
        cluster.isolate(cluster["n2"])                           a partition; `heal` ends it
        cluster.wait_ready()

Everything listens on loopback, and keeps its files in *directory*.  No server outlives the process that
started it: when that process ends, even by SIGKILL, the kernel kills its servers.
"""

from servers.binary import PINNED, find_server
from servers.cluster import Cluster
from servers.node import Node, NotReady

__all__ = ["PINNED", "Cluster", "Node", "NotReady", "find_server"]
