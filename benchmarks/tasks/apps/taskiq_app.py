import asyncio
import os

import task_log

STORE = os.environ["TASKS_STORE"]

if STORE.startswith("redis:"):
    from taskiq_redis import ListQueueBroker

    broker = ListQueueBroker(STORE)
else:
    from mq.contrib.taskiq import MqBroker

    broker = MqBroker(STORE)


@broker.task("nothing")
async def _nothing() -> None:
    task_log.ran()


@broker.task("late")
async def _late(sent: float) -> None:
    task_log.ran_late(sent)


_runner = asyncio.Runner()


def nothing() -> None:
    _runner.get_loop().run_until_complete(_nothing.kiq())


def late(sent: float) -> None:
    _runner.get_loop().run_until_complete(_late.kiq(sent))


def close() -> None:
    _runner.run(broker.shutdown())
    _runner.close()
