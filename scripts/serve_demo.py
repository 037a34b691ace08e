"""Publish with boto3, kill the server again and again, start it, and count what comes out.

    python scripts/serve_demo.py [--messages N] [--kills N]

Each message whose send was answered has to come out; one whose answer the kill cut off may.  Nothing else.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import click
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

BATCH = 10
CUT_OFF = (ClientError, EndpointConnectionError, HTTPClientError)


@contextmanager
def served(store: str) -> Iterator[tuple[Any, subprocess.Popen[str]]]:
    """A server on *store*, and boto3's client of it."""
    command = [sys.executable, "-m", "mq", "--store", store, "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        sqs = boto3.client(
            "sqs", endpoint_url=process.stdout.readline().strip(), region_name="us-east-1",
            aws_access_key_id="x", aws_secret_access_key="x",
            config=Config(retries={"max_attempts": 0}, connect_timeout=10, read_timeout=30),
        )  # fmt: skip
        try:
            yield sqs, process
        finally:
            process.kill()


def publish(sqs: Any, first: int, last: int, answered: set[str], kill: Any) -> int:
    """Send batches from *first* on; halfway *kill*.  Up to where it came."""
    url = sqs.create_queue(QueueName="demo")["QueueUrl"]
    for start in range(first, last, BATCH):
        bodies = [str(number) for number in range(start, min(start + BATCH, last))]
        if kill and start >= (first + last) // 2:
            kill()
        try:
            sqs.send_message_batch(
                QueueUrl=url, Entries=[{"Id": body, "MessageBody": body} for body in bodies]
            )
        except CUT_OFF:
            return start + BATCH  # whether it is stored is open
        answered.update(bodies)
    return last


def receive_all(sqs: Any) -> list[str]:
    url = sqs.get_queue_url(QueueName="demo")["QueueUrl"]
    found: list[str] = []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=BATCH).get("Messages"):
        found += [each["Body"] for each in messages]
        sqs.delete_message_batch(
            QueueUrl=url,
            Entries=[{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)],
        )
    return found


@click.command(context_settings={"show_default": True})
@click.option("--messages", default=2000, help="How many are sent.")
@click.option("--kills", default=3, help="How often the server is killed meanwhile.")
def main(messages: int, kills: int) -> None:
    answered: set[str] = set()
    with tempfile.TemporaryDirectory() as place:
        store, sent = f"{place}/store", 0
        for round in range(kills + 1):
            last = messages * (round + 1) // (kills + 1)
            with served(store) as (sqs, process):
                kill = (lambda: process.send_signal(signal.SIGKILL)) if round < kills else None
                sent = publish(sqs, sent, last, answered, kill)
            click.echo(f"{len(answered):6,} of {sent:6,} sends answered{'; SIGKILL' if kill else ''}")
        with served(store) as (sqs, _):
            found = receive_all(sqs)
    lost, twice = answered - set(found), len(found) - len(set(found))
    invented = set(found) - {str(number) for number in range(messages)}
    click.echo(f"{len(found):6,} received: {len(lost)} lost, {len(invented)} invented, {twice} twice")
    if lost or invented or twice:
        raise click.ClickException("that is wrong")


if __name__ == "__main__":
    main()
