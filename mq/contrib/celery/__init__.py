"""Celery on mq: the result backend, and the scheduler of beat.  The broker is mq.contrib.kombu.

    import mq.contrib.celery                      # makes the scheme mq:// known, for both
    from celery import Celery

    app = Celery("tasks", broker="mq:///data", backend="mq:///data")
    app.conf.beat_scheduler = "mq.contrib.celery:Scheduler"

docs/celery.md says what of Celery works, what to set, and how to look at it with `mq`.
"""

from celery.app.backends import BACKEND_ALIASES

import mq.contrib.kombu  # noqa: F401  the scheme
from mq.contrib.celery.backend import ResultBackend
from mq.contrib.celery.beat import Scheduler

__all__ = ["ResultBackend", "Scheduler"]

BACKEND_ALIASES["mq"] = "mq.contrib.celery:ResultBackend"
