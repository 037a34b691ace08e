"""Signatures: AWS Signature Version 4, verified with the secrets of the credentials file.

    Authorization: AWS4-HMAC-SHA256 Credential=KEY/20300131/eu-west-1/sqs/aws4_request,
                   SignedHeaders=host;x-amz-date, Signature=…

Without a credentials file nothing is verified; then only the region and the key's name are read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote

from starlette.types import Scope

from mq.serve.credentials import Credentials
from mq.serve.sqs.fault import BAD_SIGNATURE, NO_KEY, NO_TOKEN, Fault

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SCHEME: Final = re.compile(
    rf"{ALGORITHM} +Credential=(?P<credential>[^, ]+), *SignedHeaders=(?P<headers>[^, ]+),"
    r" *Signature=(?P<signature>[0-9a-f]+)"
)
TIME: Final = "%Y%m%dT%H%M%SZ"
SKEW_SECONDS: Final = 900
EXPIRES_MAX_SECONDS: Final = 604_800
CREDENTIAL_PARTS: Final = 5
TERMINATOR: Final = "aws4_request"
SERVICES: Final = ("sqs", "sts")
MUST_BE_SIGNED: Final = frozenset({"host", "x-amz-target"})

Headers = Mapping[bytes, bytes]


class Signed(NamedTuple):
    """What a request says of the client that signed it."""

    key: str
    region: str


class Claim(NamedTuple):
    credential: list[str]  # key, day, region, service, terminator
    headers: list[str]
    signature: str
    time: str
    expires: int
    query: str  # the canonical one


def claimed(scope: Scope, headers: Headers) -> Signed:
    """What the request says, which need not be true."""
    claim = _claim(scope, headers)
    return Signed(claim.credential[0], claim.credential[2]) if claim else Signed("", "")


def verify(credentials: Credentials, scope: Scope, headers: Headers, body: bytes) -> None:
    """Raise a fault unless the request is signed with a known key."""
    claim = _claim(scope, headers)
    if claim is None:
        raise Fault(
            NO_TOKEN, "The request must contain a signature (AWS Signature Version 4) in Authorization."
        )
    key, day, _, service, terminator = claim.credential
    secret = credentials.secret(key)
    if secret is None:
        raise Fault(
            NO_KEY, "The security token included in the request is invalid: the access key is not known."
        )
    if service not in SERVICES or terminator != TERMINATOR or not claim.time.startswith(day):
        raise _wrong("the credential's scope is not of this service and day")
    _check_time(claim)
    _check_headers(claim, headers)
    expected = _signature(secret, claim, _canonical(claim, scope, headers, body))
    if not hmac.compare_digest(expected.encode(), claim.signature.encode(errors="replace")):
        raise _wrong("the signature does not match: check the secret access key")


def _wrong(why: str) -> Fault:
    return Fault(
        BAD_SIGNATURE, f"The request signature we calculated does not match the one you provided: {why}."
    )


def _claim(scope: Scope, headers: Headers) -> Claim | None:
    """What the request claims to be signed with, in a header or in the query; None: it is not signed."""
    said = headers.get(b"authorization")
    if said is None and not scope["query_string"]:
        return None
    found = SCHEME.fullmatch((said or b"").decode("latin-1").strip())
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    if found:
        time = headers.get(b"x-amz-date", b"").decode("latin-1")
        given = found["credential"], found["headers"], found["signature"], time, str(SKEW_SECONDS)
    else:
        fields = dict(pairs)
        if fields.get("X-Amz-Algorithm") != ALGORITHM:
            return None
        names = ("X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Signature", "X-Amz-Date", "X-Amz-Expires")
        given = tuple(fields.get(name, "") for name in names)
    credential, signed, signature, time, expires = given
    parts = credential.rsplit("/", CREDENTIAL_PARTS - 1)
    if len(parts) != CREDENTIAL_PARTS or not (expires.isascii() and expires.isdigit() and len(expires) < 10):
        return None
    query = _canonical_query((name, value) for name, value in pairs if name != "X-Amz-Signature")
    return Claim(parts, signed.split(";"), signature, time, int(expires), query)


def _check_time(claim: Claim) -> None:
    try:
        at = datetime.strptime(claim.time, TIME).replace(tzinfo=UTC)
    except ValueError:
        raise _wrong("X-Amz-Date is not a time") from None
    age = (datetime.now(UTC) - at).total_seconds()
    if not -SKEW_SECONDS <= age <= min(claim.expires, EXPIRES_MAX_SECONDS):
        raise _wrong(f"it was made {age:.0f} seconds ago by the server's clock")


def _check_headers(claim: Claim, headers: Headers) -> None:
    """What says where the request goes, and what it does, is signed."""
    there = {name.decode("latin-1") for name in headers}
    for name in MUST_BE_SIGNED & there:
        if name not in claim.headers:
            raise _wrong(f"the header {name} is not signed")
    if not set(claim.headers) <= there:
        raise _wrong("a signed header is missing")


def _canonical(claim: Claim, scope: Scope, headers: Headers, body: bytes) -> str:
    path = quote(scope["raw_path"].decode("latin-1"), safe="/-_.~") or "/"
    lines = [
        f"{name}:{' '.join(headers[name.encode('latin-1')].decode('latin-1').split())}"
        for name in claim.headers
    ]
    return "\n".join(
        [
            scope["method"], path, claim.query, *lines, "", ";".join(claim.headers),
            hashlib.sha256(body).hexdigest(),
        ]
    )  # fmt: skip


def _canonical_query(pairs: Iterable[tuple[str, str]]) -> str:
    quoted = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in quoted)


def _signature(secret: str, claim: Claim, canonical: str) -> str:
    scope = claim.credential[1:]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join([ALGORITHM, claim.time, "/".join(scope), digest])
    key = f"AWS4{secret}".encode()
    for part in [*scope, text]:
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()
