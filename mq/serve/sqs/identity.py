"""STS GetCallerIdentity, because clients ask the same server who they are."""

from __future__ import annotations

from typing import Final

from mq.serve.sqs.reply import Reply

ACTION: Final = "GetCallerIdentity"
NAMESPACE: Final = "https://sts.amazonaws.com/doc/2011-06-15/"


def answer(account: str, key: str, request_id: str) -> Reply:
    """*key*: the access key that the client signed with, of which letters and digits count."""
    user = "".join(each for each in key if each.isascii() and each.isalnum()) or "mq"
    return Reply(
        200, "text/xml",
        f'<?xml version="1.0"?><GetCallerIdentityResponse xmlns="{NAMESPACE}"><GetCallerIdentityResult>'
        f"<Arn>arn:aws:iam::{account}:user/{user}</Arn><UserId>{user}</UserId><Account>{account}</Account>"
        f"</GetCallerIdentityResult><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
        "</GetCallerIdentityResponse>".encode(),
    )  # fmt: skip
