"""What the processes were told, against what the store holds: the promises, by number.

Notes come from one process after the other, so they are one sequence.  A check at the
end of a round compares it with what a new process found, and both go on from there:
what was found is on the disk now, and what was not must never come back.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import noted

Found = dict[str, Any]


class Ledger:
    def __init__(self, notes: str) -> None:
        self._notes = notes
        self._read = 0
        self.next_number = 0
        self.tried: dict[int, str] = {}  # queue, of every message that was ever tried to publish
        self.ids: dict[int, int] = {}
        self.groups: dict[int, tuple[int, ...]] = {}
        self.returned: set[int] = set()
        self.safe: set[int] = set()  # returned, and on the disk
        self.settling: set[int] = set()  # an ack was tried
        self.settled: set[int] = set()
        self.settled_safe: set[int] = set()  # and it is on the disk
        self.gone: set[int] = set()  # a look did not find it
        self.refused: set[int] = set()  # DiskFull: nothing was published
        self.attempts: dict[int, int] = {}
        self.wrong: list[str] = []  # what a process noticed itself
        self.failures: list[str] = []
        self.may_be_clean = False  # an opening or a closing has begun, and nothing was appended since
        self.waits = False  # a publish that returned is on the disk
        self._returned_then: set[int] = set()  # when the flush that runs began
        self._settled_then: set[int] = set()
        self._trying: tuple[int, ...] = ()

    def size(self) -> int:
        """Bytes of notes, read or not."""
        return os.path.getsize(self._notes) if os.path.exists(self._notes) else 0

    def read(self, *, late: bool = False) -> None:
        """Take in what was noted since.

        *late*: after the power began to go.  A real cut stops the process with the disk;
        here it lives on for a moment, and an fdatasync that races with the shutdown has been
        seen to return 0 on ext4.  So what was tried then counts, and no answer does.
        """
        notes, self._read = noted.read(self._notes, self._read)
        for verb, *words in notes:
            if verb not in ("try", "failed"):
                self._trying = ()
            if verb in ("opening", "closing"):
                self.may_be_clean = True
            elif verb in ("told", "got", "acked"):
                self.may_be_clean = False
            if late and verb not in ("try", "ack", "altered", "failed"):
                verb = "told_late" if verb == "told" else ""
            getattr(self, f"_{verb}", self._other)(*words)

    # ── one note ───────────────────────────────────────────────────────────────────

    def _other(self, *words: str) -> None:
        pass

    def _open(self, sync: str) -> None:
        self.waits = sync == "always"
        self._synced(self.returned, self.settled)  # recovery syncs what it finds

    def _try(self, queue: str, *numbers: str) -> None:
        group = self._trying = tuple(map(int, numbers))
        self.next_number = group[-1] + 1
        for number in group:
            self.tried[number], self.groups[number] = queue, group
        self._settled_then = set(self.settled)

    def _told_late(self, queue: str, *pairs: str) -> None:
        self.ids.update(tuple(map(int, pair.split(":"))) for pair in pairs)

    def _told(self, queue: str, *pairs: str) -> None:
        self._told_late(queue, *pairs)
        self.returned.update(int(pair.partition(":")[0]) for pair in pairs)
        if self.waits:
            self._synced(self.returned, self._settled_then)

    def _got(self, queue: str, number: str, attempts: str) -> None:
        own = int(number)
        if own in self.settled:
            self.wrong.append(f"P2: {own} was acked and is delivered again")
        if own in self.gone:
            self.wrong.append(f"P2: {own} was gone and is delivered again")
        if self.tried.get(own) != queue:
            self.wrong.append(f"P3: {own} in {queue!r} was never published there")
        self.attempts[own] = int(attempts)

    def _altered(self, queue: str, number: str, attempts: str) -> None:
        self.wrong.append(f"P3: {number} in {queue!r} is not as it was published")

    def _ack(self, queue: str, number: str) -> None:
        self.settling.add(int(number))

    def _acked(self, queue: str, number: str) -> None:
        self.settled.add(int(number))

    def _release(self, queue: str, number: str) -> None:
        self.attempts.pop(int(number), None)  # taken back

    def _flush(self) -> None:
        self._returned_then, self._settled_then = set(self.returned), set(self.settled)

    def _flushed(self) -> None:
        self._synced(self._returned_then, self._settled_then)

    def _synced(self, returned: set[int], settled: set[int]) -> None:
        self.safe |= returned
        self.settled_safe |= settled

    def _closing(self) -> None:
        self._flush()

    def _closed(self) -> None:
        self._flushed()

    def _failed(self, *words: str) -> None:
        self.failures.append(" ".join(words))
        if words[0] == "DiskFull":
            self.refused |= set(self._trying)

    # ── the check ──────────────────────────────────────────────────────────────────

    def complaints(self, found: Found, *, power: bool) -> list[str]:
        """The promises that *found* breaks.  *power*: what was not synced may be lost."""
        wrong = [*self.wrong]
        if found["verdict"] not in ("clean", "open", "torn"):
            wrong.append(f"P9: the verdict is {found['verdict']}")
        if found["verdict"] == "clean" and not self.may_be_clean:
            wrong.append("P7: a store that a process has appended to is called clean")
        here: dict[int, int] = {}
        for queue, held in found["queues"].items():
            for number, id, attempts, whole in held["messages"]:
                wrong += self._about(queue, number, id, attempts, whole, power=power)
                if number in here:
                    wrong.append(f"P6: {number} is there twice, as {here[number]} and {id}")
                here[number] = id
            wrong += self._order(queue, held)
        must = (self.safe if power else self.returned) - self.settling - self.gone
        if lost := must - here.keys():
            wrong.append(f"P1: {sorted(lost)} returned from publish and are gone")
        if back := (self.settled_safe if power else self.settled) & here.keys():
            wrong.append(f"P2: {sorted(back)} were acked and are back")
        if back := self.gone & here.keys():
            wrong.append(f"P8: {sorted(back)} were gone and are back")
        if there := self.refused & here.keys():
            wrong.append(f"P6: {sorted(there)} were refused, the disk being full, and are there")
        for group in set(self.groups.values()):
            parts = [each in here for each in group]
            if any(parts) and not all(parts) and not self.settling & set(group):
                wrong.append(f"P4: of {group} only a part is there")
        return wrong

    def _about(
        self, queue: str, number: int, id: int, attempts: int, whole: bool, *, power: bool
    ) -> list[str]:
        wrong = []
        if self.tried.get(number) != queue:
            wrong.append(f"P3: {number} (id {id}) in {queue!r} was never published there")
        if not whole:
            wrong.append(f"P3: {number} (id {id}) is not as it was published")
        if self.ids.get(number, id) != id:
            wrong.append(f"P3: {number} had id {self.ids[number]} and has {id} now")
        if not power and attempts < self.attempts.get(number, 0):
            wrong.append(f"attempts: {number} had {self.attempts[number]} and has {attempts} now")
        return wrong

    def _order(self, queue: str, held: Found) -> list[str]:
        numbers = {id: number for number, id, _, _ in held["messages"]}
        in_order = [(id, numbers[id]) for id in held["ready"]]
        for (id, number), (next_id, next_number) in pairwise(in_order):
            if next_id <= id or next_number <= number:
                return [f"P5: in {queue!r}, {next_number} comes after {number}"]
        return []

    def settle(self, found: Found) -> None:
        """Go on from what was *found*: that is durable, and the rest is over for good."""
        self.may_be_clean = True  # and looking appends nothing
        here = {
            number: (id, attempts)
            for held in found["queues"].values()
            for number, id, attempts, _ in held["messages"]
        }
        self.gone = self.tried.keys() - here.keys()
        self.ids.update({number: id for number, (id, _) in here.items()})
        self.returned, self.safe = set(here), set(here)
        self.settling -= here.keys()
        self.settled -= here.keys()
        self.settled_safe = set(self.settled)
        self.attempts.update({number: attempts for number, (_, attempts) in here.items()})
