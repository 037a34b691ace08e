"""Tasks that Celery sends and receives by SQS: imported by the test and by its workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from celery import Celery

app = Celery("served", broker=os.environ["SQS_BROKER"])
app.conf.update(
    broker_transport_options={"is_secure": False, "region": "eu-west-1", "visibility_timeout": 2},
    task_acks_late=True, task_ignore_result=True,
    worker_enable_remote_control=False,  # SQS has no fan-out
)  # fmt: skip


@app.task(bind=True)
def note(self: Any, place: str, number: int) -> None:
    """Append *number* to the file `noted`; every third is tried again, and 7 kills its first worker."""
    if number % 3 == 0 and self.request.retries == 0:
        raise self.retry(countdown=0)
    if number == 7 and not Path(place, "killed").exists():
        Path(place, "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with Path(place, "noted").open("a") as file:
        file.write(f"{number}\n")
