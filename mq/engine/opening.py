"""Opening a store: what callers may choose, and where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mq.engine.store import Store
from mq.hold import Hold
from mq.storage import paths
from mq.storage.log import SEGMENT_BYTES_MIN as SEGMENT_BYTES_MIN
from mq.storage.memory_disk import MEMORY as MEMORY
from mq.storage.record import GROUP_BYTES_MAX

SEGMENT_BYTES_MAX: Final = GROUP_BYTES_MAX  # a record, or a group of them, is never longer


def open_store(
    name: str, *, sync: str | float, read_only: bool, segment_bytes: int, clock: Callable[[], float] | None,
    salvage: bool, exclusive: bool, mode: int | None, hold: Hold,
) -> Store:  # fmt: skip
    """The store in the directory *name*, wherever the program goes by os.chdir; or MEMORY."""
    path = name if name == MEMORY else paths.absolute(name)
    return Store(
        path, sync=sync, read_only=read_only, segment_bytes=segment_bytes, clock=clock, salvage=salvage,
        exclusive=exclusive, mode=mode, hold=hold,
    )  # fmt: skip
