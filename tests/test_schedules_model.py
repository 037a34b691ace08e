"""Whatever becomes of a store with schedules, each tick is published as often as a page of plain Python says.

Hypothesis declares, changes and takes back schedules, lets time pass, opens the store again, also as after a
kill, and has the cleaner and checkpoints come by.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engines import ENGINES, Engine
from fakes import FakeClock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mq.delivery.schedules import CATCH_UP_MAX, LATE_MS
from mq.engine import scheduler

NAMES = ["s", "t", "u"]


@dataclass
class Model:
    every: int  # ms
    missed: str
    next: int
    size: int

    def ticks(self, now: int) -> int:
        """How many messages come by *now*; the next tick is later then."""
        if self.next > now:
            return 0
        due = (now - self.next) // self.every + 1
        late = now - (self.next + (due - 1) * self.every)  # the last of them
        self.next += due * self.every
        if self.missed == "one":
            return 1
        if self.missed == "all":
            return min(due, CATCH_UP_MAX)
        return int(late <= min(LATE_MS, self.every // 2))


class Store(RuleBasedStateMachine):
    kind: type[Engine]

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.engine = self.kind(Path(self.directory.name), 0)
        self.models: dict[str, Model] = {}
        self.published = dict.fromkeys(NAMES, 0)

    @initialize()
    def begin(self) -> None:
        self.broker = self.engine.open(clock=self.clock, sync="never", segment_bytes=4096)

    def teardown(self) -> None:
        self.engine.close()
        self.directory.cleanup()

    def now(self) -> int:
        return int(self.clock.now * 1000)

    def do_ticks(self) -> None:
        scheduler.tick(self.broker._store)
        for name, model in self.models.items():
            self.published[name] += model.ticks(self.now())

    @rule(
        name=st.sampled_from(NAMES), every=st.sampled_from([500, 1000, 7000, 60_000]),
        missed=st.sampled_from(["one", "all", "skip"]), size=st.sampled_from([0, 10, 5000]),
    )  # fmt: skip
    def schedule(self, name: str, every: int, missed: Any, size: int) -> None:
        self.do_ticks()
        self.broker.schedule(name, name, b"x" * size, every=every / 1000, missed=missed)
        known = self.models.get(name)
        if known and known.every == every:
            known.missed, known.size = missed, size
        else:
            self.models[name] = Model(every, missed, self.now() + every, size)

    @rule(name=st.sampled_from(NAMES))
    def unschedule(self, name: str) -> None:
        self.do_ticks()
        assert self.broker.unschedule(name) == (self.models.pop(name, None) is not None)

    @rule(seconds=st.sampled_from([0, 0.25, 1, 3.5, 8, 120, 2000]))
    def let_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([0.25, 3.5, 700]), killed=st.booleans())
    def open_again(self, seconds: float, killed: bool) -> None:
        if killed:
            self.engine.abandon(self.broker)
            self.clock.advance(seconds)
            self.broker = self.engine.open(clock=self.clock, sync="never", segment_bytes=4096)
        else:
            self.broker.close()
            self.clock.advance(seconds)
            self.broker = self.engine.reopen(self.broker)

    @rule(checkpoint_bytes=st.sampled_from([0, 1 << 30]))
    def maintain(self, checkpoint_bytes: int) -> None:
        for name in NAMES:
            self.broker.queue(name).purge()
        self.broker._store.maintenance.run(checkpoint_bytes)

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        if not hasattr(self, "broker"):
            return
        self.do_ticks()
        for name in NAMES:
            assert self.broker.queue(name).stats().published == self.published[name]
        found = {each.name: each for each in self.broker.schedules()}
        assert found.keys() == self.models.keys()
        for name, model in self.models.items():
            assert round(found[name].next_at.timestamp() * 1000) == model.next
            assert found[name].every == model.every / 1000


@pytest.mark.conformance
@pytest.mark.parametrize("kind", ENGINES.values(), ids=ENGINES)
def test_it_ticks_as_the_model_does(kind: type[Engine]) -> None:
    machine = type("Store", (Store,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
