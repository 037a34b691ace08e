"""For the tests that need NATS servers: they are skipped, by name, where no server may be used."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.binary import NoServer, find_server

try:
    find_server()
except NoServer as missing:
    WHY: str | None = str(missing)
else:
    WHY = None


# nats-py drops the streams of a connection that a server has ended; Python says so when it finalises them.
LEFT_BY_NATS_PY = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here:
            item.add_marker(LEFT_BY_NATS_PY)


@pytest.fixture(autouse=True)
def server() -> Iterator[None]:
    """The pinned server is there; what nats-py leaves is finalised before the test ends."""
    if WHY:
        pytest.skip(WHY)
    yield
    gc.collect()
