"""One message: as a JSON object, and as a block of lines for a person."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import mq
from mq.cli import output
from mq.instants import ms_at

BODY_CHARS_MAX: Final = 2000  # of a body in a block; JSON has all of it


def fields(message: mq.Message[Any]) -> dict[str, Any]:
    """A message as one JSON object, without its receipt.  `mq publish --json` reads it again."""
    return {
        "id": message.id,
        "queue": message.queue or None,
        "topic": message.topic,
        "state": message.state,
        "attempts": message.attempts,
        "created_at": output.instant(message._created_ms),
        "due_at": _shown(message.due_at),
        "expires_at": _shown(message.expires_at),
        "priority": message.priority,
        "group": message.group,
        "headers": dict(message.headers),
        "origin": message.origin,
        "failures": [
            {"at": _shown(each.at), "attempt": each.attempt, "reason": each.reason}
            for each in message.failures
        ],
        **output.body_fields(message._flags, message.raw),
    }


def _shown(at: datetime | None) -> str | None:
    return None if at is None else output.instant(ms_at("a time", at))


def kind(message: mq.Message[Any]) -> str:
    """How the body was given: text, bytes or structure."""
    return output.body_type(message._flags)


def traits(message: mq.Message[Any]) -> list[str]:
    """What the message has beside its body, if anything: priority, group, headers, when it expires."""
    found = [f"priority {message.priority}"] if message.priority else []
    found += [f"group {message.group}"] if message.group is not None else []
    found += [f"{name}={value}" for name, value in message.headers.items()]
    if (expires := message.expires_at) is not None:
        found.append(f"expires in {output.duration(max(0.0, expires.timestamp() - time.time()))}")
    return found


def blocks(messages: Sequence[mq.Message[Any]]) -> None:
    """`block` for each, with an empty line between them."""
    for at, each in enumerate(messages):
        if at:
            output.line("")
        block(each)


def block(message: mq.Message[Any]) -> None:
    """All that is known of it, a line each, and the body below."""
    now = time.time()
    age = output.duration(max(0.0, now - message._created_ms / 1000))
    rows = [("message", output.coloured(str(message.id), output.BOLD))]
    rows += [("queue", message.queue)] if message.queue else []
    rows += [("died in", output.escape(message.origin))] if message.origin is not None else []
    rows += [("topic", message.topic)] if message.topic is not None else []
    rows += [("published", f"{output.instant(message._created_ms)}, {age} ago")]
    rows += [("state", message.state.replace("_", " "))] if message.state != "ready" else []
    rows += [("due", str(_shown(message.due_at)))] if message.due_at else []
    rows += [("expires", str(_shown(message.expires_at)))] if message.expires_at else []
    rows += [("attempts", f"{message.attempts:,}")] if message.attempts else []
    rows += [("priority", str(message.priority))] if message.priority else []
    rows += [("group", output.escape(message.group))] if message.group is not None else []
    rows += [("header", output.escape(f"{name}={value}")) for name, value in message.headers.items()]
    for each in message.failures:
        why = output.coloured(output.escape(each.reason) or "(no reason given)", output.RED)
        rows.append((f"attempt {each.attempt}", why))
        rows.append(("", f"failed {_shown(each.at)}"))
    rows.append(("body", f"{kind(message)}, {output.size(len(message.raw))}"))
    output.pairs(rows)
    text = output.body_bytes(message._flags, message.raw).decode(errors="backslashreplace")
    shown = output.escape(text[:BODY_CHARS_MAX], keep="\n\t")
    output.indented(shown, 2)
    if len(text) > BODY_CHARS_MAX:
        output.say(f"  … {len(text) - BODY_CHARS_MAX:,} characters more; --json has all of it", 4)
