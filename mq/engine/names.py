"""What a queue may be called."""

from __future__ import annotations

from mq import exact
from mq.delivery.dead import NAME_BYTES_MAX
from mq.errors import UsageError


def check_name(name: object) -> str:
    """The name, if it can be that of a queue: 1 to 255 bytes of UTF-8, no control characters."""
    text = exact.text("a queue's name", name)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError(f"the queue name {exact.shown(text)} is not valid Unicode") from None
    if not 1 <= size <= NAME_BYTES_MAX:
        raise UsageError(f"a queue's name has 1 to {NAME_BYTES_MAX} bytes, this one {size}")
    if not text.isprintable():
        raise UsageError(
            f"the queue name {exact.shown(text)} has control or unprintable characters; leave them out"
        )
    return text
