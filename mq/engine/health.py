"""What is wrong with a store that is open, for those who watch it; asking writes nothing."""

from __future__ import annotations

from typing import NamedTuple

from mq.engine.operation import operation
from mq.engine.store import Store
from mq.errors import StoreFailed
from mq.storage.shared import FAILED


class Health(NamedTuple):
    """What is wrong, if anything.

    failed       a write or an fsync failed: nothing can be changed before the store is opened anew
    disk_full    publishes are refused for want of room; settling still works
    cleaning     why disk space is not reclaimed; "" if it is
    """

    failed: bool
    disk_full: bool
    cleaning: str


@operation
def health(store: Store) -> Health:
    """Raises what else keeps the store from being looked at."""
    try:
        return store.turn.look(lambda: _health(store))
    except StoreFailed:
        return Health(True, False, "")


def _health(store: Store) -> Health:
    log, trouble = store.replica.log, store.maintenance.cleaning.trouble
    failed = bool(log.failure.error or store.turn.mark[FAILED])
    return Health(failed, log.reserve.full, "" if trouble is None else str(trouble))
