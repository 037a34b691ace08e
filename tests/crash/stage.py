"""A stage for one interleaving: the director says which process does what, and how far.

stage.do("a", Actor.publish, "q")            to its end
stage.begin("b", Actor.take, "q")            from here on …
stage.until("b", "store", str(END))          … until it is about to make that call
stage.kill("b")
stage.finish("a")                            the rest of what it has begun
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .actor import Actor
from .disk import SimulatedDisk
from .driver import Wrong
from .fate import draw, nothing_but_the_platter
from .kernel import Call, Here
from .processes import Run, Schedule
from .scripts import Workload

WAITS_MAX = 2000  # pauses after which a process that waits would wait for ever
POWER_CUTS = 40  # fates drawn at one place


class Stage(Run):
    def __init__(self, here: Here, names: str = "abc", disk: SimulatedDisk | None = None) -> None:
        """*disk*: what another machine has left."""
        super().__init__(here, Workload((_nothing,) * len(names)), Schedule(), disk)
        self.here = here
        self.called = dict(zip(names, self.actors, strict=True))

    def __getitem__(self, name: str) -> Actor:
        return self.called[name]

    # ── which process does what ──────────────────────────────────────────────────────────────

    def do(self, name: str, method: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        self.begin(name, method, *args, **kwargs)
        self.finish(name)

    def begin(self, name: str, method: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        actor = self.called[name]
        actor.process.begin(lambda: method(actor, *args, **kwargs))

    def finish(self, *names: str) -> None:
        """Go on with these by turns, until all are done."""
        waits = 0
        while any(not self.called[name].process.idle for name in names):
            for name in names:
                self.called[name].process.go(lambda call: call.kind == "pause")
            waits += 1
            if waits > WAITS_MAX:
                raise Wrong(f"P12: {names} wait for ever")

    def as_far_as_it_gets(self, name: str, waits: int = 1) -> None:
        """Go on until it waits for another, for so many pauses, or is done."""
        for _ in range(waits):
            self.called[name].process.go(lambda call: call.kind == "pause")

    def until(self, name: str, kind: str, path: str = "", *, nth: int = 1) -> None:
        """Go on until it is about to make such a call, for the *nth* time; *path*: a part of it."""
        seen = 0

        def stop(call: Call) -> bool:
            nonlocal seen
            seen += call.kind == kind and (
                call.path == path if kind in ("load", "store") else path in call.path
            )
            return seen == nth

        call = self.called[name].process.go(stop)
        assert call, f"{name} never came to {kind} {path}"

    def past(self, name: str, kind: str, path: str = "") -> None:
        """Go on until such a call is done, and no further."""
        self.until(name, kind, path)
        self.called[name].process.go(lambda _: True)

    def kill(self, name: str, *, inside: int | None = None) -> None:
        self.called[name].process.kill(inside=inside)
        self.deaths[name] = self.witness.tick()

    # ── what is there then ─────────────────────────────────────────────────────────

    def look(self, where: str = "here", *, cuts: int = POWER_CUTS) -> None:
        """What would be found if all were killed now, or the power went."""
        self._judge(self.kernel.disk.after_kill(), f"all killed {where}", power=False)
        for fate in (nothing_but_the_platter(), *(draw(self._random) for _ in range(cuts))):
            self._judge(self.kernel.disk.after_power(fate), f"power cut {where}, {fate}", power=True)

    def end(self, *, cuts: int = POWER_CUTS) -> None:
        """Look, have all close, look again, and judge."""
        self.look("at the end", cuts=cuts)
        self._settle()
        wrong = self.witness.complaint()
        if wrong:
            raise Wrong(wrong)

    def shut_down(self) -> None:
        self.kernel.shut_down()


def _nothing(actor: Actor) -> None:
    pass
