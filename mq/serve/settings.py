"""Settings: all that the command line says of a server."""

from __future__ import annotations

from dataclasses import dataclass

from mq.api.broker import Sync


@dataclass(frozen=True)
class Settings:
    """
    store          the store's directory
    host, port     where it listens; port 0: the system chooses one
    sync           as for `mq.open`
    read_only      nothing can be changed through the server
    credentials    the file of access keys and users; None: none are asked for
    tls_cert, tls_key    files in PEM; with them the server speaks TLS alone
    grace          seconds that requests may still take after SIGTERM
    account        the account id in the URLs and ARNs of queues
    purge_seconds  of SQS: within so long of a purge the next one is refused
    """

    store: str
    host: str = "127.0.0.1"
    port: int = 9324
    sync: Sync = "always"
    read_only: bool = False
    credentials: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    grace: float = 5.0
    account: str = "000000000000"
    purge_seconds: float = 0.0
