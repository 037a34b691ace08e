"""A store that is copied file by file while it is in use, as cp, tar and rsync do.

    moments      0 ── 1 ── 2 ── 3 ── 4 ── …        each is a change of the disk
    mark                   ●                       each file is copied at one of them, in any order
    checkpoint/…      ●
    log/…                       ●        ●         all at one, or each at its own

If all segments were copied at one moment, the log is one that a kill leaves: it opens, with what
it held then, whatever page and checkpoint were copied.  If each has its own, there may be a hole
below what the records claim: then it is refused.  It is never opened without a message that was
on the disk before the copy began, and was not settled until it ended.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from mq.errors import CorruptStore, MqError

from .damage import CRASHES, disk_of
from .disk import SimulatedDisk
from .driver import PATH, Driver, contents, open_store
from .explorer import FAR, LOG, determined
from .history import History, Key
from .workloads import WORKLOADS

COPIED = ("publish_always", "unsynced_rotation", "checkpoints", "cleaning", "unsynced_cleaning")
COPIES = 120  # of each workload and kind


class Moment(NamedTuple):
    files: dict[str, bytes]
    safe: frozenset[bytes]  # bodies that are on the disk
    ended: frozenset[bytes]  # bodies that were settled, or perhaps
    allowed: set[Key]  # what the store may hold


def explore(name: str) -> str:
    """What is wrong with a copy made beside this workload; "" if nothing."""
    rng = random.Random(name)
    with determined(0):
        moments, tag = _moments(name)
        for number in range(2 * COPIES):
            at_once = number % 2 == 0
            if wrong := _judge(moments, tag, rng, at_once=at_once):
                return f"{name}, copy {number}, {'the log at once' if at_once else 'each file'}: {wrong}"
    return ""


def _moments(name: str) -> tuple[list[Moment], str]:
    """The store at every change, and what its receipts end with."""
    disk, history = SimulatedDisk(), History()
    driver = Driver(disk, history)
    moments: list[Moment] = []

    def look(kind: str) -> None:
        if driver.tag:
            allowed = history.allowed(power=False)
            moments.append(Moment(disk.content(), frozenset(history.safe), frozenset(history.ended), allowed))

    disk.on_change = look
    WORKLOADS[name](driver)
    return moments, driver.tag


def _judge(moments: list[Moment], tag: str, rng: random.Random, *, at_once: bool) -> str:
    first = rng.randrange(len(moments))
    last = min(len(moments) - 1, first + int(rng.choice((40, 400)) * rng.random()) + 1)
    log_at = rng.randint(first, last)
    files: dict[str, bytes] = {}
    listed = rng.randint(first, log_at)  # when the tool looked which segments there are
    for path in {each for moment in moments[first : last + 1] for each in moment.files}:
        is_log = path.startswith(LOG)
        at = log_at if at_once and is_log else rng.randint(listed if is_log else first, last)
        if path in moments[at].files and (at_once or not is_log or path in moments[listed].files):
            files[path] = moments[at].files[path]
    if f"{PATH}/FORMAT" not in files or f"{PATH}/mark" not in files:
        return ""
    return _complaint(
        disk_of(files, {}), moments[first], moments[log_at], moments[last], tag, at_once=at_once
    )


def _complaint(
    disk: SimulatedDisk, first: Moment, log: Moment, last: Moment, tag: str, *, at_once: bool
) -> str:
    held = None
    for _ in range(2):  # the second one finds a page of its own
        try:
            broker = open_store(disk, lambda: FAR)
            found, ids = contents(broker)
        except CorruptStore as error:
            return "" if held is None and not at_once else f"refused: {error}"
        except (MqError, *CRASHES) as error:
            return f"crashed: {error!r}"
        if held is not None and found != held:
            return f"it held {held!r}, and when it was opened again {found!r}"
        held = found
        disk = disk.after_kill()
    here = [body for _, _, body in ids]
    if len(set(here)) != len(here):
        return "a message is there twice"
    if missing := first.safe - last.ended - set(here):
        return f"{sorted(missing)} were on the disk, and are gone"
    if at_once and held not in log.allowed:
        return f"it holds {held!r}, which the store did not when its log was copied"
    return "receipts of the original would settle messages of the copy" if broker._store.tag == tag else ""
