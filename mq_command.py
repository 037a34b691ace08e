"""The console script `mq`: outside of the package, so that Ctrl-C while that is imported prints nothing."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    gc.disable()  # nothing of what is loaded is garbage
    try:
        from mq.cli import main
    except KeyboardInterrupt:
        sys.exit(130)
    main()
