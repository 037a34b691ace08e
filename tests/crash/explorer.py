"""Runs a workload, cuts at every call, opens what is left with the production code, and looks.

    workload ──► driver ──► store ──► simulated disk
                   │                      │ before every call that changes something
                history ◄── judge ◄── what a kill leaves; what power cuts may leave
                                          │ now and then
                                          └► live on: recover, cut again, three deep

Calls that change nothing share their states with the next one that does.  Opening a
store is a function of its bytes, so it is done once for each state of the disk; what
may be found there is asked of every history that leads to it.

Each opened state is also opened again from nothing but the platter: recovery must have
made all it showed durable, and must come to rest (P8).  And the bytes that were there
must still be there (P10).
"""

from __future__ import annotations

import errno
import math
import os
import random
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from unittest import mock

from mq.engine import clock, maintenance, pressure
from mq.errors import CorruptStore, MqError
from mq.storage import rotation, shared
from mq.storage.segment import HEADER_BYTES, REVISION_2

from .disk import SHORT, SimulatedDisk
from .driver import PATH, Driver, Wrong, holdings, open_store
from .fate import Fate, draw, everything, evicting, nothing_but_the_platter
from .history import Found, History, Key
from .workloads import WORKLOADS, aftermath

FAR = 40_000 * 86_400.0  # seconds since 1970 when all deadlines have passed and all delays are over
PER_CALL = 10  # fates drawn at each call
EARLIER = 1 << 32  # added to a seed, for what was there before
LIVES_MAX = 3
LIVE_ON = (0.012, 0.01, 0.01)  # how often a state is lived on with, by depth
LOG = f"{PATH}/log/"
KILLED_LIVE_ON = 5  # times as often: what a kill leaves may still be lost, and others rest on it
RESTS_AFTER = 4  # recoveries
ENUMERATED_MAX = 32  # combinations of the un-synced that are all visited
KILLS_ONLY = ("store", "torn")  # before these calls a power cut shows no more than before the next one
SMALL_ALLOCATION = 512  # bytes reserved at a time, so that room ends within a workload

CRASHES = (MqError, OSError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError,
           AssertionError, struct.error, MemoryError)  # fmt: skip

FAULTS: dict[str, tuple[int, ...]] = {
    "create": (errno.ENOSPC, errno.EIO, errno.EMFILE),
    "open": (errno.EIO, errno.EMFILE),
    "pwrite": (errno.ENOSPC, errno.EDQUOT, errno.EIO, SHORT),
    "allocate": (errno.ENOSPC, errno.EDQUOT, errno.EIO),
    "truncate": (errno.EIO,),
    "sync": (errno.EIO, errno.ENOSPC),
    "sync_directory": (errno.EIO,),
    "make_directory": (errno.ENOSPC,),
    "rename": (errno.EIO, errno.ENOSPC),
    "unlink": (errno.EIO,),
    "names": (errno.EIO,),
    "pread": (errno.EIO,),
    "window": (errno.ENOMEM,),
    "ready": (errno.EFAULT,),
}


class Enough(BaseException):
    """The budget is used up."""


@dataclass
class Violation:
    """A promise that was broken, and how to see it again."""

    text: str
    workload: str
    seed: int
    history: list[str]
    trail: list[str]
    faults: dict[int, int]
    only: set[int] | None = None

    def __str__(self) -> str:
        return "\n".join([
            self.text,
            f"workload {self.workload}, seed {self.seed}, faults {self.faults},"
            f" operations {self.only or 'all'}",
            *("  " + line for line in self.history),
            *("  → " + line for line in self.trail),
        ])  # fmt: skip


@dataclass
class Tally:
    states: int = 0
    kills: int = 0
    power_cuts: int = 0
    opened: int = 0  # states of the disk that were not seen before
    lives: int = 0
    faults: int = 0
    schedules: int = 0  # of several processes
    violations: list[object] = field(default_factory=list)

    def __iadd__(self, other: Tally) -> Tally:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


class Explorer:
    """*glance*: only once through, with the fates that are drawn, and without living on: most bugs show."""

    def __init__(
        self, seed: int = 0, *, per_call: int = PER_CALL, states_max: int = 1 << 62, glance: bool = False
    ) -> None:
        self.seed, self.tally = seed, Tally()
        self._per_call, self._states_max, self._glance = per_call, states_max, glance
        self._rng = random.Random()
        self._seen: dict[int, Found | str] = {}
        self._old: dict[str, dict[str, bytes]] = {}  # what was left before each workload
        self._trail: list[str] = []

    # ── runs ───────────────────────────────────────────────────────────────────────

    def run(
        self, name: str, *, faults: dict[int, int] | None = None, only: set[int] | None = None
    ) -> Violation | None:
        """Explore one workload; what is wrong, if anything.  With *faults*, from the first that strikes."""
        workload = WORKLOADS[name]
        self._rng = random.Random(f"{self.seed} {name}")
        self._seen.clear()
        self._trail.clear()
        old = self._left_before(name)
        with determined(self.seed):
            disk = SimulatedDisk(faults=faults)
            disk.old = old
            history = History()
            driver = Driver(disk, history, only=only)
            disk.on_change = lambda kind: (
                self._at(disk, driver, kind, 0) if disk.fired or not faults else None
            )
            try:
                workload(driver)
                self._at(disk, driver, "the end", 0)
            except (Wrong, *CRASHES) as wrong:
                text = str(wrong) if isinstance(wrong, Wrong) else f"P9: crashed: {wrong!r}"
                lines = getattr(wrong, "lines", history.lines)
                found = Violation(text, name, self.seed, list(lines), list(self._trail), faults or {}, only)
                self.tally.violations.append(found)
                return found
            except Enough:
                pass
        return None

    def grant(self, states: int) -> None:
        """So many more, and no others."""
        self._states_max = self.tally.states + states

    def fault_runs(self, name: str, only_kind: str = "") -> Iterator[dict[int, int]]:
        """Every fault at every call of a workload, or every call of one kind."""
        with determined(self.seed):
            disk = SimulatedDisk()
            WORKLOADS[name](Driver(disk, History()))
        for call, kind in enumerate(disk.kinds, 1):
            for fault in FAULTS.get(kind, ()) if only_kind in ("", kind) else ():
                yield {call: fault}
                if fault == SHORT:
                    yield {call: SHORT, call + 1: errno.ENOSPC}

    def _left_before(self, name: str) -> dict[str, bytes]:
        """By file name, what an earlier store in the same place left on the platter."""
        if name not in self._old:
            disk = SimulatedDisk()
            # Another seed, and so another key.  What is wrong, the run itself will show.
            with determined(self.seed + EARLIER), suppress(Wrong, *CRASHES):
                WORKLOADS[name](Driver(disk, History(), dot=b"o"))
            self._old[name] = {path.rpartition("/")[2]: data for path, data in disk.content().items()}
        return self._old[name]

    # ── at a call ──────────────────────────────────────────────────────────────────

    def _at(self, disk: SimulatedDisk, driver: Driver, kind: str, depth: int) -> None:
        history = driver.history
        rng = self._rng
        if depth and rng.random() > 0.4:
            return
        self._trail.append(f"call {disk.calls}, {kind}")
        self._judge(disk.after_kill(), driver, "killed", depth, power=disk.has_forgotten())
        if disk.has_clean_pages():
            evicted = disk.after_kill(evicting(rng))
            self._judge(evicted, driver, "killed, clean pages dropped", depth, power=True)
        if kind not in KILLS_ONLY:
            allowed = history.allowed(power=True)
            for fate in self._fates(disk, depth):
                survivor = disk.after_power(fate)
                self._judge(survivor, driver, fate, depth, power=True, allowed=allowed)
        self._trail.pop()

    def _fates(self, disk: SimulatedDisk, depth: int) -> Iterator[Fate]:
        if depth:
            yield from (draw(self._rng) for _ in range(2))
            return
        if disk.loose_ends() <= 4 and not self._glance:
            yield from islice(everything(), ENUMERATED_MAX)
        yield from (draw(self._rng) for _ in range(self._per_call))

    def _judge(
        self, survivor: SimulatedDisk, driver: Driver, how: object, depth: int, *, power: bool,
        allowed: set[Key] | None = None,
    ) -> None:  # fmt: skip
        tally = self.tally
        if tally.states >= self._states_max:
            raise Enough
        tally.states += 1
        tally.power_cuts += power
        tally.kills += not power
        found = self._open(survivor)
        history = driver.history
        wrong = found if isinstance(found, str) else history.complaint(found, power=power, allowed=allowed)
        if wrong:
            self._trail[-1] += f": {how}"
            broken = Wrong(wrong)
            broken.lines = history.lines  # type: ignore[attr-defined]
            raise broken
        assert isinstance(found, Found)
        chance = LIVE_ON[min(depth, 2)] * (1 if isinstance(how, Fate) else KILLED_LIVE_ON)
        if depth < LIVES_MAX and not self._glance and self._rng.random() < chance:
            self._trail[-1] += f": {how}"
            self._live_on(survivor, driver, found, depth + 1, platter=isinstance(how, Fate))
            self._trail[-1] = self._trail[-1].partition(": ")[0]

    def _live_on(
        self, survivor: SimulatedDisk, before: Driver, found: Found, depth: int, *, platter: bool
    ) -> None:
        """Recover and go on, and be cut again at every call of both."""
        self.tally.lives += 1
        disk, history = survivor.after_kill(), before.history.fork()
        history.reborn(found, platter=platter)
        driver = Driver(disk, history, start=before.clock + 3600)
        disk.on_change = lambda kind: self._at(disk, driver, kind, depth)
        try:
            driver.open(**{**before.options, "sync": self._rng.choice(("always", "never"))})
            aftermath(self._rng)(driver)
            self._at(disk, driver, "the end", depth)
        except Wrong as wrong:
            if not hasattr(wrong, "lines"):
                wrong.lines = history.lines  # type: ignore[attr-defined]
            raise

    # ── opening what is left ───────────────────────────────────────────────────────

    def _open(self, disk: SimulatedDisk, recoveries: int = 0) -> Found | str:
        """What is found there; or the promise that is broken whatever the history was."""
        content = disk.content()
        key = hash(tuple(content.items()))
        found = self._seen.get(key)
        if found is None:
            self.tally.opened += 1
            found = self._seen[key] = self._look(disk, content, recoveries)
        return found

    def _look(self, disk: SimulatedDisk, before: dict[str, bytes], recoveries: int) -> Found | str:
        copy = disk.after_kill()
        try:
            broker = open_store(copy, lambda: FAR)
            held, ids, said = holdings(broker, counted=True)
            verdict = broker._store.replica.verdict.value
        except CorruptStore as error:
            return f"P7: a crash is called damage: {error!r}"
        except Wrong as wrong:
            return str(wrong)
        except CRASHES as error:
            return f"P9: the store does not open: {error!r}"
        wrong = _destroyed(before, copy.content()) or _says_too_much(before)
        if wrong:
            return wrong
        found = Found(verdict, broker.store_id, held, ids, said)
        after = copy.after_power(nothing_but_the_platter())
        if after.content() != before:
            if recoveries == RESTS_AFTER:
                return "P8: recovery does not come to rest"
            again = self._open(after, recoveries + 1)
            if isinstance(again, str):
                return f"P8: after a recovery, {again}"
            if again.contents != held or again.ids != ids:
                return f"P8: recovered {held!r}, and after another power cut {again.contents!r}"
        return found


def _destroyed(before: dict[str, bytes], after: dict[str, bytes]) -> str:
    """Recovery writes behind what is there, makes a segment again that never came to be, and may
    drop the oldest, which the log says it does not need."""
    oldest = min((path for path in after if path.startswith(LOG)), default="")
    for path, content in before.items():
        used = path.startswith(LOG) and path >= oldest and content[HEADER_BYTES:].strip(b"\0")
        if used and not after.get(path, b"").startswith(content.rstrip(b"\0")):
            return f"P10: recovery changed or removed bytes of {path}"
    return ""


def _says_too_much(left: dict[str, bytes]) -> str:
    """An older mq does not look at the page's version: it must be kept out by a segment's feature bit."""
    page = left.get(f"{PATH}/mark", b"")[shared.VERSION * 8 :][:8]
    heads = [content[:16] for path, content in left.items() if path.startswith(LOG)]
    if any(page) and not any(int.from_bytes(head[12:], "little") & REVISION_2 for head in heads):
        return "versions: the page is of this version, and the log of an older one"
    return ""


@contextmanager
def determined(seed: int) -> Iterator[None]:
    """Everything that is random, or too large for a laboratory, the same in every run."""
    rng = random.Random(seed)
    with (
        mock.patch.object(os, "urandom", rng.randbytes),
        mock.patch.object(uuid, "uuid4", lambda: uuid.UUID(int=rng.getrandbits(128))),
        mock.patch.object(os, "getpid", lambda: 1),
        mock.patch.object(clock, "_tag", lambda custom: 1),
        mock.patch.object(rotation, "ALLOCATE_BYTES", SMALL_ALLOCATION),
        mock.patch.multiple(
            pressure,
            RESERVE_BYTES=SMALL_ALLOCATION,
            LEFT_BYTES=SMALL_ALLOCATION // 2,
            LEAST_BYTES=SMALL_ALLOCATION // 4,
            UNSEEN=2,
        ),
        mock.patch.object(maintenance, "CLOSING_SECONDS", math.inf),  # a look at each call takes time
    ):
        yield


def shorten(violation: Violation, *, per_call: int = 12, states_max: int = 4000) -> Violation:
    """The shortest history that still breaks the same promise: leave out operations while it does."""
    promise = violation.text[:2]

    def attempt(only: set[int]) -> Violation | None:
        explorer = Explorer(violation.seed, per_call=per_call, states_max=states_max)
        found = explorer.run(violation.workload, faults=violation.faults or None, only=only)
        return found if found and found.text[:2] == promise else None

    best = violation
    kept = best.only or set(range(1, 64))
    size = 16
    while size:
        for start in sorted(kept)[::size]:
            fewer = {each for each in kept if not start <= each < start + size}
            found = attempt(fewer) if fewer != kept else None
            if found:
                best, kept = found, fewer
        size //= 2
    return best
