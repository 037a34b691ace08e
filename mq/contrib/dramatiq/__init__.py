"""dramatiq on mq: `pip install "mq[dramatiq]"`, then one line.

import dramatiq
from mq.contrib.dramatiq import MqBroker

dramatiq.set_broker(MqBroker("mq:///data"))     # or a path: MqBroker("data", sync=0.1)

@dramatiq.actor
def add(x, y): print(x + y)

# dramatiq tasks          in a shell
add.send(2, 3)

actors, retries, limits, callbacks    work, as do pipelines and groups; all middleware is dramatiq's own
delays                                wait in the store; any worker takes the message when it is due
a worker that dies                    its messages are delivered again after the visibility timeout
dead letters                          in `default.dead`; `mq dead replay` brings them back
broker_priority=                      0 to 255, higher first; `priority` of actors: within a worker
results, rate limits                  ResultBackend, RateLimiterBackend: in sqlite, beside the store
flush, join                           work; a flush leaves dead letters alone
delay queues                          none: no `eta`, no `before_delay_message`
dead_message_ttl                      none: dead letters stay until they are replayed or purged
workers on other machines             none: a store is of one machine
"""

from mq.contrib.dramatiq.backends import RateLimiterBackend, ResultBackend
from mq.contrib.dramatiq.broker import MqBroker
from mq.contrib.dramatiq.consumer import MqConsumer

__all__ = ["MqBroker", "MqConsumer", "RateLimiterBackend", "ResultBackend"]
