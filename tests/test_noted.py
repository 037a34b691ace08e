"""Notes of processes that are killed: none is read by half, and what comes behind is read."""

from __future__ import annotations

from pathlib import Path

import noted


def test_a_note_that_is_cut_in_two_was_never_noted(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    noted.write(path, "told mail 12:9071\ntold mail 13:9153")
    data = path.read_bytes()
    end = data.index(b"\ntold mail 13")
    for size in range(end, len(data)):
        path.write_bytes(data[:size])
        assert noted.read(path) == ([["told", "mail", "12:9071"]], end)
        noted.write(path, "opening")
        assert noted.read(path, end)[0] == [["opening"]]


def test_what_is_not_whole_yet_is_read_next_time(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    noted.write(path, "try mail 12\ntold mail 12:9071")
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        first, at = noted.read(path)
        path.write_bytes(data)
        assert first + noted.read(path, at)[0] == [["try", "mail", "12"], ["told", "mail", "12:9071"]]


def test_no_file_has_no_notes(tmp_path: Path) -> None:
    assert noted.read(tmp_path / "notes") == ([], 0)
