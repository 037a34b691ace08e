"""What a record means to the delivery layer: its kind, and what its payload holds.

    kind        payload
    ──────────  ──────────────────────────────────────────────────────────────
    DECLARE     msgpack: name, all options, the meta, and the totals so far
    PUBLISH     the body, then attributes if there are any
    DELIVER     message id, deadline, then the ids of those delivered with it
    ACK         for each message its id, and the size of what was published
    NACK        message id, due, time, then the reason as UTF-8
    RELEASE     message id
    EXTEND      message id, new deadline
    PURGE       cutoff, then message id and size for each that stays
    RELOCATE    message id, creation time, attempts, place, receipt, deadline or due, then what was
                published, then what happened to it since: the message stands here now
    MOVE        message id, size, the queue it goes to, and why: to the dead letters, back, or as it is
    DROP        message id and size for each that goes: expired, cancelled, or the oldest of too many
    RESCHEDULE  message id, due
    DELETE      nothing: the queue goes, with all it holds
    DEDUP       a dedup id that is remembered: message id, until when, the dedup id
    RENEW       until when a queue that is deleted when it is idle stays
    FANOUT      the queues that get it, then what was published to a topic: body and attributes
    RELOCATE_FANOUT   as RELOCATE, of a message that several queues hold: what each holds, once what
                was published
    SUBSCRIBE   msgpack: a pattern, and the headers that a message needs
    UNSUBSCRIBE the pattern
    BACKFILL    the number of a topic, then id and size of retained messages of it that wait here too
    SCHEDULE    the body of the messages, then all else that is known of the schedule
    TICK        when the next tick is due, when one was published last, how many were late, the name
    UNSCHEDULE  the name of the schedule

A message's id is the position of its PUBLISH or FANOUT record, or of a RELOCATE record that names none.
The receipt of a delivery is the position of its DELIVER record; of the n-th message there, n bytes further
in.  Deadlines and the ends of dedup windows are milliseconds of store time, and so is the due of a backoff;
other dues, and expiries, are milliseconds of wall time, all since 1970.

A module for each family says how its records are made, decoded and described:

    messages        PUBLISH, RELOCATE
    fanouts         FANOUT, RELOCATE_FANOUT
    deliveries      DELIVER, ACK, NACK, RELEASE, EXTEND, RESCHEDULE, PURGE, DROP, MOVE
    declarations    DECLARE, DELETE, RENEW, DEDUP
    subscriptions   SUBSCRIBE, UNSUBSCRIBE, BACKFILL
    schedules       SCHEDULE, TICK, UNSCHEDULE

`kinds` numbers them, and `stored` finds a message in the record in which it stands.  All other modules
import from here.
"""

# mypy: implicit-reexport
# ruff: noqa: F401

from __future__ import annotations

from typing import Final

from . import declarations, deliveries, fanouts, messages, schedules, subscriptions
from .declarations import (
    DEDUP_PAYLOAD,
    RENEW_PAYLOAD,
    declare,
    decode_declaration,
    dedup,
    delete,
    encode_declaration,
    renew,
)
from .deliveries import (
    ACK_PAYLOAD,
    ALL_IN_FLIGHT,
    DELIVER_PAYLOAD,
    DIED,
    EXTEND_PAYLOAD,
    FAILED,
    MOVE_PAYLOAD,
    NACK_PAYLOAD,
    OVERFLOWED,
    PURGE_PAYLOAD,
    REASON_BYTES_MAX,
    RELEASE_PAYLOAD,
    RESCHEDULE_PAYLOAD,
    SIZED_PAYLOAD,
    TIMED,
    TIMED_NACK_PAYLOAD,
    TIMED_OUT,
    TIMEOUT_REASON,
    UNKNOWN_TO_DELIVER,
    WHOLE,
    Move,
    Pairs,
    acks_of,
    deliveries_of,
    drop,
    encode_acks,
    encode_deliveries,
    encode_move,
    encode_reason,
    extend,
    move,
    moved_to,
    nack,
    purge,
    release,
    reschedule,
)
from .fanouts import (
    HOLDER_PAYLOAD,
    Fanout,
    Holder,
    fan_out,
    fanned,
    queues_of,
    relocate_fan_out,
)
from .kinds import (
    ACK,
    BACKFILL,
    BODIED,
    DECLARATION_BYTES,
    DECLARE,
    DEDUP,
    DELETE,
    DELIVER,
    DROP,
    EXPIRED,
    EXTEND,
    FANOUT,
    MESSAGE_OVERHEAD_BYTES,
    MOVE,
    NACK,
    NEW,
    OF_ANY,
    OF_THE_STORE,
    PUBLISH,
    PURGE,
    RELEASE,
    RELOCATE,
    RELOCATE_FANOUT,
    RENEW,
    RESCHEDULE,
    RUN_MAX,
    SCHEDULE,
    SUBSCRIBE,
    TICK,
    UNKNOWN,
    UNSCHEDULE,
    UNSUBSCRIBE,
    Draft,
    Event,
    Facts,
    Kind,
    Times,
)
from .messages import (
    ATTRIBUTED,
    BACKING_OFF,
    BODY_BITS,
    BYTES,
    CHANGED,
    DELAYED,
    IN_FLIGHT,
    KEPT,
    MSGPACK,
    PLAIN_FLAGS,
    RELOCATE_PAYLOAD,
    TEXT,
    WAITING,
    attributes_at,
    attributes_of,
    publish,
    relocate,
)
from .schedules import (
    schedule,
    scheduled_body,
    tick,
    unschedule,
)
from .stored import (
    body_of,
    created_ms,
    holders_in,
    message_of,
    published_of,
    published_size,
    received_in,
)
from .subscriptions import (
    Subscribed,
    backfill,
    decode_subscribed,
    subscribe,
    unsubscribe,
)

_found = messages.KINDS | fanouts.KINDS | deliveries.KINDS | declarations.KINDS
_found |= subscriptions.KINDS | schedules.KINDS
KINDS: Final = {number: _found[number] for number in sorted(_found)}
KIND_NAMES: Final = {kind: known.name for kind, known in KINDS.items()}
