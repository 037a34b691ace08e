"""What is not possible here is skipped, and named in one line at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from . import faults, machine
from .processes import Nursery

missing: dict[str, int] = {}


@pytest.fixture
def need() -> Callable[..., None]:
    """need("mount", "mkfs.xfs"): skip, loudly, unless they are here."""

    def need(*tools: str) -> None:
        if reason := machine.lacking(*tools):
            skip(reason)

    return need


def skip(reason: str) -> None:
    missing[reason] = missing.get(reason, 0) + 1
    pytest.skip(reason)


@pytest.fixture(scope="package")
def nursery() -> Iterator[Nursery]:
    machine.cannot_mount()  # first, so that the children live in the same namespace
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="package")
def faulty_nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    if reason := machine.lacking("gcc"):
        skip(reason)
    machine.cannot_mount()
    with Nursery(preload=faults.build(tmp_path_factory.mktemp("faults"))) as nursery:
        yield nursery


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if missing:
        listed = "; ".join(f"{reason} ({count} skipped)" for reason, count in missing.items())
        terminalreporter.write_line(f"real kernels, not tested here: {listed}", yellow=True)
