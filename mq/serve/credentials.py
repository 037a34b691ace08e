"""The file of access keys and users: JSON, for its owner's eyes alone.

    {"keys": {"MQAK…": {"secret": "…", "added": "2030-01-31"}}, "users": {"ada": "scrypt$…"}}

A signature (SigV4) is verified with the secret itself, so that is what the file holds; of users it has a
hash of the password.  A server that runs reads the file again when it has changed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

from mq.errors import MqError, UsageError

KEY_PREFIX: Final = "MQAK"
KEY_BYTES: Final = 10
SECRET_BYTES: Final = 30
MODE: Final = 0o600
LOOK_SECONDS: Final = 1.0  # at most so often a running server looks whether the file has changed


class Key(msgspec.Struct):
    secret: str
    added: str = ""


class Content(msgspec.Struct, forbid_unknown_fields=True):
    keys: dict[str, Key] = {}
    users: dict[str, str] = {}


class Credentials:
    """What the file at *path* holds, as it is now."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._looked = -LOOK_SECONDS
        self._version: tuple[int, int] = (0, 0)
        self._content = Content()

    @classmethod
    def load(cls, path: str) -> Credentials:
        """UsageError if it cannot be read, is not what it should be, or others can read it."""
        found = cls(path)
        found._read()
        return found

    @property
    def keys(self) -> dict[str, str]:
        """Secrets, by access key."""
        return {name: key.secret for name, key in self._now().keys.items()}

    @property
    def users(self) -> dict[str, str]:
        """Hashes of passwords, by user."""
        return self._now().users

    def secret(self, key: str) -> str | None:
        """The secret of an access key, if there is such a key."""
        found = self._now().keys.get(key)
        return found.secret if found else None

    def _now(self) -> Content:
        if time.monotonic() >= self._looked + LOOK_SECONDS:
            with suppress(UsageError):  # it is being changed, or damaged: what was known holds
                self._read()
        return self._content

    def _read(self) -> None:
        self._looked = time.monotonic()
        try:
            with open(self._path, "rb") as file:
                about = os.fstat(file.fileno())
                version = about.st_mtime_ns, about.st_ino
                if version != self._version:
                    self._content, self._version = _decoded(self._path, about.st_mode, file.read()), version
        except OSError as error:
            raise UsageError(
                f"{self._path}: {error.strerror}; `mq serve keys add --credentials FILE` makes one"
            ) from None


def _decoded(path: str, mode: int, text: bytes) -> Content:
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"{path} holds secrets, and others may read it: chmod 600 {path}")
    try:
        return msgspec.json.decode(text, type=Content)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} is no file of credentials: {error}") from None


def add_key(path: str) -> tuple[str, str]:
    """Add an access key to the file, which is made if need be; return it and its secret."""
    name = KEY_PREFIX + secrets.token_hex(KEY_BYTES)[:16].upper()
    secret = secrets.token_urlsafe(SECRET_BYTES)

    def add(content: Content) -> None:
        content.keys[name] = Key(secret, datetime.now(UTC).date().isoformat())

    change(path, add)
    return name, secret


def change(path: str, edit: Callable[[Content], None]) -> None:
    """Have *edit* change what the file holds; the file is replaced at once, with mode 600."""
    try:
        with _alone(path):
            content = (
                _decoded(path, os.stat(path).st_mode, _text(path)) if os.path.exists(path) else Content()
            )
            edit(content)
            _replace(path, msgspec.json.format(msgspec.json.encode(content)))
    except OSError as error:
        raise MqError(f"{path}: {error.strerror}; nothing was changed") from None


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """While no other process changes a file in the same directory."""
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _text(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _replace(path: str, text: bytes) -> None:
    path = os.path.realpath(path)
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".credentials-")  # its mode is 600
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
