"""No loop of mq leaves a `try` or a `with` for one bytecode, in which a signal could come.

    with store.turn.mutex:
        for queue in queues:
            if queue.ready:          when this is false, CPython 3.12 and later jump back
                return queue         to the loop's head by a JUMP_BACKWARD of its own

The compiler adds that jump when it has noted already which handler protects what, so no
handler protects it.  And there CPython 3.13 looks for signals: an exception that a handler
raises then leaves the `with` block without its exit, and the lock stays locked.  The same goes for
each `while` whose condition ends the loop.

A loop in a function of its own has no such gap: the call of that function is protected.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parents[1] / "mq"

GAP = """
def first(mutex, queues):
    with mutex:
        for queue in queues:
            if queue is not None:
                return queue
"""
NO_GAP = """
def first(mutex, queues):
    with mutex:
        return look(queues)

def look(queues):
    for queue in queues:
        if queue is not None:
            return queue
"""


def codes_of(text: str, name: str) -> Iterator[CodeType]:
    rest = [compile(text, name, "exec")]
    while rest:
        code = rest.pop()
        yield code
        rest += [each for each in code.co_consts if isinstance(each, CodeType)]


def gaps_of(code: CodeType) -> Iterator[str]:
    """The jumps back that a handler protects no more, but protects what comes before them."""
    listing = list(dis.get_instructions(code))
    for index, (condition, jump) in enumerate(pairwise(listing)):
        if jump.opname != "JUMP_BACKWARD" or not condition.opname.startswith(("POP_JUMP", "NOT_TAKEN")):
            continue
        handler = handler_of(code, listing[max(0, index - 1)].offset)
        if handler != handler_of(code, jump.offset) and releases(listing, handler):
            yield f"{code.co_filename}: {code.co_qualname}: the loop at {jump.argval}"


def handler_of(code: CodeType, offset: int) -> int | None:
    for entry in dis.Bytecode(code).exception_entries:
        if entry.start <= offset < entry.end:
            return entry.target
    return None


def releases(listing: list[dis.Instruction], handler: int | None) -> bool:
    """Whether a `with`, a `finally` or an `except BaseException` begins there.

    An `except` of something else only translates; and what the compiler adds by itself, for
    comprehensions and generators, does not matter here.
    """
    begin = [each for each in listing if handler is not None and each.offset >= handler][:4]
    if not begin or begin[0].opname != "PUSH_EXC_INFO":
        return False
    catches = "CHECK_EXC_MATCH" in [each.opname for each in begin]
    return not catches or begin[1].argval == "BaseException"


def test_no_loop_leaves_what_protects_it() -> None:
    files = sorted(ROOT.rglob("*.py"))
    found = [gap for file in files for code in codes_of(file.read_text(), str(file)) for gap in gaps_of(code)]
    assert not found, "\n".join(["put these loops into functions of their own:", *found])


def test_a_gap_is_found_where_the_compiler_makes_one() -> None:
    found = [gap for code in codes_of(GAP, "gap") for gap in gaps_of(code)]
    assert bool(found) == (sys.version_info >= (3, 12))  # before, a condition jumps back by itself
    assert not [gap for code in codes_of(NO_GAP, "none") for gap in gaps_of(code)]
