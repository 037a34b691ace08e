"""Django's tasks on mq: `pip install "mq[django]"`, then two settings.

INSTALLED_APPS += ["mq.contrib.django"]                   # manage.py mq_worker
TASKS = {"default": {
    "BACKEND": "mq.contrib.django.MqBackend",
    "OPTIONS": {"url": BASE_DIR / "data"},               # or mq:////var/lib/tasks; sync, max_attempts, …
}}

# manage.py mq_worker      in a shell
result = send_mail.enqueue("ann@example.org")           # send_mail: a function with @task
result.refresh(); result.status

enqueue, using, run_after, priority, queues  work: all of the flags supports_… are True
get_result, refresh, and their async forms   work, from any process; `result_ttl` says for how long
a task that is async                         works; in a worker's thread
a worker that dies                           its tasks are delivered again after the visibility timeout
a task that raises                           FAILED, and acked; `raise mq.Retry(delay=60)` has it tried again
a task that kills its worker                 FAILED after max_attempts, in the dead letters; `mq dead replay`
enqueue on commit                            `transaction.on_commit(partial(task.enqueue, …))`, or an option
Django ≥ 6.0, Python ≥ 3.12                  django.tasks; before: django-tasks, which has to be installed
workers on other machines                    none: a store is of one machine
"""

from __future__ import annotations

from typing import Any

__all__ = ["GivenUp", "MqBackend"]


class GivenUp(Exception):
    """What a result has as its error when its task has become a dead letter: after max_attempts, mostly.

    Its workers died, or it raised mq.Retry.  The traceback has the reason of each attempt.
    """


def __getattr__(name: str) -> Any:
    """MqBackend when it is asked for: an app is imported before Django is ready for the rest."""
    if name == "MqBackend":
        from mq.contrib.django.backend import MqBackend

        return MqBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
