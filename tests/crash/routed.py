"""Fan-outs and subscriptions, as a witness judges them: which queue may have a message, and which must.

    subscribe   ├──────┤                    publish after it: the queue gets the message
    publish         ├──────┤                beside it: by the log, where `bound_at` tells
    subscribe            ├──────┤ since=0   before it: as far as the topic retained the message by then

One topic, and patterns that fit it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .op import FOREVER, Op
from .view import View

Sure = Callable[[Op], bool]  # whether an operation surely counts: it returned, or it is on the disk


def returned(op: Op) -> bool:
    return op.returned


class Routes:
    def __init__(self, ops: list[Op], ids: dict[bytes, int]) -> None:
        self._ops, self._ids = ops, ids

    def _of(self, *kinds: str, queue: str = "") -> list[Op]:
        return [op for op in self._ops if op.kind in kinds and queue in ("", op.queue)]

    def queues(self) -> set[str]:
        """Those that have ever subscribed, perhaps."""
        return {op.queue for op in self._of("subscribe")}

    def may_get(self, published: Op, queue: str) -> bool:
        return any(
            each.perhaps and (each.since or each.begin < published.end) and not self._is_over(each, published)
            for each in self._of("subscribe", queue=queue)
        )

    def _is_over(self, subscribed: Op, published: Op) -> bool:
        """Whether the queue had taken the pattern back by then."""
        return any(
            each.returned and each.pattern == subscribed.pattern
            and subscribed.before(each) and each.before(published)
            for each in self._of("unsubscribe", queue=subscribed.queue)
        )  # fmt: skip

    def must_get(self, published: Op, queue: str, by: int = FOREVER + 1, sure: Sure = returned) -> bool:
        """Whether *published*, which is sure, has come to *queue* by then."""
        return any(
            sure(each) and each.end < by
            and (each.before(published) or (each.since and self.retains_all(published)))
            and not self._may_be_taken_back(each, published)
            for each in self._of("subscribe", queue=queue)
        )  # fmt: skip

    def _may_be_taken_back(self, subscribed: Op, published: Op) -> bool:
        return any(
            each.perhaps and each.pattern == subscribed.pattern
            and not each.before(subscribed) and each.begin < published.end
            for each in self._of("unsubscribe", queue=subscribed.queue)
        )  # fmt: skip

    def retains_all(self, published: Op) -> bool:
        """Whether the topic retains *published* for good, for it retains more than there ever is."""
        count = len(self._of("fan_out"))
        limits = [each for each in self._of("retain") if each.perhaps]
        return any(each.returned and each.before(published) for each in limits) and all(
            each.value >= count for each in limits
        )

    # ── what is found ──────────────────────────────────────────────────────────────

    def found(self, view: View, is_gone: Callable[[str, bytes], bool], sure: Sure) -> Iterator[str]:
        """*is_gone*: whether a message that was in a queue may have left it."""
        yield from self._bindings(view, sure)
        yield from self._in_part(view, is_gone)
        yield from self._retained(view, sure)

    def _bindings(self, view: View, sure: Sure) -> Iterator[str]:
        for op in self._of("subscribe", "unsubscribe"):
            others = self._of("unsubscribe" if op.kind == "subscribe" else "subscribe", queue=op.queue)
            undone = any(
                each.perhaps and each.pattern == op.pattern and not each.before(op) for each in others
            )
            there = (op.queue, op.pattern) in view.bindings
            if sure(op) and not undone and there != (op.kind == "subscribe"):
                yield f"P1: the subscription is {'there' if there else 'gone'}: {op}"

    def _in_part(self, view: View, is_gone: Callable[[str, bytes], bool]) -> Iterator[str]:
        """By the log's own order: the queue has what came behind its subscription."""
        fanned = {body for op in self._of("fan_out") for body in op.bodies}
        there = {(each.queue, each.body) for each in view.messages}
        ids = dict(view.retained) | {each.id: each.body for each in view.messages}
        for id, body in ids.items():
            for queue, pattern in view.bindings if body in fanned else ():
                behind = id > view.bindings[queue, pattern]
                if behind and (queue, body) not in there and not is_gone(queue, body):
                    yield f"P4: {body[:24]!r} is there, and not in {queue!r}, which subscribed before"

    def _retained(self, view: View, sure: Sure) -> Iterator[str]:
        retains = self._of("retain")
        ids = [id for id, _ in view.retained]
        if len(ids) > max((each.value for each in retains if each.perhaps), default=0):
            yield f"history: {len(ids)} messages are retained: {ids}"
        if not any(map(sure, retains)):
            return
        here = {body for _, body in view.retained}
        full = len(ids) >= min(each.value for each in retains if each.perhaps)
        for op in self._of("fan_out"):
            body = op.bodies[0]
            if not sure(op) or body in here or not any(each.before(op) for each in retains):
                continue
            if not full or self._ids[body] > ids[0]:
                yield f"P1: the topic retains {ids}, and not {body[:24]!r}: {op}"

    def read_back(self, op: Op) -> Iterator[str]:
        """What was read of what the topic retains: in order, and without a gap, but for what may be over."""
        ids, here = [id for id, _ in op.read], {body for _, body in op.read}
        if ids != sorted(set(ids)):
            yield f"history: out of order: {ids}: {op}"
        least = min((each.value for each in self._of("retain") if each.perhaps), default=0)
        fanned = [each for each in self._of("fan_out") if each.perhaps and each.begin < op.end]
        for each in fanned:
            if each.returned and each.before(op) and each.bodies[0] not in here:
                id = self._ids[each.bodies[0]]
                later = [other for other in fanned if self._ids.get(other.bodies[0], id + 1) > id]
                if len(later) < least:
                    yield f"P1: {each.bodies[0][:24]!r} is retained, and was not read: {op}"
