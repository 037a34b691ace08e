"""Passwords of the dashboard's users, as they are stored: hashed with scrypt, each with a salt of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from typing import Final

COST: Final = 1 << 14  # 16 MiB, and about 50 ms
BLOCK, LANES = 8, 1
SALT_BYTES: Final = 16
PASSWORD_CHARS_MIN: Final = 8
PASSWORD_CHARS_MAX: Final = 1024
COST_MAX: Final = 1 << 18  # of what a file may ask for: 256 MiB
MEMORY_BYTES_MAX: Final = 2 * 128 * BLOCK * COST_MAX


def hash_password(password: str) -> str:
    """What is stored of *password*: `scrypt$cost$salt$hash`."""
    salt = os.urandom(SALT_BYTES)
    return f"scrypt${COST}${_text(salt)}${_text(_scrypt(password, salt, COST))}"


def verify(password: str, stored: str) -> bool:
    """Whether *stored* is of *password*; False, too, if it is nothing that `hash_password` writes."""
    try:
        scheme, cost, salt, digest = stored.split("$")
        known, given = base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
        if scheme != "scrypt" or not 1 < int(cost) <= COST_MAX or len(password) > PASSWORD_CHARS_MAX:
            return False
        return hmac.compare_digest(_scrypt(password, known, int(cost)), given)
    except ValueError:
        return False


def _scrypt(password: str, salt: bytes, cost: int) -> bytes:
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=cost, r=BLOCK, p=LANES, maxmem=MEMORY_BYTES_MAX)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
