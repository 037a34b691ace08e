"""Templates, and what they know to say of numbers, sizes and times.  Everything is escaped."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from mq import values
from mq.serve.ui import shown, spark


def environment(**known: Any) -> Environment:
    """The templates; *known*: what each page knows."""
    made = Environment(
        loader=PackageLoader("mq.serve.ui", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "number": lambda each: f"{each:,}", "count": values.count, "size": values.size, "rate": rate,
        "span": values.span, "duration": shown.age, "ms3": milliseconds, "option": option,
        "ms": shown.ms_of, "time": moment, "ago": shown.ago, "until": shown.until, "clock": clock,
        "plain": values.plain, "q": lambda text: quote(text, safe=""), "spark": spark.sparkline,
    }  # fmt: skip
    made.globals |= known
    return made


def rate(each: float) -> str:
    """Messages a second, in few characters."""
    if not each:
        return ""
    return f"{each:,.0f}" if each >= 10 else f"{each:.1f}" if each >= 0.05 else "<0.1"


def moment(ms: int) -> str:
    """A moment, in universal time, to the second."""
    return values.instant(ms)[:19].replace("T", " ") + " UTC"


def clock(at: float) -> str:
    """The time of day, where the server is."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.1f} s"


def option(value: object, name: str) -> str:
    """The value of an option of a queue."""
    return "none" if value is None else values.option(name, value)
