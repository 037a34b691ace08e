"""The machine that was measured on, in a few words."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

from benchmarks.bench.link import ROOT

REST = 0.3  # of a processor: a machine with more load than that, for each, is not at rest


def describe(directory: str) -> dict[str, str]:
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    told = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "processor": f"{processor()}, {cores} cores",
        "kernel": platform.release(),
        "file system": file_system(directory),
        "Python": platform.python_version(),
        "load at the beginning": f"{load:.2f}",
    }
    if load > REST * cores:
        told["note"] = "the machine was not at rest"
    return told


def commit(checkout: str | Path = ROOT) -> str:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, model = line.partition(":")
        if name.strip() == "model name":
            return model.strip()
    return platform.machine()


def file_system(directory: str) -> str:
    """The type of the one that *directory* is on."""
    path, found = os.path.realpath(directory), ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind = line.split(" ")[:3]
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(found[0]):
            found = place, kind
    return found[1]
