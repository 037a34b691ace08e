"""The peers, a file each.  A new one gets its line here."""

from __future__ import annotations

from benchmarks.bench.peer import Peer
from benchmarks.bench.peers import (
    huey_storage,
    in_memory,
    leveldb,
    lite_queue,
    lmdb_queue,
    mq_store,
    persist_queue,
    queue_lib,
    raw_file,
    redis_stream,
    rocksdb,
    sqlite,
)

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        mq_store.PEER,
        mq_store.BEFORE,
        sqlite.PEER,
        sqlite.OFF,
        lite_queue.PEER,
        persist_queue.PEER,
        huey_storage.PEER,
        lmdb_queue.PEER,
        leveldb.PEER,
        rocksdb.PEER,
        redis_stream.PEER,
        queue_lib.PEER,
        in_memory.PEER,
        raw_file.PEER,
    )
}
