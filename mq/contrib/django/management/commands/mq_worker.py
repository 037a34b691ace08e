"""manage.py mq_worker: runs tasks until it is told to stop."""

from __future__ import annotations

import os
import socket
from argparse import ArgumentParser
from logging import CRITICAL, DEBUG, INFO, StreamHandler, getLogger
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.autoreload import run_with_reloader
from django.utils.crypto import get_random_string

from mq.contrib.django.backend import MqBackend
from mq.contrib.django.framework import DEFAULT_TASK_BACKEND_ALIAS, LOGGER, task_backends
from mq.contrib.django.worker import Worker
from mq.errors import MqError

LEVELS = {0: CRITICAL, 1: INFO}  # by --verbosity; else everything


class Command(BaseCommand):
    help = (
        "Run the tasks that are enqueued with mq.  SIGTERM or SIGINT lets tasks finish; a second one, or the"
        " end of --grace, gives them back to the queue, and they count as not tried."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--queue",
            nargs="+",
            metavar="NAME",
            help="Those to take tasks from.  Default: the backend's QUEUES.",
        )
        parser.add_argument(
            "--backend", default=DEFAULT_TASK_BACKEND_ALIAS, metavar="ALIAS", help="Default: %(default)s."
        )
        parser.add_argument(
            "--concurrency", type=int, default=1, metavar="N",
            help="How many tasks of each queue at once, each in a thread.  Default: %(default)s.",
        )  # fmt: skip
        parser.add_argument(
            "--grace", type=float, default=30.0, metavar="SECONDS",
            help="How long tasks may go on after a signal.  Default: %(default)s.",
        )  # fmt: skip
        parser.add_argument(
            "--until-empty", action="store_true", help="End when nothing waits, is deferred or runs."
        )
        parser.add_argument(
            "--worker-id",
            metavar="ID",
            help="In task_result.worker_ids.  Default: the host, the pid, a number.",
        )
        parser.add_argument(
            "--reload", action="store_true",
            help="For development: begin anew when code changes.  A task that runs then comes again.",
        )  # fmt: skip

    def handle(
        self, *, backend: str, queue: list[str] | None, concurrency: int, grace: float, until_empty: bool,
        worker_id: str | None, reload: bool, verbosity: int, **options: Any,
    ) -> None:  # fmt: skip
        self._show_logs(verbosity)
        found = task_backends[backend]
        if not isinstance(found, MqBackend):
            raise CommandError(f"TASKS[{backend!r}] is not of mq, but {type(found).__name__}")
        queues = sorted(queue or found.queues)
        if not queues:
            raise CommandError(f"TASKS[{backend!r}] takes tasks of any queue: say which, with --queue")
        worker = Worker(found, worker_id or f"{socket.gethostname()}-{os.getpid()}-{get_random_string(8)}")

        def run() -> None:
            self.stdout.write(
                f"{worker.worker_id} takes tasks from {', '.join(queues)} in {found.store.settings.path}"
            )
            worker.run(queues, concurrency=concurrency, grace=grace, until_empty=until_empty)

        try:
            if reload:
                run_with_reloader(run)
            else:
                run()
        except MqError as error:
            raise CommandError(str(error)) from error

    def _show_logs(self, verbosity: int) -> None:
        for name in (LOGGER, "mq"):
            said = getLogger(name)
            said.setLevel(LEVELS.get(verbosity, DEBUG))
            if not said.hasHandlers():
                said.addHandler(StreamHandler(self.stdout))
