"""What the screens of an operator look like, whole: ages, times, ids and sizes of files aside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import Run

import mq


@pytest.fixture
def shop(store: Path) -> None:
    """A queue of each sort."""
    with mq.open(store) as broker:
        mail = broker.queue("mail", max_attempts=1, visibility_timeout=90)
        mail.publish_many(["one", {"two": 2}, b"\xff three"])
        mail.receive(timeout=0).nack(reason="no route to host")  # type: ignore[union-attr]
        mail.receive(timeout=0)
        mail.publish("later", delay=3600)
        broker.queue("orders", ttl=86_400).publish("x" * 3000, priority=7, headers={"source": "shop"})
        broker.queue("orders").pause()
        broker.queue("audit").subscribe("shop.#", match={"source": "web"})
        broker.topic("shop.eu", retain_count=5).publish("sold", headers={"source": "web"})
        broker.schedule("beat", "health", "ping", every=3600)


SCREENS = {
    "queues": """
queue      ready  in flight  delayed     size  oldest  state
audit          1          0        0     33 B     AGE
mail           1          1        1     34 B     AGE
mail.dead      1          0        0      3 B     AGE
orders         1          0        0  3.0 KiB     AGE  paused
""",
    "dead": """
queue      letters  oldest  from  last reason
mail.dead        1     AGE  mail  no route to host (1)
""",
    "dead show mail": """
message    ID
queue      mail.dead
died in    mail
published  TIME, AGE ago
attempt 1  no route to host
           failed TIME
body       text, 3 B
  one
""",
    "peek orders -n 1": """
ID  age  attempts  kind  size  with  body
ID  AGE  0  text  2.9 KiB  priority 7, source=shop, expires in 24.…  BODY…
""",
    "stats mail": """
queue               mail
ready               1
in flight           1
delayed             1
size                34 B
oldest              AGE
published           4
acked               0
failed              1
expired             0
dead-lettered       1
dropped             0
visibility timeout  1.5 min
max attempts        1
""",
    "topics": """
topic    queues  retained  size
shop.eu       1         1  33 B
""",
    "subscriptions": """
pattern  queue  match
shop.#   audit  source=web
""",
    "schedules": """
schedule  queue   times       next                      last
beat      health  every 3600 s  TIME  never
""",
}


@pytest.mark.parametrize("command", SCREENS)
def test_a_screen(run: Run, shop: None, command: str) -> None:
    result = run(*command.split())
    assert result.exit_code == 0
    assert words(result.stdout) == words(SCREENS[command])


def words(text: str) -> list[list[str]]:
    """The cells of each line, with what differs from run to run by its name."""
    text = re.sub(r"x{100,}", "BODY", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"\b\d+\.\d s\b", "AGE", text)
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.strip().splitlines()]
    return [["ID" if re.fullmatch(r"\d{3,}|id", cell) else cell for cell in line] for line in lines]
