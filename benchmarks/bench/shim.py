"""The library that counts what waits for the disk, and makes it slower: shim.c, built with gcc."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
COUNT, LEAST = "BENCH_SYNCS", "BENCH_SYNC_MICROSECONDS"  # as shim.c has them
WORD_BYTES = 8


def missing() -> str:
    """Why there is no shim; empty if there can be one."""
    return "" if shutil.which("gcc") else "gcc is not installed"


def build(directory: Path) -> Path:
    library = directory / "shim.so"
    command = ["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def environment(library: Path, count: Path, least_microseconds: int) -> dict[str, str]:
    """What a process needs in its environment: it counts in the new file *count*."""
    count.write_bytes(bytes(WORD_BYTES))
    loaded = " ".join(filter(None, (str(library), os.environ.get("LD_PRELOAD"))))
    return {"LD_PRELOAD": loaded, COUNT: str(count), LEAST: str(least_microseconds)}


def syncs() -> int | None:
    """How often the processes of this measurement have waited for the disk so far; None without the shim."""
    path = os.environ.get(COUNT)
    if not path:
        return None
    return int.from_bytes(Path(path).read_bytes(), "little")
