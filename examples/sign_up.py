"""Publish and subscribe: three subscribers act on a sign-up, and the sign-up knows none of them.

Each group has a queue of its own, and gets every message.  Processes with the same group share its messages.
To add a fourth subscriber changes nothing in `sign_up`.  The three are `async def`: tasks of one event loop,
and no threads.

Prints, in any order:

    mail: welcome, Ada
    mail: welcome, Bob
    newsletter: ada@example.org
    statistics: 1 sign-up from de
    statistics: 1 sign-up from fr
"""

import sys
import tempfile
from pathlib import Path

import msgspec

import mq


class SignUp(msgspec.Struct):
    name: str
    email: str
    newsletter: bool


def sign_up(broker: mq.Broker, user: SignUp, country: str) -> None:
    headers = {"newsletter": "yes" if user.newsletter else "no"}
    broker.topic(f"users.{country}.signed-up", type=SignUp).publish(user, headers=headers)


def main(directory: Path) -> None:
    with mq.open(directory / "mq") as broker:

        @broker.subscriber("users.*.signed-up", group="welcome-mail")
        async def welcome(user: SignUp) -> None:
            print(f"mail: welcome, {user.name}")

        @broker.subscriber("users.#", group="statistics")
        async def count(message: mq.Delivery[SignUp]) -> None:
            assert message.topic
            print(f"statistics: 1 sign-up from {message.topic.split('.')[1]}")

        newsletter = broker.queue("newsletter", type=SignUp)
        newsletter.subscribe("users.*.signed-up", match={"newsletter": "yes"})

        @broker.consumer(newsletter)
        async def enlist(user: SignUp) -> None:
            print(f"newsletter: {user.email}")

        sign_up(broker, SignUp("Ada", "ada@example.org", newsletter=True), "de")
        sign_up(broker, SignUp("Bob", "bob@example.org", newsletter=False), "fr")
        broker.run(until_empty=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))
