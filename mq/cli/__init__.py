"""The command line: `mq publish`, `receive`, `peek`, `queues`, `stats`, `inspect`, `dump`,
`verify`, `repair`, `compact`, `schedule`, `schedules`, `unschedule`, `worker`.

app.py       the group, --store, and how errors become one line and an exit code
output.py    text, JSON and tables on standard output; what a body looks like there
progress.py  a bar on a terminal
signals.py   Ctrl-C held back while a message changes hands

and one file for each command.  Data goes to standard output, everything else to
standard error.
"""

from mq.cli.app import cli
from mq.cli.compact import compact
from mq.cli.dump import dump
from mq.cli.inspect import inspect
from mq.cli.peek import peek
from mq.cli.publish import publish
from mq.cli.queues import queues
from mq.cli.receive import receive
from mq.cli.repair import repair
from mq.cli.schedules import schedule, schedules, unschedule
from mq.cli.stats import stats
from mq.cli.verify import verify
from mq.cli.worker import worker

for command in (
    publish, receive, peek, queues, stats, schedule, schedules, unschedule, inspect, dump, verify, repair,
    compact, worker,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """The console script."""
    cli(prog_name="mq")
