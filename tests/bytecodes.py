"""A call before each bytecode that mq executes, or that the standard library executes for mq.

    with at_each_bytecode(strike):      strike(frame, event before): may raise, and may call mq

A trace function that turns `f_trace_opcodes` on for the frame that it is called for needs two
steps more from CPython 3.12 on, or the first run of each function passes unseen:

    3.12    asks once for the whole interpreter, in `settrace`, whether any frame wants
            bytecodes: so the frame that calls `settrace` says so before it does
    3.13    asks each frame, but only one that has a trace function by then: so `f_trace`
            is set before `f_trace_opcodes`
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeVar

import mq

HERE = os.path.dirname(mq.__file__)
LIBRARY = os.path.dirname(os.__file__)

Found = TypeVar("Found")


@contextmanager
def at_each_bytecode(call: Callable[[FrameType, str], object]) -> Iterator[None]:
    """Call *call* with the frame and the trace event before, in this thread.

    CPython ends the tracing when *call* raises.
    """
    last = ""

    def begin(frame: FrameType, event: str, arg: object) -> Any:
        """A function is called: whether what happens in it is of interest stays the same until it returns."""
        nonlocal last
        last = event
        if not is_ours(frame):
            return None
        frame.f_trace = look
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return look

    def look(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal last
        before, last = last, event
        if event == "opcode":
            call(frame, before)
        return look

    tracer = sys.gettrace()
    sys._getframe().f_trace_opcodes = True
    sys.settrace(begin)
    try:
        yield
    finally:
        sys.settrace(tracer)


def by_code(find: Callable[[CodeType], Found]) -> Callable[[CodeType], Found]:
    """As functools.cache, but by identity: to hash a code object takes as long as it is."""
    known: dict[int, tuple[CodeType, Found]] = {}

    def look_up(code: CodeType) -> Found:
        entry = known.get(id(code))
        if entry is None:
            entry = known[id(code)] = code, find(code)  # with the code, so that its id stays its own
        return entry[1]

    return look_up


def is_ours(frame: FrameType | None) -> bool:
    """Whether the frame is one of mq, or of the standard library, called by mq."""
    while (
        frame
        and frame.f_code.co_filename.startswith(LIBRARY)
        and "site-packages" not in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(HERE)
