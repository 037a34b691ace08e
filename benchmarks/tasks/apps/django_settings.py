import os

INSTALLED_APPS = ["mq.contrib.django"]
SECRET_KEY = "of no use"
TASKS = {
    "default": {"BACKEND": "mq.contrib.django.MqBackend", "OPTIONS": {"url": os.environ["TASKS_STORE"]}},
}
USE_TZ = True
