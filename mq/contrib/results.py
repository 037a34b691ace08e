"""Results: what a task library keeps beside the queues, by key: results, locks, counters.

    from mq.contrib.results import Results

    results = Results("data", sync=0.1)         # data/results.sqlite, beside the store data/
    results.put("task-17", b"42", ttl=86_400)
    results.wait("task-17", timeout=5)          # b"42"

In sqlite and not in the log: a key that changes often would be a record each time, and a log is no index.
`mq backup` copies it, `mq verify` checks it.  A value is bytes, text or an integer, and comes back as it was.

                         one process                                  others
    put ──► WAL ──► commit ──► version changes ─────────────────────► wait: asks for the version, 1 to 50 ms
                       └── synced: at once, within `sync` seconds, or when sqlite moves the WAL

What has expired is not there for any reader; its room is given back by later writes, a slice at a time.
In the child of a fork a Results goes on with a connection of its own.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from weakref import WeakSet

from mq import forks
from mq.api.broker import Sync
from mq.errors import Closed, CorruptStore, StoreFailed, Unsupported, UsageError
from mq.storage import irregular, paths
from mq.storage.explain import explain as explain_disk
from mq.storage.real_disk import RealDisk
from mq.storage.results import BUSY_SECONDS, explain

T = TypeVar("T")
Value = bytes | str | int

APPLICATION_ID: Final = 0x6D715253  # "mqRS"
VERSION: Final = 1
KEYS_MAX: Final = 500  # in one statement
NAP_SECONDS: Final = 0.001  # between two looks at the version, at first
NAP_SECONDS_MAX: Final = 0.05
NAP_SHARE: Final = 10  # a tenth of what a caller has waited
SWEEP_SECONDS: Final = 10.0  # between two slices of sweeping
SWEPT: Final = 500  # expired rows that one slice deletes

SCHEMA: Final = (
    "CREATE TABLE results (key TEXT PRIMARY KEY NOT NULL, value NOT NULL, expires REAL)",
    "CREATE INDEX results_by_expiry ON results (expires) WHERE expires IS NOT NULL",
    f"PRAGMA user_version = {VERSION}",
)
PUT: Final = (
    "INSERT INTO results VALUES (?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires"
)
SWEEP: Final = "DELETE FROM results WHERE rowid IN (SELECT rowid FROM results WHERE expires <= ? LIMIT ?)"
LAST_SIGN: Final = "\U0010ffff"  # keys that begin with a prefix are before the prefix and this
THESE: Final = "FROM results WHERE key >= ? AND key < ? AND (expires IS NULL OR expires > ?)"
GET: Final = "SELECT value, expires FROM results WHERE key = ? AND (expires IS NULL OR expires > ?)"

_open: WeakSet[Results] = WeakSet()  # those of this process; a child of a fork makes them anew
_making = threading.Lock()


class Results:
    """Values by key, made for many processes and threads.

    Every method may raise Closed, and StorageError as the database has it: DiskFull (nothing was stored),
    StoreLocked (another process holds it), CorruptStore, StoreFailed (a sync failed).
    """

    _connection: sqlite3.Connection | None = None

    def __init__(
        self, path: str | os.PathLike[str], *, sync: Sync = "always", clock: Callable[[], float] = time.time
    ) -> None:
        """Open the results beside the store in the directory *path*; made if they are not there.

        *sync*: as of `mq.open`: "always" (the default): a write returns when it is on the disk; seconds: it
        is there within so many; "never": when sqlite moves its log.  In all three it survives the process.
        *clock*: wall time in seconds, by which values expire.

        Raises UsageError, Unsupported (a newer mq made it), StorageError.
        """
        if os.fspath(path) == ":memory:":
            raise UsageError("results are for many processes, a store in memory is not: give a directory")
        if sync not in ("always", "never") and not (isinstance(sync, int | float) and 0 < sync < 1e6):
            raise UsageError(f'sync is "always", "never" or seconds, not {sync!r}')
        self._store = paths.absolute(os.fspath(path))
        self.path = paths.results(self._store)
        self._sync, self._clock = sync, clock
        self._closed = False
        self._begin()
        with self._lock:
            self._connected()
        _open.add(self)

    def __repr__(self) -> str:
        return f"<Results {self.path}{' closed' if self._closed else ''}>"

    def _begin(self) -> None:
        """Without a connection: at first, and in the child of a fork."""
        self._lock = threading.RLock()  # of the connection, and all that is below
        self._connection = None
        self._depth = 0  # of transactions
        self._writes = 0  # by this object, which its own connection does not count as changes
        self._swept_at = 0.0  # monotonic
        self._syncing: threading.Timer | None = None  # a sync that is to come
        self._failed: OSError | None = None  # of a sync in the background
        self.failed = False  # and an operation has said so: all others do, too, and a new Results goes on

    # ── the database ───────────────────────────────────────────────────────────────

    def _connected(self) -> sqlite3.Connection:
        """The connection; with the lock."""
        if self._closed:
            raise Closed(f"the results {self.path} are closed")
        self._require_synced()
        if self._connection is None:
            self._connection = self._connect()
            self._writes += 1  # it counts the changes of others anew
        return self._connection

    def _require_synced(self) -> None:
        if self._failed:
            self.failed = True
            raise StoreFailed(self.path, f"a sync failed, what is on the disk is unknown: {self._failed}")

    def _make(self) -> None:
        """The file, with the owner and mode of the store, which sqlite would not give it.

        One that is there is not opened: to close it would take from all connections of this process the
        locks that they have on it, and another process would remove the log that they write to.
        """
        disk = RealDisk()
        disk.make_directory(self._store)
        disk.resemble(paths.format_file(self._store))
        with _making:  # or another thread has made it since, and connected
            irregular.require(stat.S_IFREG, self.path, None)
            if not disk.exists(self.path):
                disk.close(disk.open(self.path, write=True, create=True))

    def _connect(self) -> sqlite3.Connection:
        with explain_disk(self.path):
            self._make()
        with explain(self.path):
            connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._sync == 'always' else 'NORMAL'}")
        return connection

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection, None, None]:
        with self._lock, explain(self.path):
            yield self._connected()

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection, None, None]:
        """All or nothing.  Inside another one: a part of it."""
        with self._reading() as connection:
            if self._depth == 0:
                if connection.in_transaction:  # Ctrl-C came between the two lines that follow
                    connection.execute("ROLLBACK")
                _when_free(connection, "BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield connection
                if self._is_outermost(connection):
                    self._sweep(connection)
                    connection.execute("COMMIT")
                    self._written()
            except BaseException:
                if self._is_outermost(connection) and connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                if self._connection is connection:
                    self._depth -= 1

    def _is_outermost(self, connection: sqlite3.Connection) -> bool:
        """Not in the child of a fork, either: the transaction is the parent's."""
        return self._depth == 1 and self._connection is connection

    def transaction(self) -> AbstractContextManager[object]:
        """A block whose reads and writes happen together or, if it raises, not at all.

        Other processes and threads that write wait for its end.
        """
        return self._writing()

    def _sweep(self, connection: sqlite3.Connection) -> None:
        now = time.monotonic()
        if now - self._swept_at < SWEEP_SECONDS:
            return
        if connection.execute(SWEEP, (self._clock(), SWEPT)).rowcount < SWEPT:
            self._swept_at = now

    # ── syncing ────────────────────────────────────────────────────────────────────

    def _written(self) -> None:
        self._writes += 1
        if self._syncing is None and not isinstance(self._sync, str):
            self._syncing = threading.Timer(self._sync, self._sync_now)
            self._syncing.daemon = True
            self._syncing.start()

    def _sync_now(self) -> None:
        """On the thread that `sync=` seconds starts.  What fails is raised by the next operation."""
        self._syncing = None
        try:
            fd = os.open(self.path + "-wal", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except FileNotFoundError:
            pass  # sqlite moved it into the database, and synced that
        except OSError as error:
            self._failed = error

    # ── by key ─────────────────────────────────────────────────────────────────────

    def get(self, key: str) -> Any:
        """The value of *key*; None if there is none, or it has expired."""
        with self._reading() as connection:
            row = connection.execute(GET, (_text(key), self._clock())).fetchone()
        return row[0] if row else None

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those of *keys* that have one."""
        wanted, found = [_text(key) for key in keys], dict[str, Any]()
        with self._reading() as connection:
            for at in range(0, len(wanted), KEYS_MAX):
                some = wanted[at : at + KEYS_MAX]
                asked = (
                    f"SELECT key, value FROM results WHERE key IN ({','.join('?' * len(some))})"
                    " AND (expires IS NULL OR expires > ?)"
                )
                found.update(connection.execute(asked, (*some, self._clock())).fetchall())
        return found

    def put(self, key: str, value: Value, *, ttl: float | None = None) -> None:
        """Give *key* this value, whatever it had, for *ttl* seconds; None (the default): until `delete`."""
        with self._writing() as connection:
            connection.execute(PUT, (_text(key), _checked(value), self._expiry(ttl)))

    def add(self, key: str, value: Value, *, ttl: float | None = None) -> bool:
        """Give *key* this value unless it has one; return whether it did: one of many callers gets True."""
        with self._writing() as connection:
            if self.get(key) is not None:
                return False
            connection.execute(PUT, (key, _checked(value), self._expiry(ttl)))
            return True

    def incr(self, key: str, by: int = 1, *, ttl: float | None = None) -> int:
        """Add *by* to the number that *key* has, 0 if it has none; return the sum.

        *ttl*: as for `put`, from now on; None: what it was.

        Raises UsageError: the value is no number.
        """
        with self._writing() as connection:
            value, expires = connection.execute(GET, (_text(key), self._clock())).fetchone() or (0, None)
            if not isinstance(value, int):
                raise UsageError(f"the value of {key!r} is no number, it cannot be added to")
            expires = expires if ttl is None else self._expiry(ttl)
            connection.execute(PUT, (key, _checked(value + by), expires))
            return value + by

    def expire(self, key: str, ttl: float | None) -> bool:
        """Have the value of *key* expire in *ttl* seconds, None: never; False if there is none."""
        with self._writing() as connection:
            asked = "UPDATE results SET expires = ? WHERE key = ? AND (expires IS NULL OR expires > ?)"
            done = connection.execute(asked, (self._expiry(ttl), _text(key), self._clock()))
            return done.rowcount > 0

    def delete(self, key: str) -> bool:
        """Forget *key*; return whether it had a value."""
        with self._writing() as connection:
            was = self.get(key) is not None
            connection.execute("DELETE FROM results WHERE key = ?", (key,))
            return was

    def pop(self, key: str) -> Any:
        """Forget *key*, and return the value that it had; None if it had none.  One of many gets it."""
        if self.get(key) is None:  # to look, no process has to wait for another one
            return None
        with self._writing() as connection:
            value = self.get(key)
            connection.execute("DELETE FROM results WHERE key = ?", (key,))
            return value

    # ── by prefix ──────────────────────────────────────────────────────────────────

    def items(self, prefix: str) -> dict[str, Any]:
        """All values whose keys begin with *prefix*, by key."""
        with self._reading() as connection:
            return dict(connection.execute(f"SELECT key, value {THESE}", self._these(prefix)).fetchall())

    def count(self, prefix: str) -> int:
        """How many keys that begin with *prefix* have a value."""
        with self._reading() as connection:
            ((count,),) = connection.execute(f"SELECT count(*) {THESE}", self._these(prefix)).fetchall()
        return int(count)

    def clear(self, prefix: str) -> int:
        """Forget all keys that begin with *prefix*; return how many had a value."""
        with self._writing() as connection:
            count = self.count(prefix)
            connection.execute("DELETE FROM results WHERE key >= ? AND key < ?", self._these(prefix)[:2])
            return count

    def _these(self, prefix: str) -> tuple[str, str, float]:
        return _text(prefix), prefix + LAST_SIGN, self._clock()

    def sweep(self) -> int:
        """Give back the room of all that has expired now; return how many there were."""
        swept, some = 0, SWEPT
        while some >= SWEPT:
            with self._writing() as connection:
                some = connection.execute(SWEEP, (self._clock(), SWEPT)).rowcount
            swept += some
        return swept

    def _expiry(self, ttl: float | None) -> float | None:
        if ttl is None:
            return None
        if not ttl > 0:
            raise UsageError(f"ttl is seconds, more than 0, or None; not {ttl!r}")
        return self._clock() + ttl

    # ── waiting ────────────────────────────────────────────────────────────────────

    def wait(self, key: str, timeout: float | None = None) -> Any:
        """The value of *key*, once it has one; None after *timeout* seconds (None, the default: for ever)."""
        return self.wait_for(lambda: self.get(key), timeout)

    def wait_for(self, probe: Callable[[], T | None], timeout: float | None = None) -> T | None:
        """What *probe* returns, once that is not None; None after *timeout* seconds (None: for ever).

        It is called at once, and when any process has changed any value: after a tenth of the time that this
        has waited, and 50 ms at most.
        """
        begin, seen = time.monotonic(), (-1, -1)
        while True:
            if (version := self._version()) != seen:
                seen = version  # asked for before the values are: what changes meanwhile is seen next time
                if (found := probe()) is not None:
                    return found
            waited = time.monotonic() - begin
            left = NAP_SECONDS_MAX if timeout is None else timeout - waited
            if left <= 0:
                return None
            time.sleep(min(left, NAP_SECONDS_MAX, max(NAP_SECONDS, waited / NAP_SHARE)))

    def _version(self) -> tuple[int, int]:
        """Changes when any process has written."""
        with self._reading() as connection:
            return connection.execute("PRAGMA data_version").fetchone()[0], self._writes

    # ── the end ────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Sync, and let go of the database.  A second call does nothing.  Callers that wait get Closed.

        Raises StoreFailed (a sync failed, and no operation has said so).
        """
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
            timer, self._syncing = self._syncing, None
            if timer:
                timer.cancel()
                self._sync_now()
            if connection:
                with explain(self.path):
                    connection.close()
            if not self.failed:
                self._require_synced()

    def _rest(self) -> None:
        """Have no connection until the next operation, unless one goes on."""
        if not forks.is_held(self._lock) and self._lock.acquire(blocking=False):
            try:
                connection, self._connection = self._connection, None
                if connection:
                    with suppress(sqlite3.Error):
                        connection.close()
            finally:
                self._lock.release()

    def __del__(self) -> None:
        # Without a warning: backends of most libraries have no close(), so their users could not avoid it.
        # Nothing is lost: the timer of a sync that is still to come keeps this object alive.
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    """Write-ahead, and the table; by the first of many processes that come at the same time."""
    _when_free(connection, "PRAGMA journal_mode = WAL")
    if _is_made(connection, path):  # to look, no process has to wait for another one
        return
    _when_free(connection, "BEGIN IMMEDIATE")
    try:
        if not _is_made(connection, path):
            _create(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _when_free(connection: sqlite3.Connection, statement: str) -> None:
    """Run it as soon as no other process is in the way: sqlite does not wait for each of them by itself."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(NAP_SECONDS)


def _is_made(connection: sqlite3.Connection, path: str) -> bool:
    ((made_by,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if made_by == APPLICATION_ID:
        if version > VERSION:
            raise Unsupported(f"{path}: made by a newer mq (version {version}): upgrade mq")
        return True
    return False


def _create(connection: sqlite3.Connection, path: str) -> None:
    if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise CorruptStore(path, "this is a database of something else: move it out of the store's directory")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in SCHEMA:
        connection.execute(statement)


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise UsageError(f"a key is text, not {type(key).__name__}")
    return _valid("key", key)


def _valid(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the {name} {text!r} is not valid Unicode") from None
    return text


def _checked(value: object) -> Value:
    if isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63:
        return value
    if isinstance(value, str):
        return _valid("value", value)
    if isinstance(value, bytes):
        return value
    raise UsageError(f"a value is bytes, text or an integer of 64 bits, not {type(value).__name__}")


def _before_fork() -> None:
    """Let go of the connections: a child would take the locks of its parent for its own, and have none.

    Except those that a thread is using: the child has no locks then, which is harmless while its parent has.
    """
    for each in list(_open):
        each._rest()


def _after_fork() -> None:
    """In a child: the connections, locks and timers are the parent's."""
    global _making
    _making = threading.Lock()
    for each in list(_open):
        # Never closed here, not even as the process ends: sqlite would take itself for the last user of the
        # database, move an old log into it and remove it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each._connection))
        each._begin()


def _at_exit() -> None:
    """What `sync=` seconds promises holds for the last writes of a program that does not close, too."""
    with ExitStack() as stack:  # all of them, also if one raises
        for each in list(_open):
            stack.callback(each.close)


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
atexit.register(_at_exit)
