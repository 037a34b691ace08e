"""Settings: all that the command line says of a server."""

from __future__ import annotations

from dataclasses import dataclass

from mq.api.broker import Sync
from mq.serve.alerts import Rule


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
    allow_hosts    names by which requests may ask for the server, beside its own: see guard.py
    alerts         what is watched, and alert_webhook: where that is posted; None: nowhere
    connections_max, body_bytes_max    see limits.py
    purge_seconds  of SQS: within so long of a purge the next one is refused
    in_flight_max  of SQS: so many messages of a queue may be in flight
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
    in_flight_max: int = 120_000
    allow_hosts: tuple[str, ...] = ()
    alerts: tuple[Rule, ...] = ()
    alert_webhook: str | None = None
    connections_max: int = 4096
    body_bytes_max: int = 8 << 20  # a batch of SQS, 1 MiB, with each of its bytes escaped
