"""The command line.

root.py         the group of all commands, and which file each is in
app.py          --store, --json, --yes, and how errors become one line and an exit code
output.py       text, JSON and tables on standard output; what a body looks like there
progress.py     a bar on a terminal
params.py       what options take: durations, sizes, instants, names
signals.py      Ctrl-C held back while a message changes hands
publication.py  the record that published a message, read at once

and one file for each noun.  Data goes to standard output, everything else to standard error.
"""

from mq.cli.root import cli, main

__all__ = ["cli", "main"]
