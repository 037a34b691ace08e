import os

import dramatiq
import task_log

STORE = os.environ["TASKS_STORE"]

if STORE.startswith("redis:"):
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=STORE)
else:
    from mq.contrib.dramatiq import MqBroker

    broker = MqBroker(STORE)
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="nothing")
def _nothing() -> None:
    task_log.ran()


@dramatiq.actor(actor_name="late")
def _late(sent: float) -> None:
    task_log.ran_late(sent)


nothing, late, close = _nothing.send, _late.send, broker.close
