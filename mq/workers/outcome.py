"""What becomes of a message when its handler returns, or raises.

    returned            ack
    raised Retry        nack, with its delay and reason
    raised Reject       reject, with its reason
    raised another      nack, with the traceback's last line as reason; the traceback is logged
    did not end         release: not tried

What the handler settled itself stays as it is; of a batch, the rest is settled so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from traceback import format_exception_only
from typing import Final

from mq.errors import BadBody, Closed, MqError, StaleReceipt

from .asked import Held, Source
from .handler import Handler

logger: Final = logging.getLogger("mq.worker")


class Retry(Exception):
    """A handler raises it: the message failed, and is tried again.

    *delay*: seconds until then; None (the default): the queue's backoff.
    *reason*: text that is kept with the message, in `failures`.
    """

    def __init__(self, delay: float | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.delay, self.reason = delay, reason


class Reject(Exception):
    """A handler raises it: the message goes to the dead letters now.

    *reason*: text that is kept with the message, in `failures`.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def settle(handler: Handler, held: Sequence[Held], error: BaseException | None) -> None:
    """Settle what the handler did not; *error*: what it raised."""
    ids = ", ".join(str(each.id) for each in held[:10]) + (", …" if len(held) > 10 else "")
    if isinstance(error, BadBody):
        logger.error("%s was not called: %s", handler.name, error)
    elif error is not None and not isinstance(error, (Retry, Reject)):
        logger.error(
            "%s failed with %s of %r", handler.name, ids, handler.source.name, exc_info=_of_program(error)
        )
    try:
        _settle(handler, [each for each in held if not each._settled], error)
    except StaleReceipt as stale:
        shown = ", ".join(map(str, stale.ids[:10]))
        logger.warning(
            "%s took longer with %s of %r than the visibility timeout: delivered again, or settled, since",
            handler.name, shown, handler.source.name,
        )  # fmt: skip
    except Closed:
        logger.warning(
            "the broker was closed before %s of %r was settled: it comes back after its visibility timeout",
            ids, handler.source.name,
        )  # fmt: skip
    except MqError:
        logger.exception("%s of %r could not be settled", ids, handler.source.name)


def _of_program(error: BaseException) -> BaseException:
    """*error*, whose traceback begins where mq called the program."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_globals.get("__package__") == __package__:
        trace = trace.tb_next
    return error.with_traceback(trace) if trace else error


def _settle(handler: Handler, rest: list[Held], error: BaseException | None) -> None:
    if not rest:
        return
    source = handler.source
    if error is None:
        source.ack_many(rest)
    elif isinstance(error, Reject):
        source.reject_many(rest, error.reason)
    elif isinstance(error, Retry):
        source.nack_many(rest, delay=error.delay, reason=error.reason)
    else:
        source.nack_many(rest, reason="".join(format_exception_only(error)).strip())


def give_back(source: Source, held: Iterable[Held]) -> None:
    """They were not tried, or not to the end."""
    if rest := [each for each in held if not each._settled]:
        with suppress(StaleReceipt, Closed):
            source.release_many(rest)
