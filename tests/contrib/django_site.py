"""The settings of the site whose tasks the tests run; its store and options come from the environment."""

import json
import os

SECRET_KEY = "tests"
USE_TZ = True
INSTALLED_APPS = ["mq.contrib.django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
TASKS = {
    "default": {
        "BACKEND": "mq.contrib.django.MqBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {
            "url": os.environ.get("DJANGO_STORE", "mq:///unused"),
            **json.loads(os.environ.get("DJANGO_OPTIONS", "{}")),
        },
    },
}
