"""The application, for `manage.py mq_worker`."""

from django.apps import AppConfig


class MqConfig(AppConfig):
    name = "mq.contrib.django"
    label = "mq"
    verbose_name = "mq"
