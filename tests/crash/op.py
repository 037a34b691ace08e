"""One call of one process: what was asked, when, what came of it, and what was handed out."""

from __future__ import annotations

from dataclasses import dataclass, field

FOREVER = 1 << 60
Copy = tuple[str, bytes]  # a queue, and a body that is there


@dataclass(eq=False)
class Op:
    """One call of one process.  *begin* and *end* count the beginnings and ends of all."""

    who: str
    kind: str
    queue: str  # "" for a topic
    begin: int
    begin_ms: tuple[int, int]  # store time, wall time
    end: int = FOREVER
    end_ms: tuple[int, int] = (FOREVER, FOREVER)
    outcome: str = "unknown"  # "returned", "stale", "nothing" (it raised, and nothing was done)
    bodies: tuple[bytes, ...] = ()  # published
    limit: int = 0  # of a receive
    got: list[Taken] = field(default_factory=list)
    read: list[tuple[int, bytes]] = field(default_factory=list)  # of what a topic retains: id and body
    of: Taken | None = None  # what is settled
    when: int = 0  # the due of a nack, the deadline of an extension, ms
    latest: int = 0  # of a backoff, which is spread: when it is over at the latest
    rests: bool = False  # a nack with a backoff: its due is in store time, and not in wall time
    value: float = 0.0  # the option that is set, or was read; how many a topic retains; ms between two ticks
    pattern: str = ""  # of a subscription; the name of a schedule
    since: bool = False  # a subscription that starts in the past
    expect: str = ""  # of a compare-and-set: the text that was there; "": none
    text: str = ""  # and the new one; or what was read
    syncs: bool = False  # once it has returned, all before it is on the disk
    error: str = ""

    @property
    def returned(self) -> bool:
        return self.outcome == "returned"

    @property
    def perhaps(self) -> bool:
        """Whether it may have happened."""
        return self.outcome in ("returned", "unknown")

    def before(self, other: Op) -> bool:
        return self.end < other.begin

    def __str__(self) -> str:
        sizes = ", ".join(body.rstrip(b"\xa5").decode() for body in self.bodies)
        about = sizes or (str(self.of) if self.of else "") or self.pattern + " since" * self.since
        if self.kind == "compare":
            about = f"{self.expect} → {self.text}"
        got = " → " + ", ".join(map(str, self.got)) if self.got else ""
        span = f"{self.begin}–{'' if self.end == FOREVER else self.end}"
        asked = f"{self.who} {self.kind}({self.queue} {about})"
        return f"{span:>8} {asked}{got} {self.outcome} {self.error}".rstrip()


@dataclass(eq=False)
class Taken:
    """A delivery that was handed out."""

    body: bytes
    id: int
    receipt: int
    attempts: int
    deadline: int
    op: Op
    settled: list[Op] = field(default_factory=list)

    def __str__(self) -> str:
        name = self.body.rstrip(b"\xa5").decode()
        return f"{name}#{self.id} attempt {self.attempts} at {self.receipt}"
