import os

import task_log
from celery import Celery

import mq.contrib.celery  # noqa: F401  the scheme

STORE = os.environ["TASKS_STORE"]

app = Celery("celery_app", broker=STORE)
app.conf.broker_connection_retry_on_startup = True
if STORE.startswith("filesystem:"):
    app.conf.broker_transport_options = {
        "data_folder_in": "messages", "data_folder_out": "messages", "control_folder": "control",
        "processed_folder": "processed",
    }  # fmt: skip


@app.task(name="nothing")
def _nothing() -> None:
    task_log.ran()


@app.task(name="late")
def _late(sent: float) -> None:
    task_log.ran_late(sent)


nothing, late, close = _nothing.delay, _late.delay, app.close
