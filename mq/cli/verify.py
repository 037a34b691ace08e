"""mq verify: read everything, and say what is damaged."""

from __future__ import annotations

from typing import Any, Final

import click

from mq.cli import output
from mq.cli.app import CORRUPT, command, disk_at, json_option, note, store_option
from mq.cli.checkpoints import unusable
from mq.cli.inspect import MEANINGS, exit_code, gap_fields, gap_line
from mq.cli.names import Lost, were_for
from mq.cli.progress import LogProgress
from mq.delivery import records
from mq.delivery.decode import refusals
from mq.errors import Unsupported
from mq.storage import paths, results
from mq.storage.disk import Disk
from mq.storage.look import Gap, Run
from mq.storage.segment import Segment
from mq.storage.suspects import suspects
from mq.storage.walk import Walk, read

A_COPY: Final = "this is a copy: only its log counts, and not what `mark` and checkpoints say was on the disk"
COPY_AGAIN: Final = "if files vanished while it was copied, copy again; else "


class Findings:
    """What is damaged, and how much is not."""

    walk: Walk

    def __init__(self, disk: Disk, store: str, progress: LogProgress) -> None:
        self._disk, self._progress = disk, progress
        self.lost = Lost(disk, store)
        self.checkpoints: list[str] = []  # files that cannot be used
        self.results: list[str] = []  # what is wrong with the results of task libraries

    def begin(self, end: int) -> None:
        self.records = self.bytes = 0  # of intact records
        self.gaps: list[tuple[Gap, tuple[int, ...]]] = []  # with the messages affected
        self._progress.begin(end)

    def see(self, each: Segment | None, part: Run | Gap) -> None:
        if isinstance(part, Gap):
            ids = () if each is None or part.torn else suspects(self._disk, each, part, self.lost)
            self.gaps.append((part, ids))
        elif not part.stale:  # else its file is only not unlinked yet
            self.records += len(part.stretch.lsns)
            self.bytes += part.end - part.start
            self._progress.read(part.start, part.end)

    @property
    def damaged(self) -> bool:
        return any(not gap.torn for gap, _ in self.gaps)


@command(short_help="Read the whole log, and say what is damaged.")
@json_option
@store_option
@click.pass_context
def verify(ctx: click.Context, as_json: bool, store: str) -> None:
    """Read every record of every segment, compare its checksum, and decode it as an opening does.

    Names each damaged place: file, offset, size, the messages that may be lost with it, and the
    queues that had them from a topic.  Checks the results of task libraries, if there are any.
    Writes nothing.  Works while other processes have the store open.  Exit code 0 if the store
    is clean, or open or torn (as after a crash: the next opening recovers it), 4 if it is damaged.

    \b
    mq verify
    mq verify --json | jq 'select(.type == "damage") | .ids'
    """
    disk = disk_at(ctx, store)
    found = _verify(disk, store)
    (_print_json if as_json else _print_text)(found)
    code = CORRUPT if found.damaged or found.results else exit_code(found.walk)
    if code:
        output.flush()
        if found.results and not found.damaged:
            note(f"{paths.RESULTS} is damaged: no message is; put back that of a backup, or remove it")
        elif not found.gaps:
            note(str(found.walk.problem))
        elif found.walk.problem is None:
            note("records are missing: put the file back, or open the store, which goes on without them")
        elif code == CORRUPT:
            first = COPY_AGAIN if found.walk.view.copied else ""
            note(f"damaged: {first}`mq repair --dry-run` says what a repair would cost")
        ctx.exit(code)


def _verify(disk: Disk, store: str) -> Findings:
    with LogProgress("verifying") as progress:
        found = Findings(disk, store, progress)
        walked = found.walk = read(disk, store, records.NEW, found, refusals)
    found.gaps = [each for each in found.gaps if each[0].lsn >= walked.head or each[0] in walked.missing]
    refused = [gap for gap, _ in found.gaps if not gap.torn and gap not in walked.missing]
    if walked.problem is None and refused:  # all is intact, but recovery does not take it
        gap = refused[0]
        walked.problem = Unsupported(f"{gap.path} at offset {gap.offset}: {gap.reason}")
    found.gaps.sort(key=lambda each: (each[0].lsn, each[0].offset))
    found.checkpoints = list(unusable(disk, store, walked.identity.key, walked.view.upto))
    found.results = results.damage(disk, store)
    return found


def _print_json(found: Findings) -> None:
    for gap, ids in found.gaps:
        output.json_line({"type": "torn" if gap.torn else "damage", **_fields(gap, ids, found.lost)})
    for path in found.checkpoints:
        output.json_line({"type": "warning", "path": path, "reason": "the checkpoint cannot be used"})
    walked = found.walk
    for reason in found.results:
        path = paths.results(paths.absolute(walked.path))
        output.json_line({"type": "damage", "path": path, "reason": reason, "ids": [], "queues": []})
    output.json_line({
        "type": "store", "path": paths.absolute(walked.path), "verdict": walked.verdict,
        "problem": str(walked.problem) if walked.problem else None, "copy": walked.view.copied,
        "segments": len(walked.files), "records": found.records, "bytes": found.bytes,
    })  # fmt: skip


def _fields(gap: Gap, ids: tuple[int, ...], lost: Lost) -> dict[str, Any]:
    fields = gap_fields(gap)
    del fields["kind"]
    return fields | {"ids": list(ids), "queues": lost.queues(ids)}


def _print_text(found: Findings) -> None:
    for gap, ids in found.gaps:
        which = f"; message {', '.join(map(str, ids))}" if ids else ""
        output.say(gap_line(gap) + which + were_for(found.lost.queues(ids)), 2)
    for path in found.checkpoints:
        output.say(
            f"{path}: warning: this checkpoint cannot be used; opening takes longer, nothing is lost", 2
        )
    walked, verdict = found.walk, found.walk.verdict
    for reason in found.results:
        output.say(f"{paths.results(walked.path)}: {reason}", 2)
    said = "in use, and whole" if walked.view.held and not found.damaged else MEANINGS.get(verdict, "")
    if found.damaged and walked.problem is None:
        said = "but the end is missing"
    if walked.view.copied:
        output.say(A_COPY, 2)
    counts = f"{output.count(found.records, 'record')} in {output.count(len(walked.files), 'segment')}"
    output.say(f"{counts}, {output.size(found.bytes)}: {verdict}" + (f": {said}" if said else ""), 2)
