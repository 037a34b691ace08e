"""The processes of the demo, and what they tell: each line that one of them prints is a number.

python flow.py publish URL COUNT         the number of each message whose publish returned
python flow.py work URL                  the number of each message whose ack returned
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

import mq

QUEUE = "jobs"
WORKERS = 2
RETRY_SECONDS = 0.5
PATIENCE = 120.0  # seconds without any progress: then something is wrong


# ── in the processes ───────────────────────────────────────────────────────────────


def publish(url: str, count: str) -> None:
    """With a dedup id, so that a publish whose outcome is unknown is simply made again."""
    with mq.open(url) as broker:
        queue = broker.queue(QUEUE)
        for number in range(int(count)):
            while not _published(queue, number):
                time.sleep(RETRY_SECONDS)
            print(number, flush=True)


def _published(queue: mq.Queue[object], number: int) -> bool:
    try:
        queue.publish({"job": number}, dedup_id=str(number))
    except mq.StorageError as error:
        print(f"job {number}: {error}", file=sys.stderr, flush=True)
        return False
    return True


def work(url: str) -> None:
    """A job is done, then acked; if the ack does not reach the cluster, the job comes again."""
    with mq.open(url) as broker:
        while True:
            try:
                for message in broker.queue(QUEUE):
                    print(message.body["job"], flush=True)
                    message.ack()
            except (mq.StorageError, mq.StaleReceipt) as error:
                print(error, file=sys.stderr, flush=True)


# ── what watches them ──────────────────────────────────────────────────────────────


class Flow:
    def __init__(self, url: str, count: int) -> None:
        self._url, self._count = url, count
        self.published: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        self._began = time.monotonic()
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        self._moved = threading.Condition()

    def __enter__(self) -> Self:
        with mq.open(self._url) as broker:
            broker.queue(QUEUE, visibility_timeout=10)
        self._start(self.published, "publish", self._url, str(self._count))
        for _ in range(WORKERS):
            self._start(self.done, "work", self._url)
        self.say(f"one process publishes {self._count:,} jobs, {WORKERS} others work on them")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
            process.wait()
        for thread in self._threads:
            thread.join()

    def _start(self, told: Counter[int], *arguments: str) -> None:
        process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        thread = threading.Thread(target=self._listen, args=(process, told), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self, process: subprocess.Popen[str], told: Counter[int]) -> None:
        assert process.stdout
        for line in process.stdout:
            with self._moved:
                told[int(line)] += 1
                self._moved.notify_all()

    def say(self, what: str) -> None:
        seconds = time.monotonic() - self._began
        print(
            f"{seconds:5.1f} s   published {len(self.published):5,}   done {len(self.done):5,}   {what}",
            flush=True,
        )

    def until(self, count: int) -> None:
        """Return once so many jobs are done."""
        with self._moved:
            if not self._moved.wait_for(lambda: len(self.done) >= count, PATIENCE):
                raise SystemExit(
                    f"scripts/cluster: only {len(self.done):,} of {count:,} jobs are done: it is stuck"
                )

    def until_more(self) -> None:
        self.until(min(self._count, len(self.done) + WORKERS + 1))

    def end(self) -> int:
        self.until(self._count)
        self.say("all done")
        lost = self.published.keys() - self.done.keys()
        twice = sum(times > 1 for times in self.done.values())
        print(f"\n{len(self.published):,} published, {len(self.done):,} done, {len(lost)} lost")
        if twice:
            print(f"{twice} done twice: an ack did not reach the cluster before its leader died")
        return 1 if lost else 0


if __name__ == "__main__":
    {"publish": publish, "work": work}[sys.argv[1]](*sys.argv[2:])
