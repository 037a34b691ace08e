"""Where a store is: `nats://user:password@host1,host2:4223/name?creds=file`.

    nats:// or tls://   the second: with TLS, which a server may ask for in any case
    user:password@      or token@
    host:port,…         servers of one cluster; port 4222 if none is named
    /name               of the store: letters, digits, - and _
    ?creds=             a file of credentials, as `nsc` makes it
    &nkey=              a file with the seed of an nkey
    &ca= &cert= &key=   files for TLS: the authority of the servers, and this client's own
    &replicas=          of a new store: 1, 3 or 5; without it 3, or 1 on a server that is alone
    &max_bytes=         of a new store: what its stream may take on each server; without it, all that there is

What a URL cannot hold is written as %xx.
"""

from __future__ import annotations

import re
import ssl
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from mq import exact
from mq.errors import StorageError, UsageError

SCHEMES: Final = ("nats", "tls")
PORT: Final = 4222
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
MAX_BYTES_MIN: Final = 1 << 20
REPLICAS: Final = (1, 3, 5)
FORM: Final = "nats://host1,host2/name"


class Address(NamedTuple):
    shown: str  # without what is secret: the path of the store
    name: str  # of the store
    servers: list[str]
    secure: bool  # TLS, also if no server asks for it
    user: str | None
    password: str | None
    token: str | None
    files: dict[str, str]  # creds, nkey, ca, cert, key
    replicas: int | None
    max_bytes: int | None

    def options(self) -> dict[str, Any]:
        """For nats.connect.  StorageError if a file cannot be read."""
        found: dict[str, Any] = {"servers": self.servers}
        if self.token is not None:
            found["token"] = self.token
        if self.user is not None:
            found |= {"user": self.user, "password": self.password}
        if "creds" in self.files:
            found["user_credentials"] = self._readable("creds")
        if "nkey" in self.files:
            found["nkeys_seed"] = self._readable("nkey")
        if self.secure:
            found["tls"] = self._tls()
        return found

    def _readable(self, what: str) -> str:
        path = self.files[what]
        try:
            with open(path, "rb"):
                return path
        except OSError as error:
            raise StorageError(self.shown, f"{what}={path} cannot be read: {error.strerror}") from error

    def _tls(self) -> ssl.SSLContext:
        files = self.files
        try:
            context = ssl.create_default_context(cafile=files.get("ca"))
            if "cert" in files:
                context.load_cert_chain(files["cert"], files.get("key"))
        except OSError as error:  # and an SSLError is one
            raise StorageError(self.shown, f"ca=, cert= or key= cannot be used: {error}") from error
        return context


def is_address(path: str) -> bool:
    """Whether *path* names a store on NATS."""
    return path.partition("://")[0] in SCHEMES and "://" in path


def parse(url: str) -> Address:
    """UsageError says what is wrong with *url*, without its secrets."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    hosts, _, name = place.partition("/")
    secrets, at, hosts = hosts.rpartition("@")
    shown = f"{scheme}://{hosts}/{name}"
    if scheme not in SCHEMES or not hosts or not NAME.fullmatch(name):
        raise UsageError(f"{shown!r}: a store on NATS is {FORM}, its name of letters, digits, - and _")
    user = password = token = None
    if at:
        first, colon, second = secrets.partition(":")
        user, password, token = (
            (unquote(first), unquote(second), None) if colon else (None, None, unquote(first))
        )
    files, replicas, max_bytes = _asked(shown, query)
    secure = scheme == "tls" or not files.keys().isdisjoint({"ca", "cert", "key"})
    servers = [f"{scheme}://{_with_port(shown, host)}" for host in hosts.split(",")]
    return Address(shown, name, servers, secure, user, password, token, files, replicas, max_bytes)


def _asked(shown: str, query: str) -> tuple[dict[str, str], int | None, int | None]:
    files: dict[str, str] = {}
    replicas = max_bytes = None
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "replicas" and value in map(str, REPLICAS):
            replicas = int(value)
        elif key == "max_bytes" and value.isdecimal() and int(value) >= MAX_BYTES_MIN:
            max_bytes = int(value)
        elif key in ("creds", "nkey", "ca", "cert", "key") and value:
            files[key] = value
        else:
            raise UsageError(
                f"{shown}: {key}={exact.shown(value)} is not one of creds, nkey, ca, cert, key with the name"
                f" of a file, replicas with one of {', '.join(map(str, REPLICAS))}, and max_bytes from"
                f" {MAX_BYTES_MIN}"
            )
    if "key" in files and "cert" not in files:
        raise UsageError(f"{shown}: key= is the key of a certificate: give cert=, too")
    return files, replicas, max_bytes


def _with_port(shown: str, host: str) -> str:
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, str(PORT)
    if not name or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"{shown}: {host!r} is not a host, or host:port")
    return f"{name}:{port}"
