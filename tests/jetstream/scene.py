"""A cluster, a store on it, and the crowd that uses it; what becomes of them, and what is left in the end."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import crowd
import noted
from accounts import Accounts, look
from auditor import audit, read
from servers import Cluster, NotReady
from servers.node import die_with_parent, until

import mq

ROLES = ("publish", "publish", "consume", "carry", "follow", "follow")
NUMBERS = 1_000_000  # for each process: what it publishes is numbered from its own multiple of this
STORE = "orders"
PATIENCE = 150.0  # seconds until the crowd goes on: a new leader takes up to 10, an opening may take 120


class Scene:
    """Entered with the crowd at work; left with all processes ended, whatever happened."""

    def __init__(self, cluster: Cluster, directory: Path, seed: str, roles: tuple[str, ...] = ROLES) -> None:
        self.cluster, self._directory, self.seed, self._roles = cluster, directory, seed, roles
        self.chance = random.Random(seed)
        self.crowd: dict[subprocess.Popen[bytes], str] = {}
        self._started = 0

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._kill_all)
            with mq.open(self.cluster.url(STORE)) as broker:
                crowd.declare(broker)
            for role in self._roles:
                self.start(role)
            self.goes_on()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_all()

    def _kill_all(self) -> None:
        for process in self.crowd:
            process.kill()
            process.wait()

    def start(self, role: str) -> None:
        self._started += 1
        notes = self._directory / f"{self._started}.{role}"
        servers = self.chance.sample(list(self.cluster.nodes), len(self.cluster.nodes))
        url = self.cluster.url(STORE, *servers)
        arguments = [role, url, str(notes), f"{self.seed}/{self._started}", str(self._started * NUMBERS)]
        path = os.pathsep.join(filter(None, [str(Path(noted.__file__).parent), os.environ.get("PYTHONPATH")]))
        with notes.with_suffix(".err").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, crowd.__file__, *arguments], stderr=errors,
                env={**os.environ, "PYTHONPATH": path}, preexec_fn=die_with_parent,
            )  # fmt: skip
        self.crowd[process] = role

    def kill_one(self) -> None:
        """SIGKILL one of the crowd, wherever it is, and start another one of its role."""
        process = self.chance.choice(list(self.crowd))
        role = self.crowd.pop(process)
        process.kill()
        process.wait()
        self.start(role)

    def notes(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if path.suffix[1:] in ROLES]

    def _told(self) -> int:
        """How many calls have returned, with something to note."""
        return sum(
            verb in ("told", "acked", "carried") for path in self.notes() for verb, *_ in noted.read(path)[0]
        )

    def goes_on(self, calls: int = 40) -> None:
        """So many more calls return."""
        goal = self._told() + calls

        def enough() -> bool:
            for process, role in self.crowd.items():
                assert process.poll() is None, f"{role} ended\n{self._errors()}"
            return self._told() >= goal

        until(enough, f"the crowd does not go on: {Accounts(self.notes()).failures}", PATIENCE)

    def lasts(self, seconds: float) -> None:
        """How long a fault lasts, with the crowd at work."""
        time.sleep(seconds)

    def end(self) -> Accounts:
        """Let all finish what they do; then AssertionError unless every promise holds."""
        for process in self.crowd:
            process.send_signal(signal.SIGTERM)
        for process, role in self.crowd.items():
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGUSR1)
                until(lambda: "most recent call first" in self._errors(), f"{role} does not say where it is")
                raise NotReady(f"{role} does not end\n{self._errors()}") from None
            # It may have been started so late that it does not heed the signal yet.
            assert code in (0, -signal.SIGTERM), f"{role} ended with {code}\n{self._errors()}"
        self.crowd.clear()
        accounts = Accounts(self.notes())
        assert not (wrong := self.complaints(accounts)), "\n".join([f"seed {self.seed}", *wrong])
        return accounts

    def complaints(self, accounts: Accounts) -> list[str]:
        self.cluster.wait_ready()
        self.cluster.leader(f"mq_{STORE}")
        with mq.open(self.cluster.url(STORE)) as broker:
            held, store_id = look(broker), broker.store_id
        found = audit(asyncio.run(read(self.cluster.servers(), STORE)), store_id)
        return [*accounts.complaints(held), *found.wrong]

    def _errors(self) -> str:
        return "\n".join(path.read_text()[-4000:] for path in self._directory.glob("*.err"))
