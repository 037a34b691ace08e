"""The framework of tasks: Django's own; before Django 6.0 the package django-tasks, which is the same."""

from __future__ import annotations

import django

if django.VERSION >= (6, 0):
    from django.tasks import Task, TaskContext, TaskResult, TaskResultStatus, task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import DEFAULT_TASK_BACKEND_ALIAS, TASK_MIN_PRIORITY, TaskError
    from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started
    from django.utils.json import normalize_json

    LOGGER = "django.tasks"
else:
    try:
        import django_tasks  # noqa: F401
    except ImportError:
        raise ModuleNotFoundError(
            f"Django {django.get_version()} has no tasks of its own, as 6.0 has (for Python 3.12):"
            " `pip install django-tasks`"
        ) from None
    from django_tasks import TaskContext, TaskResult, TaskResultStatus, task_backends
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.base import DEFAULT_TASK_BACKEND_ALIAS, TASK_MIN_PRIORITY, Task, TaskError
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.signals import task_enqueued, task_finished, task_started
    from django_tasks.utils import normalize_json

    try:
        from django_tasks.exceptions import InvalidTask
    except ImportError:  # up to 0.12
        from django_tasks.exceptions import InvalidTaskError as InvalidTask

    LOGGER = "django_tasks"

__all__ = [
    "DEFAULT_TASK_BACKEND_ALIAS", "LOGGER", "TASK_MIN_PRIORITY", "BaseTaskBackend", "InvalidTask", "Task",
    "TaskContext", "TaskError", "TaskResult", "TaskResultDoesNotExist", "TaskResultStatus", "normalize_json",
    "task_backends", "task_enqueued", "task_finished", "task_started",
]  # fmt: skip
