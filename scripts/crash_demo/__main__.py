"""Publish a real file and consume it again, with kill -9 on the way; then count.

notes.py    what a worker saw happen, kept outside the store
workers.py  the publisher and the consumer that are killed
rounds.py   run a worker, kill it, open the store again
audit.py    the notes against the store
report.py   the table and the verdict
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "webhooks.ndjson"
MESSAGES_MIN = 2_000  # a shorter file goes round again, so that there is something to kill
MESSAGES_MAX = 10_000
LINE_BYTES_MAX = 64 << 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Publish the lines of a file to a queue and consume them again, each line a message. On"
        " the way the publishing, then the consuming process is killed with SIGKILL several times. After each"
        " kill the store is opened again and compared with what the processes had noted. The exit code is 1"
        " if anything was lost or altered.",
    )
    parser.add_argument(
        "file", nargs="?", type=Path, default=SAMPLE, help="default: the real webhook deliveries in examples/"
    )
    parser.add_argument(
        "--kills", type=int, default=5, metavar="N", help="kill the publisher, and the consumer, N times (5)"
    )
    parser.add_argument(
        "--messages", type=int, metavar="N",
        help=f"publish N messages (default: every line, but {MESSAGES_MIN:,} to {MESSAGES_MAX:,})",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="choose the marks as an earlier run did")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new directory, and leave it")
    options = parser.parse_args()
    if options.kills < 0 or (options.messages is not None and options.messages <= options.kills):
        parser.error("--kills is at least 0, and --messages more than --kills")
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} exists; name a new directory")
    return options


def main() -> int:
    options = arguments()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    try:
        lines = list(read_lines(options.file))
    except OSError as error:
        return fail(f"{options.file}: {error.strerror}")
    if not lines:
        return fail(f"{options.file} has no lines; name a file that has some")
    if max(map(len, lines)) > LINE_BYTES_MAX:
        return fail(
            f"{options.file} has a line of more than {LINE_BYTES_MAX:,} bytes, the most that a message has"
        )
    if options.keep:
        options.keep.mkdir(parents=True)
    work = options.keep or Path(tempfile.mkdtemp(prefix="mq-demo-"))
    try:
        total = options.messages or max(MESSAGES_MIN, len(lines))
        (work / "input").write_bytes(b"\n".join(lines))
        turns = f", in turn until there are {total:,} messages" if total > len(lines) else ""
        print(f"{options.file}: {len(lines):,} lines, {sum(map(len, lines)):,} bytes{turns}")
        print(f"kills: {options.kills} while publishing, {options.kills} while consuming; seed {seed}\n")
        # Not imported above: --help works before anything is installed.
        from report import report
        from rounds import Failed, Rounds

        rounds = Rounds(work, lines, total, options.kills, random.Random(seed))
        try:
            rows = rounds.run()
        except Failed as failed:
            return fail(str(failed))
        return 0 if report(rows, rounds.audit) else 1
    except KeyboardInterrupt:
        return fail("interrupted")
    finally:
        if options.keep:
            print(f"everything is left in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines that are not empty, MESSAGES_MAX at the most."""
    with path.open("rb") as file:
        for line in islice(file, MESSAGES_MAX):
            if body := line.removesuffix(b"\n"):
                yield body


def fail(text: str) -> int:
    print(f"demo: {text}", file=sys.stderr)
    return 1


def work() -> None:
    """`--worker publish|consume DIR TOTAL`: be one of the processes that are killed."""
    import workers

    what, directory, total = sys.argv[2:]
    if what == "publish":
        workers.publish(Path(directory), int(total))
    else:
        workers.consume(Path(directory))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work()
    else:
        sys.exit(main())
