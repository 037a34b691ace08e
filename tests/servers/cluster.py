"""Several servers that are one cluster, and what may happen to them.

n1 ◄─link─► n2         every server is told of every other one; with links=True their routes and their
 ▲           ▲         clients go through proxies, which can hold or cut what passes
 └─link─► n3 ┘link
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from servers.binary import find_server
from servers.links import Link, Links
from servers.node import Node, until
from servers.ports import Ports

ASK_SECONDS = 60.0
ACCOUNTS = """
accounts {
  $SYS { users: [ { user: admin, password: admin } ] }
  mq { jetstream: enabled, users: [ { user: mq, password: mq } ] }
}
no_auth_user: mq
"""


class Cluster:
    """*sync*: what the servers do before they answer, "always" or an interval such as "2m".

    *max_store*: bytes of the files of one server.  *links*: whether routes and clients lead through proxies.
    *config*: more lines for each server's configuration file.  *accounts*: those which say who may come in.
    """

    def __init__(
        self, directory: Path, size: int = 3, *, sync: str = "always", max_store: str = "1GB",
        links: bool = False, config: str = "", accounts: str = ACCOUNTS,
    ) -> None:  # fmt: skip
        self._accounts = accounts
        self._directory, self._sync, self._max_store, self._config = directory, sync, max_store, config
        self._clustered = size > 1
        self._ports = Ports()
        self._links = Links() if links else None
        self._routes: dict[tuple[str, str], Link] = {}
        self._doors: dict[str, Link] = {}
        self._route_ports: dict[str, int] = {}
        self._nowhere = self._ports.take()
        self.nodes: dict[str, Node] = {}
        self._first = size

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.close)
            for _ in range(self._first):
                self._make()
            for node in self:
                node.configure(self._text(node))
                node.start()
            self.wait_ready()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def close(self) -> None:
        for node in self:
            node.kill()
        if self._links:
            self._links.close()
        self._ports.close()

    def add(self) -> Node:
        """One more server, which joins those that are there."""
        node = self._make()
        node.configure(self._text(node))
        node.start()
        return node

    def _make(self) -> Node:
        name = f"n{len(self.nodes) + 1}"
        node = Node(find_server(), name, self._directory / name, self._ports.take(), self._ports.take())
        self._route_ports[name] = self._ports.take()
        if self._links:
            self._doors[name] = self._links.open(node.port)
        self.nodes[name] = node
        return node

    def _text(self, node: Node) -> str:
        jetstream = (
            f"jetstream {{ store_dir: {_quoted(node.directory / 'data')}, max_file_store: {self._max_store},"
            f" sync_interval: {self._sync} }}\n"
        )
        if not self._clustered:
            return jetstream + self._accounts + self._config
        others = [other for other in self.nodes if other != node.name]
        routes = ", ".join(_quoted(f"nats://127.0.0.1:{self._route(node.name, other)}") for other in others)
        # Servers tell each other, and clients, where the others are.  What they tell leads nowhere: every
        # connection is one that this file names, so that a cut link is not gone around.
        cluster = (
            f"cluster {{ name: mq, listen: 127.0.0.1:{self._route_ports[node.name]}, routes: [{routes}],"
            f' no_advertise: true, advertise: "127.0.0.1:{self._nowhere}" }}\n'
        )
        return jetstream + ACCOUNTS + cluster + self._config

    def _route(self, name: str, other: str) -> int:
        """The port at which *name* reaches *other*."""
        if not self._links:
            return self._route_ports[other]
        if (name, other) not in self._routes:
            self._routes[name, other] = self._links.open(self._route_ports[other])
        return self._routes[name, other].port

    def url(self, store: str, *names: str) -> str:
        """For mq.open, of all its servers or of those named."""
        hosts = ",".join(f"127.0.0.1:{self._door(name)}" for name in names or self.nodes)
        return f"nats://{hosts}/{store}"

    def servers(self, *names: str) -> list[str]:
        """For nats-py."""
        return [f"nats://127.0.0.1:{self._door(name)}" for name in names or self.nodes]

    def _door(self, name: str) -> int:
        return self._doors[name].port if self._links else self.nodes[name].port

    # What is asked

    def wait_ready(self) -> None:
        """Until each server that runs answers, knows the leader, and has caught up."""
        running = [node for node in self if node.running]
        for node in running:
            until(node.healthy, f"{node.name} is not ready")
        if self._clustered and len(running) * 2 > len(self.nodes):
            until(lambda: max(map(_peers, running)) >= len(running), "not all have met")

    def leader(self, stream: str) -> Node:
        """The server that takes what is published to the stream, once there is one."""
        found: list[Node] = []

        def look() -> bool:
            for node in self:
                detail = node.streams().get(stream) if node.running else None
                if detail and (not self._clustered or detail["cluster"].get("leader") == node.name):
                    found.append(node)
                    return True
            return False

        until(look, f"the stream {stream} has no leader")
        return found[0]

    def followers(self, stream: str) -> list[Node]:
        """The others that hold it, and run."""
        leader = self.leader(stream)
        return [node for node in self if node is not leader and node.running and stream in node.streams()]

    def holders(self, stream: str) -> set[str]:
        """The names of the servers on which the stream is, complete, as its leader says."""
        detail = self.leader(stream).streams().get(stream, {}).get("cluster", {})
        others = detail.get("replicas") or []
        return {detail.get("leader", ""), *(peer["name"] for peer in others if peer["current"])}

    def ask(self, what: str, body: object, *, admin: bool = False) -> dict[str, Any]:
        """The answer of JetStream's API; AssertionError if it is an error."""
        return self.publish(f"$JS.API.{what}", json.dumps(body).encode(), admin=admin)

    def publish(self, subject: str, data: bytes, *, admin: bool = False) -> dict[str, Any]:
        """The answer, as nats-py alone gets it; AssertionError if it is an error."""
        answer = asyncio.run(_ask(self.servers(), subject, data, admin))
        assert "error" not in answer, answer
        return answer

    # What happens to them

    def kill_all(self) -> None:
        for node in self:
            node.kill()

    def start_all(self) -> None:
        for node in self:
            if not node.running:
                node.start()
        self.wait_ready()

    def roll(self) -> Iterator[Node]:
        """Restart one after the other, each one once those before it are back; what was just restarted."""
        for node in list(self):
            node.stop()
            node.start()
            self.wait_ready()
            yield node

    def forget(self, node: Node) -> None:
        """The others count it no longer: it has left for good."""
        self.ask("SERVER.REMOVE", {"peer": node.name}, admin=True)
        del self.nodes[node.name]

    def give_room(self, max_store: str) -> None:
        """Restart all, with so many bytes for the files of each."""
        self._max_store = max_store
        for node in self:
            node.stop()
            node.configure(self._text(node))
        self.start_all()

    def isolate(self, node: Node, *, clients: bool = False) -> None:
        """Nothing passes between it and the other servers; with *clients* no client reaches it either.

        Connections stay open: to both ends it looks as if the network lost every packet.
        """
        for link in self._around(node, clients):
            link.hold()

    def heal(self) -> None:
        """What was held goes on its way, and what was cut is let through again."""
        for link in [*self._routes.values(), *self._doors.values()]:
            link.let_through()

    def door(self, node: Node) -> Link:
        """The link between clients and a server."""
        return self._doors[node.name]

    def _around(self, node: Node, clients: bool) -> list[Link]:
        assert self._links, "the cluster was made without links"
        links = [link for pair, link in self._routes.items() if node.name in pair]
        return [*links, self.door(node)] if clients else links


async def _ask(servers: list[str], subject: str, data: bytes, admin: bool) -> dict[str, Any]:
    import nats  # not needed by those that ask nothing

    user = {"user": "admin", "password": "admin"} if admin else {}
    nc = await nats.connect(servers, **user)
    try:
        answer = await nc.request(subject, data, timeout=ASK_SECONDS)
        return dict(json.loads(answer.data))
    finally:
        await nc.close()


def _peers(node: Node) -> int:
    """How many servers are in the cluster and online, as the cluster's leader says; 0 of another server."""
    meta = (node.ask("/jsz") or {}).get("meta_cluster") or {}
    if meta.get("leader") != node.name:
        return 0
    return 1 + sum(not peer.get("offline") for peer in meta.get("replicas") or [])


def _quoted(text: object) -> str:
    return f'"{text}"'
