import django
import task_log

from mq.contrib.django.framework import LOGGER

django.setup()

if LOGGER == "django.tasks":
    from django.tasks import task, task_backends
else:
    from django_tasks import task, task_backends


@task
def _nothing() -> None:
    task_log.ran()


@task
def _late(sent: float) -> None:
    task_log.ran_late(sent)


nothing, late, close = _nothing.enqueue, _late.enqueue, task_backends["default"].store.close
