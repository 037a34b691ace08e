"""What a process does, step by step, when the disk is full or fails.  Jobs for children; they assert."""

from __future__ import annotations

import os


def overwrite(path: str, text: str, sync: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.pwrite(fd, text.encode(), 0)
    if sync:
        os.fsync(fd)
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        os.fsync(directory)
