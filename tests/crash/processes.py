"""Several processes on one store: which of them goes on is a schedule, and schedules are drawn from seeds.

    workload ── one script for each process ──► Run ◄── Schedule: switches, kills, failing calls, looks
                                                  │
                         witness ◄────────────────┴──► what a kill of all, or a power cut, would leave

Between two switches a process goes on alone, until it waits.  Few switches find most of
what there is to find, and make a failure readable; so most schedules have few.  They count
points: before and behind every call that changes something, or, if they are *fine*, before
every call.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from mq.api.broker import Broker
from mq.engine.store import Store
from mq.errors import CorruptStore

from .actor import Actor
from .disk import SHORT, SimulatedDisk
from .driver import PATH, Wrong
from .explorer import CRASHES
from .fate import draw, nothing_but_the_platter
from .kernel import READING, Call, Here, Kernel
from .op import FOREVER
from .scripts import WORKLOADS, Script, Workload
from .view import View, view
from .witness import Witness

# Faults: the kind of call that meets one, and which.  One may die inside such a call, also without.
FAULTS = (("sync", errno.EIO), ("pwrite", errno.EIO), ("pwrite", SHORT), ("sync_directory", errno.EIO))
INSIDE = (
    ("sync", errno.EIO), ("pwrite", SHORT), ("sync", 0), ("pwrite", 0), ("sync_directory", errno.EIO),
    ("copy", SHORT), ("copy", 0),
)  # fmt: skip
OPERATION_STEPS_MAX = 30_000  # of one process in one operation: more, and it makes no progress
Fault = tuple[str, int]


@dataclass(frozen=True)
class Schedule:
    """By point, from when all are there: which process goes on; which dies (None), or dies inside the next
    call of a kind; which fault the next call of a kind meets; and where a crash is tried."""

    switches: dict[int, int] = field(default_factory=dict)
    kills: dict[int, Fault | None] = field(default_factory=dict)
    faults: dict[int, Fault] = field(default_factory=dict)
    looks: frozenset[int] = frozenset()
    fine: bool = False
    seed: int = 0

    def marks(self) -> frozenset[int]:
        return frozenset(self.switches) | set(self.kills) | set(self.faults) | self.looks

    def __str__(self) -> str:
        return (
            f"switches {self.switches}, kills {self.kills}, faults {self.faults}, looks {sorted(self.looks)},"
            f" fine {self.fine}, seed {self.seed}"
        )


@dataclass
class Violation:
    text: str
    workload: str
    schedule: Schedule
    lines: list[str]

    def __str__(self) -> str:
        return "\n".join([self.text, f"workload {self.workload}, {self.schedule}", *self.lines])


class Lost(Exception):
    """A process died in a write past the cache that failed as well, and the page is gone."""


class Run:
    """One workload under one schedule."""

    def __init__(
        self, here: Here, workload: Workload, schedule: Schedule, disk: SimulatedDisk | None = None
    ) -> None:  # fmt: skip
        self.kernel = here.kernel = Kernel(schedule.seed, disk)
        self.witness = Witness()
        self.schedule = schedule
        self.deaths: dict[str, int] = {}
        self.points = self.looks = 0
        self.points_seen: list[Call] | None = None  # the call at each point, if a caller wants to know
        self._random = random.Random(schedule.seed)
        self._workload = workload
        self.actors = [
            Actor(self.kernel.process(name), self.witness)
            for name, _ in zip("abcde", workload.scripts, strict=False)
        ]

    def play(self) -> str:
        """What is wrong; "" if nothing."""
        try:
            first = self.actors[0]
            if self._workload.before:
                self._alone(first, self._workload.before)
            self._together()
            wrong = self.witness.complaint()
            if not wrong:
                self._settle()
                wrong = self.witness.complaint()
            return wrong
        except Lost:
            return self._after_a_loss()
        except Wrong as wrong:
            return str(wrong)
        except CRASHES as error:
            return f"P9: crashed: {error!r}"
        finally:
            self.kernel.shut_down()

    def _after_a_loss(self) -> str:
        """A process that goes on meets damage; one that comes after all have ended finds a power cut."""
        try:
            self._judge(self.kernel.disk.after_kill(), "all killed behind a loss", power=True)
        except Wrong as wrong:
            return str(wrong)
        return self.witness.complaint()

    def lines(self) -> list[str]:
        told = [f"  {op}" for op in self.witness.ops]
        return told + [f"  {name} died at {at}" for name, at in self.deaths.items()]

    # ── who goes on ────────────────────────────────────────────────────────────────

    def _alone(self, actor: Actor, script: Script) -> None:
        actor.process.begin(lambda: script(actor))
        while actor.process.go() is not None:
            pass

    def _together(self) -> None:
        for actor, script in zip(self.actors, self._workload.scripts, strict=True):
            actor.process.begin(lambda actor=actor, script=script: script(actor))  # type: ignore[misc]
        marks, fine, behind = self.schedule.marks(), self.schedule.fine, False
        due: Fault | None = None  # a process is to die inside such a call, or it is to fail

        def stop(call: Call) -> bool:
            nonlocal behind
            changes = call.kind not in READING
            counts, behind = fine or changes or behind, changes
            self.points += counts
            if self.points_seen is not None and counts:
                self.points_seen.append(call)
            if due and due[0] == call.kind:
                return True
            return call.kind == "pause" or (counts and self.points in marks)

        turn, point, deadly = 0, 0, False
        while any(not each.process.idle for each in self.actors):
            actor = self.actors[turn % len(self.actors)]
            call = actor.process.go(stop)
            if call is None:
                turn += 1
                continue
            if actor.process.steps > OPERATION_STEPS_MAX:
                raise Wrong(f"P12: no progress: {self.witness.ops[-1]}")
            fresh, point = self.points if self.points != point else 0, self.points
            if fresh in self.schedule.looks:
                self._look(f"before {actor.name}'s {call} (point {point})")
            if fresh in self.schedule.faults:
                due, deadly = self.schedule.faults[fresh], False
            if fresh in self.schedule.kills:
                due, deadly = self.schedule.kills[fresh], True
                if due is None:
                    self._kill(actor, None)
            if due and due[0] == call.kind:
                fault, due = due[1], None
                if deadly:
                    self._kill(actor, fault)
                else:
                    self.kernel.disk.strike(fault)
            if not actor.process.alive:
                turn += 1
            elif fresh in self.schedule.switches:
                turn = self.schedule.switches[fresh]
            elif call.kind == "pause":
                turn += 1

    def _kill(self, actor: Actor, inside: int | None) -> None:
        actor.process.kill(inside=inside)
        self.deaths[actor.name] = self.witness.tick()
        if self.kernel.disk.has_forgotten():
            raise Lost

    # ── looking ────────────────────────────────────────────────────────────────────

    def _look(self, where: str) -> None:
        """Had all been killed here, or had the power gone."""
        self.looks += 1
        if self._random.random() < 0.4:
            self._judge(self.kernel.disk.after_kill(), f"all killed {where}", power=False)
        self._cut_power(where)

    def _cut_power(self, where: str) -> None:
        fate = nothing_but_the_platter() if self._random.random() < 0.4 else draw(self._random)
        survivor = self.kernel.disk.after_power(fate)
        self._judge(survivor, f"power cut {where}, {fate}", power=True)

    def _judge(self, survivor: SimulatedDisk, where: str, *, power: bool) -> View:
        found, verdict, next_id = reopened(survivor, where)
        if verdict == "clean" and not power:
            self._may_be_clean(where)
        wrong = self.witness.found(found, power=power, now_ms=int(self.kernel.wall * 1000))
        if wrong:
            raise Wrong(f"{wrong} ({where})")
        if next_id <= max(self.witness.ids.values(), default=0):
            raise Wrong(f"P3: id {next_id} is given again ({where})")
        return found

    def _may_be_clean(self, where: str) -> None:
        """P7: not if a process changed something, and neither closed nor died before others did or opened."""
        for actor in self.actors:
            changed, after = 0, 0
            for op in self.witness.ops:
                if op.who == actor.name:
                    if op.kind in ("open", "close") or op.error == "StoreFailed":
                        changed = 0
                    elif op.returned and (op.bodies or op.got or op.of):
                        changed = op.end
                elif op.kind in ("open", "close"):
                    after = max(after, op.end)
            if changed and after < self.deaths.get(actor.name, FOREVER):
                raise Wrong(f"P7: called clean, and {actor.name} has not closed ({where})")

    def _settle(self) -> None:
        """All scripts are over: living processes agree with each other and with the log; then they close."""
        disk = self.kernel.disk
        found = self._judge(disk.after_kill(), "all killed at the end", power=False)
        self._cut_power("at the end")
        closed = False
        for actor in self.actors:
            if actor.broker and actor.process.alive and not disk.fired:
                self._alone(actor, Actor.see_all)
                if actor.seen != found:
                    raise Wrong(f"fold: {actor.name} knows {actor.seen}, and in the log is {found}")
        for actor in self.actors:
            if actor.broker and actor.process.alive:
                closed = closed or not actor.read_only
                self._alone(actor, Actor.close)
        in_order = closed and not disk.fired
        survivor = disk.after_power(nothing_but_the_platter()) if in_order else disk.after_kill()
        again, verdict, _ = reopened(survivor, "after all have closed")
        if again != found:
            raise Wrong(f"P1: after all have closed there is {again}, and there was {found}")
        # A segment whose maker died over it makes it open, until it is used.
        if in_order and verdict != "clean" and not (self.deaths and verdict == "open"):
            raise Wrong(f"P7: all have closed, and it is called {verdict}")


def reopened(disk: SimulatedDisk, where: str) -> tuple[View, str, int]:
    """What the next process finds, once no other is there any more; the verdict; and the id it gives next."""
    try:
        store = Store(
            PATH, sync="always", read_only=False, segment_bytes=1024, clock=None, disk=disk, background=False
        )
        broker = Broker(store)
        name = next(iter(broker.queues()), "q")  # one that is there, so that no declaration comes before it
        return view(broker), store.replica.verdict.value, broker.queue(name).publish(b"")
    except CorruptStore as error:
        raise Wrong(f"P7: a crash is called damage: {error!r} ({where})") from error
    except CRASHES as error:
        raise Wrong(f"P9: it does not open: {error!r} ({where})") from error


# ── schedules ──────────────────────────────────────────────────────────────────────────


def some_schedule(seed: int, points: int, processes: int, *, fine: bool) -> Schedule:
    """One for a run of about so many *points*."""
    rng = random.Random(seed)

    def somewhere() -> int:
        return rng.randrange(1, points + 1)

    count = rng.choice((1, 2, 2, 3, 3, 4, 6, 12, points // 20, points // 4))
    switches = {somewhere(): rng.randrange(processes) for _ in range(count)}
    near = sorted(switches)[: 1 + seed % 2]  # what a switch leaves open shows soon behind it
    looks = frozenset({somewhere(), *(at + rng.randrange(1, 30) for at in near)})
    kills: dict[int, Fault | None] = {}
    faults: dict[int, Fault] = {}
    for _ in range(rng.choice((0, 1, 1, 2))):
        kills[somewhere()] = rng.choice((None, None, *INSIDE))
    if rng.random() < 0.2:
        faults[somewhere()] = rng.choice(FAULTS)
    return Schedule(switches, kills, faults, looks, fine, seed)


def schedules(here: Here, workload: Workload, seeds: Iterable[int]) -> Iterator[Schedule]:
    """Every third is a fine one."""
    points = {fine: measure(here, workload, fine=fine) for fine in (False, True)}
    for seed in seeds:
        fine = seed % 3 == 2
        yield some_schedule(seed, points[fine], len(workload.scripts), fine=fine)


def explore(here: Here, name: str, seeds: Iterable[int]) -> tuple[int, Violation | None]:
    """Random schedules of one workload: how many runs, and what was found first."""
    return _try(here, name, schedules(here, WORKLOADS[name], seeds))


def explore_deaths(here: Here, name: str, seed: int, *, every: int = 1) -> tuple[int, Violation | None]:
    """One schedule; at each of its points the process there dies, or dies inside its call, or it fails."""
    (drawn,) = schedules(here, WORKLOADS[name], [seed])
    plain = replace(drawn, kills={}, faults={}, looks=frozenset())
    run = Run(here, WORKLOADS[name], plain)
    run.points_seen = []
    wrong = run.play()
    if wrong:
        return 1, Violation(wrong, name, plain, run.lines())
    return _try(here, name, _deaths(plain, run.points_seen, every, seed))


def _deaths(plain: Schedule, calls: list[Call], every: int, seed: int) -> Iterator[Schedule]:
    rng = random.Random(seed)
    for point in range(1 + rng.randrange(every), len(calls) + 1, every):
        looks, kind = frozenset({point + 1 + rng.randrange(20)}), calls[point - 1].kind
        yield replace(plain, kills={point: None}, looks=looks)
        yield from (replace(plain, kills={point: each}, looks=looks) for each in INSIDE if each[0] == kind)
        yield from (replace(plain, faults={point: each}, looks=looks) for each in FAULTS if each[0] == kind)


def _try(here: Here, name: str, several: Iterable[Schedule]) -> tuple[int, Violation | None]:
    runs = 0
    for schedule in several:
        runs += 1
        found = attempt(here, name, schedule)
        if found:
            return runs, found
    return runs, None


def attempt(here: Here, name: str, schedule: Schedule) -> Violation | None:
    run = Run(here, WORKLOADS[name], schedule)
    wrong = run.play()
    return Violation(wrong, name, schedule, run.lines()) if wrong else None


def measure(here: Here, workload: Workload, *, fine: bool) -> int:
    """How many points it has, if no process is interrupted."""
    run = Run(here, workload, Schedule(fine=fine))
    run.play()
    return max(1, run.points)


def shorten(here: Here, violation: Violation) -> Violation:
    """The shortest schedule that still breaks the same promise: leave out what is not needed."""
    best, promise = violation, violation.text[:3]
    again = True
    while again:
        again = False
        for shorter in _shorter(best.schedule):
            found = attempt(here, violation.workload, shorter)
            if found and found.text[:3] == promise:
                best, again = found, True
                break
    return best


def _shorter(schedule: Schedule) -> Iterator[Schedule]:
    for name in ("looks", "switches", "kills", "faults"):
        items = getattr(schedule, name)
        size = len(items)
        while size:
            for start in range(0, len(items), size):
                left = sorted(items)[:start] + sorted(items)[start + size :]
                fewer = frozenset(left) if name == "looks" else {step: items[step] for step in left}
                yield replace(schedule, **{name: fewer})
            size //= 2
