"""huey on mq: `pip install "mq[huey]"`, then one line.

from mq.contrib.huey import MqHuey

huey = MqHuey("app", url="mq:///data")          # or a path; sync=0.1, max_attempts=5, …

@huey.task(retries=2)
def add(x, y): return x + y

# huey_consumer tasks.huey -w 4      in a shell
add(2, 3).get(blocking=True)       # → 5

a consumer that dies                its tasks are delivered again after the visibility timeout (huey: lost)
retries, pipelines, ETA, chords     stored in one step with the ack of the task that they follow
priority                            0 to 255, higher first; others are refused
schedule, delay, retry_delay        wait in the store, and are due to the millisecond
periodic tasks                      each tick once, however many consumers run
results, revokes, locks with a ttl  in sqlite, beside the store
rate limits, counters, signals      work; `SIGNAL_ENQUEUED` is not sent again for a task that falls due
workers                             threads, processes, greenlets
huey.immediate                      in memory, as ever
lock_task without a ttl             stays locked if its consumer dies: start it with --flush-locks
lock_task_semaphore                 none: it is of Redis
consumers on other machines         none: a store is of one machine
"""

from mq.contrib.huey.mqhuey import MqHuey
from mq.contrib.huey.storage import MqStorage

__all__ = ["MqHuey", "MqStorage"]
