"""The command line: `mq publish`, `receive`, `peek`, `queues`, `stats`, `inspect`, `dump`.

app.py      the group, --store, and how errors become one line and an exit code
output.py   text, JSON and tables on standard output; what a body looks like there
signals.py  Ctrl-C held back while a message changes hands

and one file for each command.  Data goes to standard output, everything else to
standard error.
"""

from mq.cli.app import cli
from mq.cli.dump import dump
from mq.cli.inspect import inspect
from mq.cli.peek import peek
from mq.cli.publish import publish
from mq.cli.queues import queues
from mq.cli.receive import receive
from mq.cli.stats import stats

for command in (publish, receive, peek, queues, stats, inspect, dump):
    cli.add_command(command)


def main() -> None:
    """The console script."""
    cli(prog_name="mq")
