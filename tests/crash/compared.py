"""Compare-and-set of a text that a program keeps with a queue, as a witness judges it.

Each new text is another one.  So each text is taken the place of once at most, and all that were ever set
are a chain: "" → a1 → b1 → a2 …, of which the last one is there.
"""

from __future__ import annotations

from collections.abc import Iterator

from .op import Op
from .routed import Sure
from .view import View

KEY = "k"


class Compared:
    def __init__(self, ops: list[Op]) -> None:
        self._ops = ops

    def _of(self, kind: str, queue: str) -> list[Op]:
        return [op for op in self._ops if op.kind == kind and op.queue == queue]

    def complaints(self) -> Iterator[str]:
        for queue in {op.queue for op in self._ops if op.kind == "compare"}:
            yield from self._chain(queue)
            for op in self._of("read meta", queue):
                if op.returned:
                    yield from self._read(op)

    def _chain(self, queue: str) -> Iterator[str]:
        won: dict[str, Op] = {}
        for op in self._of("compare", queue):
            if op.returned and op.value:
                if op.expect in won:
                    yield f"P12: two took the place of {op.expect!r}: {won[op.expect]}, and {op}"
                won[op.expect] = op
            elif op.returned and not self._may_be_gone(op):
                yield f"P12: {op.expect!r} was there all the time: {op}"

    def _may_be_gone(self, op: Op) -> bool:
        """Whether the text that was expected may not have been there, or not any more."""
        of_queue = self._of("compare", op.queue)
        sets = [each for each in of_queue if each.text == op.expect]
        if op.expect and not any(each.returned and each.before(op) for each in sets):
            return True
        others = [each for each in of_queue if each.expect == op.expect and each is not op]
        return any(_may_have_won(each) and each.begin < op.end for each in others)

    def _read(self, op: Op) -> Iterator[str]:
        """The text was set by one that had begun, and was not taken the place of before."""
        of_queue = self._of("compare", op.queue)
        sets = [each for each in of_queue if each.text == op.text and _may_have_won(each)]
        if op.text and not any(each.begin < op.end for each in sets):
            yield f"P3: no process has set it: {op}"
        for each in of_queue:
            if each.expect == op.text and each.returned and each.value and each.before(op):
                yield f"P12: {each} had set another one: {op}"

    def found(self, view: View, sure: Sure) -> Iterator[str]:
        """All that surely won are in the chain that ends with the text that is there."""
        for queue in {op.queue for op in self._ops if op.kind == "compare"}:
            before = {op.text: op.expect for op in self._of("compare", queue) if _may_have_won(op)}
            text, chain = view.meta.get(queue, {}).get(KEY, ""), set()
            while text:
                if text in chain or text not in before:
                    yield f"P3: {queue!r} has {view.meta[queue]}, which was never set"
                    break
                chain.add(text)
                text = before[text]
            for op in self._of("compare", queue):
                if op.value and sure(op) and op.text not in chain:
                    yield f"P1: it won, and is gone: {op}, and there is {view.meta.get(queue)}"


def _may_have_won(op: Op) -> bool:
    return op.perhaps and bool(op.value or not op.returned)
