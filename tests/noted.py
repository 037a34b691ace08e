"""What processes note in a file before they are killed: a line each, and never half of one.

SIGKILL may end a write(2) behind any page of the file, and so cut a note in two; that of another
process follows at once.  So a note begins with a line feed, and ends with a full stop that stands
alone.  What has none was never noted.
"""

from __future__ import annotations

import os
from pathlib import Path

END = b" ."


class Notes:
    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, *words: object) -> None:
        os.write(self._fd, b"\n%s%s" % (" ".join(map(str, words)).encode(), END))


def write(path: str | Path, story: str) -> None:
    """A note of each line, as a process would have left them."""
    with open(path, "ab") as file:
        file.writelines(b"\n%s%s" % (line.encode(), END) for line in story.splitlines())


def read(path: str | Path, start: int = 0) -> tuple[list[list[str]], int]:
    """The notes from byte *start* on, in words; and where the last of them ends.  No file has none."""
    if not os.path.exists(path):
        return [], start
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read()
    size = data.rfind(END) + len(END) if END in data else 0
    lines = data[:size].split(b"\n")
    return [line.decode().split()[:-1] for line in lines if line.endswith(END)], start + size
