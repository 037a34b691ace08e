"""A cluster of three servers, a publisher and two workers; the leading server is killed while they work.

flow.py     the processes that publish and work, and what they tell
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servers import Cluster

ROOT = Path(__file__).resolve().parents[2]
STORE = "demo"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster",
        description="Start a cluster of three NATS servers on this machine. One process publishes to a store"
        " on it, two others work; the leading server is killed with SIGKILL, and started again. In the end"
        " what was published is compared with what was done. The exit code is 1 if anything was lost.",
    )
    parser.add_argument("--messages", type=int, default=3000, metavar="N", help="publish N messages (3000)")
    parser.add_argument(
        "--kills", type=int, default=2, metavar="N", help="kill the leading server N times (2)"
    )
    parser.add_argument(
        "--serve", action="store_true",
        help="no demo: start the servers, print the address for mq.open and --store, run until Ctrl-C",
    )  # fmt: skip
    parser.add_argument("--keep", type=Path, metavar="DIR", help="the servers' files, in this new directory")
    options = parser.parse_args()
    if options.messages < 1 or options.kills < 0:
        parser.error("--messages is at least 1, and --kills at least 0")
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} exists; name a new directory")
    return options


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left behind either way
    sys.path.insert(0, str(ROOT / "tests"))  # the servers are those of the tests
    from servers import Cluster
    from servers.binary import NoServer

    with tempfile.TemporaryDirectory(prefix="mq-cluster-") as scratch:
        directory = options.keep or Path(scratch)
        try:
            with Cluster(directory) as cluster:
                print(f"three servers, {', '.join(cluster.nodes)}; their files are in {directory}")
                print(f"the store is {cluster.url(STORE)}\n", flush=True)
                return serve() if options.serve else demo(cluster, options)
        except NoServer as error:
            print(f"scripts/cluster: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nthe servers are stopped", file=sys.stderr)
            return 130


def serve() -> int:
    print("Ctrl-C stops the servers", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("\nthe servers are stopped")
    return 0


def demo(cluster: Cluster, options: argparse.Namespace) -> int:
    from flow import Flow

    with Flow(cluster.url(STORE), options.messages) as flow:
        for kill in range(1, options.kills + 1):
            flow.until(options.messages * kill // (options.kills + 1))
            leader = cluster.leader(f"mq_{STORE}")
            leader.kill()
            flow.say(f"{leader.name} leads, and is killed (SIGKILL)")
            flow.until_more()
            flow.say(f"{cluster.leader(f'mq_{STORE}').name} leads now, and the messages flow")
            leader.start()
            cluster.wait_ready()
            flow.say(f"{leader.name} is started again, and has caught up")
        return flow.end()


if __name__ == "__main__":
    raise SystemExit(main())
