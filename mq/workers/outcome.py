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
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from traceback import format_exception_only
from typing import Final

from mq.errors import BadBody, Closed, MqError, StaleReceipt, StoreFailed, UsageError

from .asked import Held, Source
from .handler import Handler
from .raised import Reject, Retry

AGAIN_SECONDS: Final = 1.0  # until what could not be settled is tried again

logger: Final = logging.getLogger("mq.worker")


def settle(
    handler: Handler, held: Sequence[Held], error: BaseException | None, taken: deque[Held] | None = None
) -> bool:  # fmt: skip
    """Settle what the handler did not; *error*: what it raised.  False: it is to be tried again.

    *taken*: where the next message is put, if one comes with the ack; None: none is to come.
    For a message that nothing works on is extended for as long as it is not settled.
    """
    ids = ", ".join(str(each.id) for each in held[:10]) + (", …" if len(held) > 10 else "")
    if isinstance(error, BadBody):
        logger.error("%s was not called: %s", handler.name, error)
    elif error is not None and not isinstance(error, (Retry, Reject)):
        logger.error(
            "%s failed with %s of %r", handler.name, ids, handler.source.name, exc_info=_of_program(error)
        )
    rest = _own(held)
    try:
        try:
            _settle(handler, rest, error, taken)
        except (UsageError, AttributeError, TypeError) as wrong:  # what the handler gave to Retry or Reject
            logger.error("%s: %s", handler.name, wrong)
            handler.source.nack_many(_own(rest), reason=_last_line(wrong))
    except StaleReceipt as stale:
        shown = ", ".join(map(str, stale.ids[:10]))
        logger.warning(
            "%s took longer with %s of %r than the visibility timeout: delivered again, or settled, since",
            handler.name, shown, handler.source.name,
        )  # fmt: skip
    except (Closed, StoreFailed):
        logger.warning(
            "the broker was closed before %s of %r was settled: it comes back after its visibility timeout",
            ids, handler.source.name,
        )  # fmt: skip
    except MqError:
        logger.exception("%s of %r could not be settled; trying again", ids, handler.source.name)
        return False
    return True


def _own(held: Iterable[Held]) -> list[Held]:
    """Those that are not settled, and are not a parent's: the handler may have forked."""
    return [each for each in held if not each._settled and not each._queue._is_inherited(each)]


def _last_line(error: BaseException) -> str:
    return "".join(format_exception_only(error)).strip()


def _of_program(error: BaseException) -> BaseException:
    """*error*, whose traceback begins where mq called the program."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_globals.get("__package__") == __package__:
        trace = trace.tb_next
    return error.with_traceback(trace) if trace else error


def _settle(
    handler: Handler, rest: list[Held], error: BaseException | None, taken: deque[Held] | None
) -> None:  # fmt: skip
    if not rest:
        return
    source = handler.source
    if error is None and taken is not None and len(rest) == 1:
        if (found := source._ack_and_take(rest[0])) is not None:
            taken.append(found)
    elif error is None:
        source.ack_many(rest)
    elif isinstance(error, Reject):
        source.reject_many(rest, error.reason)
    elif isinstance(error, Retry):
        source.nack_many(rest, delay=error.delay, reason=error.reason)
    else:
        source.nack_many(rest, reason=_last_line(error))


def give_back(source: Source, held: Iterable[Held]) -> None:
    """They were not tried, or not to the end."""
    if rest := _own(held):
        try:
            source.release_many(rest)
        except (StaleReceipt, Closed):
            pass
        except MqError:
            logger.exception("%d messages of %r could not be released", len(rest), source.name)


def is_kept(source: Source, each: Held, keep: Callable[[Held], None]) -> bool:
    """Whether *keep* keeps it; else it is given back."""
    try:
        keep(each)
    except MqError:
        logger.exception("%d of %r could not be kept", each.id, source.name)
        give_back(source, [each])
        return False
    return True
