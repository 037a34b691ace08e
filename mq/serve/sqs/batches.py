"""Batches: up to ten entries, of which each succeeds or fails by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from mq.serve.sqs.fault import BAD_ENTRY_ID, EMPTY_BATCH, IDS_NOT_DISTINCT, TOO_MANY_ENTRIES, Fault
from mq.serve.sqs.service import Answer

ENTRIES_MAX: Final = 10
ENTRY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")


class Entry(Protocol):
    id: str | None


E = TypeVar("E", bound=Entry)


def check(entries: Sequence[E] | None, kind: str) -> dict[str, E]:
    """The entries by id; a fault if the batch as a whole cannot be right."""
    if not entries:
        raise Fault(EMPTY_BATCH, f"There should be at least one {kind} in the request.")
    if len(entries) > ENTRIES_MAX:
        raise Fault(
            TOO_MANY_ENTRIES, f"Maximum number of entries per request are 10. You have sent {len(entries)}."
        )
    found: dict[str, E] = {}
    for entry in entries:
        id = entry.id or ""
        if not ENTRY_ID.fullmatch(id):
            raise Fault(
                BAD_ENTRY_ID,
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can"
                " be at most 80 letters long.",
            )
        if id in found:
            raise Fault(IDS_NOT_DISTINCT, f"Id {id} repeated.")
        found[id] = entry
    return found


def failed(id: str, fault: Fault) -> Answer:
    return {
        "Id": id, "SenderFault": fault.kind.is_senders, "Code": fault.kind.code, "Message": fault.message
    }  # fmt: skip


def answer(successful: list[Answer], failures: list[Answer]) -> Answer:
    found: Answer = {}
    if successful:
        found["Successful"] = successful
    if failures:
        found["Failed"] = failures
    return found
