"""kombu on mq: `pip install "mq[celery]"`, then one import and one URL.

import mq.contrib.kombu                       # makes the scheme mq:// known
from celery import Celery

app = Celery("tasks", broker="mq:///data", backend="mq:///data")

@app.task(acks_late=True)
def add(x, y): return x + y

# celery -A tasks worker          in a shell
add.delay(2, 3).get()           # → 5
"""

from kombu.transport import TRANSPORT_ALIASES

from mq.contrib.kombu.channel import Channel
from mq.contrib.kombu.transport import Transport

__all__ = ["Channel", "Transport"]

TRANSPORT_ALIASES["mq"] = "mq.contrib.kombu:Transport"
