"""Schedules, as a witness judges them: each tick is one message, none is missing, and none comes early.

    declared                                            next
    ───┼─────────────┼─────────────┼─────────────┼───────┼──►   so many messages has the queue ever had
       since         1             2             3

The message of a tick and the time of the next one are one record, or none: so both are counted in each
state that is found.  Only schedules with every= and missed="all", each with a queue of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from .op import Op
from .routed import Sure
from .view import View


class Ticked:
    def __init__(self, ops: list[Op]) -> None:
        self._ops = ops

    def _of(self, kind: str) -> list[Op]:
        return [op for op in self._ops if op.kind == kind]

    def target(self, body: bytes) -> str | None:
        """The queue in which a message with the body of a schedule belongs; None: nowhere."""
        name = body.split(b" ")[1].partition(b"#")[0].decode()
        return next((op.queue for op in self._of("schedule") if op.pattern == name), None)

    def found(self, view: View, sure: Sure, now_ms: int) -> Iterator[str]:
        """*now_ms*: wall time."""
        for op in self._of("schedule"):
            if op.pattern not in view.schedules:
                if sure(op):
                    yield f"P1: the schedule is gone: {op}"
                continue
            since, next = view.schedules[op.pattern]
            span = int(op.value)
            count, rest = divmod(next - since, span)
            published, acked = view.totals.get(op.queue, (0, 0))
            there = sum(each.queue == op.queue for each in view.messages)
            if rest or published != count - 1:
                yield f"ticks: {published} messages, and the next tick is number {count}, {rest} ms: {op}"
            if there != published - acked:
                yield f"P1: of {published} messages {acked} were acked, and {there} are there: {op}"
            if next > now_ms + span:
                yield f"ticks: the next one is due {next - now_ms} ms from now: {op}"
            late = [each for each in self._of("tick") if sure(each) and next <= each.begin_ms[1]]
            if late and min(op.end for op in self._of("schedule")) < late[0].begin:
                yield f"ticks: one was due at {next}, and was not done: {late[0]}"
