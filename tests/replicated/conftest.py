"""For the tests that need NATS servers: they are skipped, by name, where no server may be used."""

from __future__ import annotations

import pytest
from servers.binary import NoServer, find_server

try:
    find_server()
except NoServer as missing:
    WHY: str | None = str(missing)
else:
    WHY = None


@pytest.fixture(autouse=True)
def server() -> None:
    """The pinned server is there."""
    if WHY:
        pytest.skip(WHY)
