"""The process in which one measurement, or a helper of one, takes place: see link.py."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

from benchmarks.bench.link import LIBRARY, Link


def main() -> None:
    told = json.loads(sys.argv[1])
    if library := os.environ.get(LIBRARY):
        sys.path.insert(0, library)  # before anything imports mq
    with open(told["say"], "w") as say:
        sys.exit(play(Link(sys.stdin, say), told["role"], told["arguments"]))


def play(link: Link, role: str, arguments: dict[str, Any]) -> int:
    """Do what was asked for, and say what came of it; the exit code."""
    try:
        module, name = role.split(":")
        result = getattr(importlib.import_module(module), name)(link, **arguments)
    except Exception as error:  # noqa: BLE001 the parent is told, and raises
        traceback.print_exc()
        link.say({"failed": f"{type(error).__name__}: {error}"})
        return 1
    link.say(result)
    return 0


if __name__ == "__main__":
    main()
