"""A store on a replicated log: one NATS JetStream stream, on one server or on a cluster.

    address.py      nats://user:pass@host1,host2/name?…: where the store is
    connection.py   one connection, on the event loop of a thread of its own
    wire.py         connections without nats-py, for what is sent and read all the time
    stream.py       the stream: made, checked, asked, purged
    message.py      records ⇄ messages of the stream, and the positions of records
    fences.py       which messages hold, of those that are appended without a comparison
    arrivals.py     what the stream delivers, in its order, without a gap
    direct.py       an append that is one message, sent by the thread itself
    sending.py      what becomes of an append, however often no answer comes
    pages.py        messages of the stream, read back by their sequence
    log.py          the log (mq/engine/log.py): append, compared or not, follow, read
    checkpoints.py  the state, kept in an object store for the next opening
    trimming.py     what lives is appended again, and the stream purged
    clock.py        store time is the stream's
    turn.py         a turn without a lock: what another writer appended first is a Conflict
    opening.py      the state, from the checkpoint and the stream
    store.py        the store that is made of these

It needs `pip install mq[nats]`.  JetStream is used as a log, not as a queue: which process gets a message is
decided by the same code as in files, against the same fold.
"""

from mq.errors import Unsupported

try:
    import nats as nats
except ImportError as error:
    raise Unsupported("a store on NATS needs the library nats-py: pip install 'mq[nats]'") from error
