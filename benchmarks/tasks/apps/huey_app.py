import os

import task_log
from huey import RedisHuey

from mq.contrib.huey import MqHuey

STORE = os.environ["TASKS_STORE"]

huey = RedisHuey("bench", url=STORE) if STORE.startswith("redis:") else MqHuey("bench", url=STORE)


@huey.task(name="nothing")
def nothing() -> None:
    task_log.ran()


@huey.task(name="late")
def late(sent: float) -> None:
    task_log.ran_late(sent)


close = huey.storage.close
