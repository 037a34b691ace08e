"""taskiq on mq: `pip install "mq[taskiq]"`, then one line.

from mq.contrib.taskiq import MqBroker, ResultBackend

broker = MqBroker("mq:///data").with_result_backend(ResultBackend("mq:///data"))

@broker.task
async def add(x: int, y: int) -> int: return x + y

# taskiq worker tasks:broker          in a shell
task = await add.kiq(2, 3)
(await task.wait_result()).return_value         # → 5

tasks, kiq, middlewares, dependencies    work: all that is in taskiq and not in a broker
ack_type, --ack-type                     all of them; a task that ends without an ack is delivered again
a worker that dies                       its tasks are delivered again after the visibility timeout
delay=, priority=, queue_name=           labels: seconds; 0 to 255, higher first; another queue
dead letters                             with max_attempts=N, in `taskiq.dead`; see `mq dead replay`
results, progress                        ResultBackend: in sqlite, beside the store
schedules                                ScheduleSource: each tick once, by the store itself
hooks of a scheduler                     none for ticks of the store: no pre_send, no post_send
workers on other machines                none: a store is of one machine
"""

from mq.contrib.taskiq.broker import MqBroker
from mq.contrib.taskiq.results import ResultBackend
from mq.contrib.taskiq.schedules import ScheduleSource

__all__ = ["MqBroker", "ResultBackend", "ScheduleSource"]
