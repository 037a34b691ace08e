"""What a stretch of work takes: time, processor time, waits for the disk, memory, room on the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.bench import shim

TICKS = os.sysconf("SC_CLK_TCK")
BLOCK_BYTES = 512  # what st_blocks counts


class Meter:
    """Around the work, in the process that does it.  *pids*: processes that work for it.

    The clock starts last and stops first.
    """

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._pids = list(pids)
        self.begin = self.seconds = self.processor_seconds = 0.0
        self.syncs: int | None = None

    def __enter__(self) -> Self:
        self._others = processor_seconds(self._pids)
        self._syncs = shim.syncs()
        self._own = time.process_time()
        self.begin = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self.begin
        own = time.process_time() - self._own
        self.processor_seconds = own + processor_seconds(self._pids) - self._others
        syncs = shim.syncs()
        self.syncs = None if syncs is None or self._syncs is None else syncs - self._syncs

    def values(self, messages: int, elsewhere: float = 0.0) -> dict[str, float]:
        """The figures of so many messages.  *elsewhere*: processor seconds that other processes measured."""
        values = {
            "rate": messages / self.seconds,
            "processor": (self.processor_seconds + elsewhere) / messages,
        }
        if self.syncs is not None:
            values["syncs"] = self.syncs / messages
        return values


def processor_seconds(pids: Iterable[int]) -> float:
    """Of other processes, so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime
    return ticks / TICKS


def memory_bytes(pids: Iterable[int]) -> tuple[int, int]:
    """Resident, of these processes: their own, and of files that are mapped."""
    own = mapped = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "RssAnon":
                own += int(rest.split()[0]) << 10
            elif name in ("RssFile", "RssShmem"):
                mapped += int(rest.split()[0]) << 10
    return own, mapped


def disk_bytes(directory: Path) -> int:
    """What all files below *directory* take, which others may be writing and removing."""
    total = 0
    for where, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(where, name)).st_blocks * BLOCK_BYTES
            except FileNotFoundError:
                continue
    return total


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
