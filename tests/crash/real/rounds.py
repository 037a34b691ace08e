"""One round of each kind: let processes work, strike, and look what is left."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time

from mq.cli.root import MODULES

from . import faults
from .ledger import Found, Ledger
from .machine import Cut, Image
from .processes import Child, Nursery
from .traffic import Fault

SYNCS: tuple[str | float, ...] = ("always", "always", 0.005, "never")
OPENING_SECONDS = 0.03  # about what the opening of such a small store takes

# What may happen to which call.
WHAT = {
    "pwrite": (errno.EIO, errno.ENOSPC, faults.SHORT, faults.CUT),
    "fdatasync": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "fsync": (errno.EIO,),
    "posix_fallocate": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    "open": (errno.EMFILE, errno.EACCES, errno.EIO, errno.ENOSPC),
    "unlink": (errno.EIO, errno.EACCES),
    "rename": (errno.EIO, errno.ENOSPC),
}
OFTEN = ("pwrite", "fdatasync")  # called by the dozen in a round, the others now and then


class Broken(AssertionError):
    """A promise was broken; the seed and the notes say how."""


class Scene:
    """One store, and all that processes were told about it."""

    def __init__(self, nursery: Nursery, store: str, notes: str, seed: str) -> None:
        self.nursery, self.store, self.notes, self.seed = nursery, store, notes, seed
        self.chance = random.Random(seed)
        self.ledger = Ledger(notes)
        self.kills = self.cuts = self.looks = 0
        self.verdicts: dict[str, int] = {}
        self._jobs = 0

    # ── processes ──────────────────────────────────────────────────────────────────

    def traffic(self, kind: str) -> Child:
        """A process at work, which has noted some more."""
        self._jobs += 1
        child = self.nursery.start(
            "crash.real.traffic:traffic", self.store, self.notes, f"{self.seed}/{self._jobs}",
            self.chance.choice(SYNCS), self.ledger.next_number, kind,
        )  # fmt: skip
        goal = self.ledger.size() + self.chance.choice([5, 100, 500, 2000, 5000])
        child.until(lambda: self.ledger.size() >= goal)
        return child

    def work(self, sync: str | float, kind: str, fault: Fault) -> Child:
        """A process that does thirty operations, and meets a *fault* meanwhile."""
        return self.nursery.start(
            "crash.real.traffic:traffic", self.store, self.notes, self.chance.random(), sync,
            self.ledger.next_number, kind, 30, fault,
        )  # fmt: skip

    def kill(self, child: Child) -> None:
        child.kill()
        child.killed_or_done()
        self.ledger.read()
        self.kills += 1

    def kill_soon(self, job: str, seconds: float) -> None:
        """Start *job*, and kill it within *seconds* of its beginning."""
        before = self.ledger.size()
        child = self.nursery.start(f"crash.real.traffic:{job}", self.store, self.notes)
        child.until(lambda: self.ledger.size() > before)
        time.sleep(self.chance.random() * seconds)  # where in the job the kill strikes
        self.kill(child)

    # ── looking ────────────────────────────────────────────────────────────────────

    def look(self, *, power: bool) -> Found:
        """Open the store and hold it against the notes; first without changing anything."""
        seen: Found | None = None
        if os.path.exists(os.path.join(self.store, "FORMAT")):
            seen = self.nursery.run("crash.real.traffic:look", self.store, True, True)
        closes = self.chance.random() < 0.5  # else its death is for the next opening to notice
        found: Found = self.nursery.run("crash.real.traffic:look", self.store, False, closes)
        wrong = self.ledger.complaints(found, power=power)
        if seen is not None and timeless(seen) != timeless(found):
            wrong.append(f"P8: a reader sees {seen}, the next opening {found}")
        self.looks += 1
        self.verdicts[found["verdict"]] = self.verdicts.get(found["verdict"], 0) + 1
        if wrong:
            raise Broken(self._story(wrong))
        self.ledger.settle(found)
        return found

    def _story(self, wrong: list[str]) -> str:
        with open(self.notes) as notes:
            last = "".join(notes.readlines()[-30:])
        kept = shutil.copytree(self.store, f"{self.notes}.store", dirs_exist_ok=True)
        return f"seed {self.seed!r}; the store is kept in {kept}\n" + "\n".join(wrong) + f"\n…\n{last}"


def timeless(found: Found) -> Found:
    """Without what changes by itself: a message becomes ready."""
    return {**found, "queues": {name: held["messages"] for name, held in found["queues"].items()}}


def kill_round(scene: Scene) -> None:
    """Traffic, and recovery, and compaction, each killed; then everything that was told holds."""
    chance = scene.chance
    scene.kill(scene.traffic(chance.choice(["publish", "consume", "busy", "busy"])))
    for _ in range(chance.choice([0, 0, 1, 3, 6])):
        scene.kill_soon("reopen", OPENING_SECONDS)
    if can_compact() and chance.random() < 0.3:
        scene.kill_soon("compact", 3 * OPENING_SECONDS)
    scene.look(power=False)


def can_compact() -> bool:
    return "compact" in MODULES


def power_round(scene: Scene, image: Image, how: Cut) -> None:
    """Traffic, or recovery, when the power goes; a few times over, sometimes."""
    chance = scene.chance
    if chance.random() < 0.8:
        child = scene.traffic(chance.choice(["publish", "busy", "busy", "consume"]))
    else:
        child = scene.nursery.start("crash.real.traffic:reopen", scene.store, scene.notes)
        time.sleep(chance.random() * OPENING_SECONDS)
    if how is not Cut.ALL_FLUSHED and chance.random() < 0.7:
        scene.nursery.run("crash.real.traffic:sync_some", scene.store, chance.random())
    scene.ledger.read()
    image.cut(how)
    child.kill()
    # Not killed_or_done: the shared page is mapped, and a store to it is a SIGBUS now.
    scene.ledger.read(late=True)
    scene.cuts += 1
    image.unmount()
    image.mount()
    scene.look(power=how is not Cut.ALL_FLUSHED)


def draw_fault(chance: random.Random) -> Fault:
    """One call, or every one from then on, fails, is short, or is the last."""
    call = chance.choice(faults.CALLS)
    what = chance.choice(WHAT[call])
    if chance.random() < 0.3:
        call, what = "*", faults.KILL
    where = chance.choice(["/data/log", "/data/log", "/data/checkpoint", ""])
    reach = [3, 10, 40, 150] if call in (*OFTEN, "*") else [2, 5, 15]
    first = int(chance.choice(reach) * chance.random()) + 1
    return call, where, first, chance.choice([1, 1, 1000]), what


def fault_round(scene: Scene) -> None:
    """Some operations, and a fault among them."""
    chance = scene.chance
    fault = draw_fault(chance)
    if chance.random() < 0.2:
        child = scene.nursery.start("crash.real.traffic:reopen", scene.store, scene.notes, fault)
    else:
        child = scene.work(chance.choice(SYNCS), chance.choice(["busy", "busy", "publish"]), fault)
    meet(scene, child, fault)


def meet(scene: Scene, child: Child, fault: Fault) -> None:
    """What a process left that met *fault*, or ended before it did."""
    child.killed_or_done()
    scene.ledger.read()
    try:
        scene.look(power=False)
    except Broken as error:
        call, where, first, _, what = fault
        raise Broken(
            f"{call} of {where or 'anything'}, from number {first}: {faults.name(what)}\n{error}"
        ) from None
