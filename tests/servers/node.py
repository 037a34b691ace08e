"""One server process, that can be stopped, killed, paused and started again on the same ports and files."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds: then a server is stuck
ASK_SECONDS = 2.0  # for one answer; a paused server gives none
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


class NotReady(AssertionError):
    """A server, or a cluster, is not what the caller waited for; with the end of its log."""


def until(ready: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Return once it is so; NotReady after *patience* seconds."""
    give_up = time.monotonic() + patience
    while not ready():
        if time.monotonic() > give_up:
            raise NotReady(what)
        time.sleep(0.01)  # not for time to pass, but for another process


class Node:
    def __init__(self, server: Path, name: str, directory: Path, port: int, http: int) -> None:
        self._server, self.name, self.directory = server, name, directory
        self.port, self._http = port, http
        self._config = directory / "server.conf"
        self._log = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def configure(self, config: str) -> None:
        """*config*: all of its configuration file but its ports; from the next start on."""
        self._config.write_text(
            f"server_name: {self.name}\nlisten: 127.0.0.1:{self.port}\nhttp: 127.0.0.1:{self._http}\n{config}"
        )

    def start(self) -> None:
        """Begin; `healthy` tells when it is ready.

        By the main thread only: the kernel kills the server when the thread that started it ends.
        """
        assert threading.current_thread() is threading.main_thread()
        assert not self.running
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._server, "--config", self._config], stdout=log, stderr=log, preexec_fn=die_with_parent
            )

    @property
    def running(self) -> bool:
        """Whether there is a process; it may be paused."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an administrator does it: what it leads goes to others first."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """When this returns, it answers nothing any more: none of its threads runs."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process and self.running:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise NotReady(f"{self.name} does not end\n{self.log()}") from None

    def ask(self, path: str) -> dict[str, Any] | None:
        """The answer of its monitoring port, a JSON object; None if there is none."""
        url = f"http://127.0.0.1:{self._http}{path}"
        try:
            with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
                return dict(json.load(answer))
        except (OSError, HTTPException, ValueError):  # also when it dies in the midst of its answer
            return None

    def healthy(self) -> bool:
        """It answers, knows the cluster's leader, and has caught up with what it holds."""
        assert self.running, f"{self.name} has ended\n{self.log()}"
        return (self.ask("/healthz") or {}).get("status") == "ok"

    def streams(self) -> dict[str, dict[str, Any]]:
        """What it says of the streams that it holds, by name."""
        answer = self.ask("/jsz?streams=true&config=true&accounts=true&raft=true") or {}
        accounts = answer.get("account_details") or []
        return {
            stream["name"]: stream for account in accounts for stream in account.get("stream_detail") or []
        }

    def log(self, lines: int = 30) -> str:
        return "\n".join(self._log.read_text().splitlines()[-lines:])


def die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
