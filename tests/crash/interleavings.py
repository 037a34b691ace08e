"""The interleavings that were thought of before the first run, each by its name.

`visit(here, name)` raises Wrong if a promise is broken in one.  What happens after a fork
is not here: tests/test_fork.py has real ones.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from unittest import mock

from mq.engine import replica
from mq.errors import DiskFull, StoreLocked, Unsupported
from mq.storage import cleaner, reader, rotation
from mq.storage.reserve import Reserve

from .actor import Actor
from .disk import PAGE_BYTES, SHORT
from .driver import Wrong
from .fate import ALL, NONE, Fate
from .kernel import Here
from .scripts import filled
from .stage import Stage

# Words of the page, as a Call names them.
END, SYNCED, SYNCING, WAITING = "1", "3", "4", "9"
LOCK, SEGMENT = "LOCK", ".seg"
TURNS_MAX = 12  # of another process, before one that waits is served

Interleaving = Callable[[Here], None]


def on_stage(names: str = "abc") -> Callable[[Callable[[Stage], None]], Interleaving]:
    def decorate(play: Callable[[Stage], None]) -> Interleaving:
        def run(here: Here) -> None:
            stage = Stage(here, names)
            try:
                play(stage)
            except Wrong as wrong:
                raise Wrong("\n".join([str(wrong), *stage.lines()])) from wrong
            finally:
                stage.shut_down()

        INTERLEAVINGS[play.__name__] = run
        return run

    return decorate


INTERLEAVINGS: dict[str, Interleaving] = {}
YEAR = 31_557_600.0  # seconds


def visit(here: Here, name: str) -> None:
    INTERLEAVINGS[name](here)


def two_open(stage: Stage, first: str = "always", second: str = "always") -> None:
    stage.do("a", Actor.open, first)
    stage.do("a", Actor.publish, "q")
    stage.do("b", Actor.open, second)


@on_stage("ab")
def a_queue_is_declared_that_another_process_has_looked_at(stage: Stage) -> None:
    """When b first looked there was none of that name."""
    stage.do("a", Actor.open)
    stage.do("b", Actor.open)
    stage.do("b", Actor.options, "q")
    stage.do("a", Actor.declare, "q", 20.0)
    stage.do("b", Actor.options, "q")
    stage.end(cuts=5)


@on_stage()
def killed_between_the_write_of_a_group_and_its_end(stage: Stage) -> None:
    """1. The next writer's record is as long as the group's first."""
    two_open(stage)
    stage.begin("a", Actor.publish, "q", 2, size=40)
    stage.until("a", "store", END)
    stage.kill("a")
    stage.look()
    stage.do("b", Actor.publish, "q", size=40)
    stage.do("b", Actor.take, "q", 4)
    if len(stage["b"].held) != 4:
        raise Wrong(f"P4: a group that was written is not adopted: {stage['b'].held}")
    stage.end()


@on_stage()
def killed_when_the_fence_is_there_and_the_end_in_the_old_segment(stage: Stage) -> None:
    """2, the first half: no process has heard of the new segment."""
    two_open(stage)
    stage.do("a", Actor.publish, "q", size=700)
    stage.begin("a", Actor.publish, "q", 2, size=300)
    stage.until("a", "store", END)
    stage.kill("a")
    stage.look()
    stage.do("b", Actor.publish, "q")
    stage.end()


@on_stage()
def killed_when_the_group_is_in_the_new_segment_and_the_end_is_its_fences(stage: Stage) -> None:
    """2, the second half."""
    two_open(stage)
    stage.do("a", Actor.publish, "q", size=700)
    stage.begin("a", Actor.publish, "q", 2, size=300)
    stage.until("a", "store", END, nth=2)
    stage.kill("a")
    stage.look()
    stage.do("b", Actor.take, "q", 4)
    if len(stage["b"].held) != 4:
        raise Wrong(f"P4: a group that was written is not adopted: {stage['b'].held}")
    stage.end()


@on_stage()
def the_leader_is_killed_inside_an_fdatasync_that_failed(stage: Stage) -> None:
    """3. Another opens the segment, or has it open, syncs "OK"; the power goes."""
    two_open(stage)
    stage.begin("a", Actor.publish, "q", size=600)
    stage.until("a", "sync", SEGMENT)
    stage.kill("a", inside=errno.EIO)
    stage.do("b", Actor.publish, "q", size=100)
    stage.look("after b")
    stage.do("c", Actor.open)
    stage.do("c", Actor.publish, "q", size=600)
    stage.end()


def in_the_rewrite(here: Here) -> Iterator[Stage]:
    """A stage for each call on the segment of b, which finds that a died inside an fdatasync that failed.

    b is about to make that call.  c has published behind a since; it waits for no disk.
    """
    for nth in count(1):
        stage = Stage(here, "abcde")
        try:
            two_open(stage)
            stage.do("c", Actor.open, "never")
            stage.do("d", Actor.open)
            for name in "bcd":
                stage.do(name, Actor.publish, "q")  # the first one syncs inside its turn
            stage.begin("a", Actor.publish, "q", size=150)
            stage.until("a", "sync", SEGMENT)
            stage.kill("a", inside=errno.EIO)
            stage.do("c", Actor.publish, "q", size=90)
            stage.begin("b", Actor.publish, "q", size=60)
            seen = 0
            while seen < nth and stage["b"].process.go(lambda call: SEGMENT in call.path):
                seen += 1
            if seen < nth:
                return
            yield stage
        except Wrong as wrong:
            raise Wrong("\n".join([f"{wrong} (at b's call {nth} on the segment)", *stage.lines()])) from wrong
        finally:
            stage.shut_down()


@on_stage("a")
def a_death_inside_a_failed_fdatasync_while_another_process_appends_to_the_page(stage: Stage) -> None:
    """The kernel drops the page, with what the other appended; and the rewriter has not seen that."""
    for each in in_the_rewrite(stage.here):
        each.begin("c", Actor.publish, "q")
        each.as_far_as_it_gets("c")
        each.finish("b", "c")
        each.end(cuts=4)


@on_stage("a")
def two_lead_after_a_death_inside_a_failed_fdatasync(stage: Stage) -> None:
    """Both find it, and each wants the lock; the second finds that it is done."""
    for each in in_the_rewrite(stage.here):
        each.begin("d", Actor.publish, "q")
        each.as_far_as_it_gets("d")
        each.finish("b", "d")
        each.end(cuts=4)


@on_stage("a")
def killed_in_the_rewrite_after_a_death_inside_a_failed_fdatasync(stage: Stage) -> None:
    """What had returned before is there: the kernel does not stop between dropping a page and writing it."""
    for each in in_the_rewrite(stage.here):
        each.kill("b")
        each.look("killed in the rewrite", cuts=4)
        each.do("d", Actor.publish, "q")
        each.end(cuts=4)


@on_stage("a")
def a_reader_comes_in_the_rewrite_after_a_death_inside_a_failed_fdatasync(stage: Stage) -> None:
    """It only reads, and has no lock to wait for."""
    for each in in_the_rewrite(stage.here):
        each.begin("e", Actor.open, read_only=True)
        each.as_far_as_it_gets("e", waits=20)  # not for the lock: it goes on without
        each.finish("b", "e")
        each.do("e", Actor.see_all)
        if len(each["e"].seen.messages) < 6:
            raise Wrong(f"P1: not all that was published is there: {each['e'].seen}")
        each.do("e", Actor.close)
        each.end(cuts=4)


@on_stage("a")
def another_reads_in_the_rewrite_after_a_death_inside_a_failed_fdatasync(stage: Stage) -> None:
    """For a moment the page is gone, and the disk has what was there before."""
    for each in in_the_rewrite(stage.here):
        each.begin("d", Actor.take, "q", 7)
        each.as_far_as_it_gets("d")
        each.finish("b", "d")
        if len(each["d"].held) < 6:
            raise Wrong(f"P1: not all that was published is there: {each['d'].held}")
        each.end(cuts=4)


@on_stage()
def another_would_sync_while_the_leaders_fdatasync_fails(stage: Stage) -> None:
    """3, again.  The failure is the leader's alone to hear, and what the other wrote counts as clean too."""
    two_open(stage)
    stage.begin("a", Actor.publish, "q", size=300)
    stage.until("a", "store", SYNCING)
    stage.begin("b", Actor.publish, "q", size=300)
    stage["b"].process.go(lambda call: call.kind == "pause" or (call.kind, call.path) == ("store", SYNCING))
    stage.until("a", "sync", SEGMENT)
    stage.kill("a", inside=errno.EIO)
    stage.finish("b")
    stage.look()
    stage.end()


@on_stage()
def a_publisher_appends_while_the_leader_syncs(stage: Stage) -> None:
    """4. A leader that samples the end after the fdatasync claims what was appended in between."""
    two_open(stage, second="never")
    stage.begin("a", Actor.publish, "q", size=300)
    stage.past("a", "sync", SEGMENT)
    stage.do("b", Actor.publish, "q", size=300)
    stage.finish("a")
    stage.look()
    stage.do("b", Actor.flush)
    stage.end()


@on_stage()
def the_target_spans_a_rotation(stage: Stage) -> None:
    """5. Both segments are synced, the older one first."""
    two_open(stage, first="never")
    stage.do("a", Actor.publish, "q", size=500)
    stage.do("a", Actor.publish, "q", size=500)
    stage.begin("b", Actor.publish, "q")
    stage.until("b", "store", SYNCED)
    stage.look("before it is claimed")
    stage.finish("b")
    stage.look("after it was claimed")
    stage.end()


@on_stage()
def the_newer_segment_is_on_the_disk_and_the_older_has_a_hole(stage: Stage) -> None:
    """6. Nothing is claimed: torn, and no damage."""
    two_open(stage, "never", "never")
    for name in "abab":
        stage.do(name, Actor.publish, "q", size=480)
        stage.look(f"after {name}")
    stage.end()


@on_stage("abcd")
def the_recoverer_is_killed_and_the_next_one_too(stage: Stage) -> None:
    """7. Before its fence; then inside its rewrite.  The next opener queues on LOCK."""
    two_open(stage, "never", "never")
    stage.do("a", Actor.publish, "q", size=300)
    stage.kill("b")
    stage.begin("a", Actor.publish, "q", 2, size=90)
    stage.until("a", "copy", SEGMENT)
    stage.kill("a", inside=SHORT)
    stage.look("torn")
    stage.begin("c", Actor.open)
    stage.until("c", "pwrite", SEGMENT)
    stage.begin("d", Actor.open)
    stage.until("d", "pause")
    stage.until("c", "pwrite", SEGMENT)
    stage.kill("c")
    stage.look("recovery killed")
    stage.until("d", "pwrite", SEGMENT)
    stage.kill("d", inside=SHORT)
    stage.look("recovery killed again")
    stage._settle()


@on_stage()
def the_page_is_ahead_of_the_disk(stage: Stage) -> None:
    """8. After the power cut a tool attaches that only reads, then a writer."""
    two_open(stage)
    stage.do("a", Actor.close)
    stage.do("a", Actor.open, "never")
    stage.do("a", Actor.publish, "q", 3, size=90)
    words_only = Fate(lambda n: 0, NONE, ALL, ALL)
    later = Stage(stage.here, "ab", stage.kernel.disk.after_power(words_only))
    try:
        later.do("a", Actor.open, read_only=True)
        later.do("a", Actor.see_all)
        later.do("b", Actor.open)
        later.do("b", Actor.see_all)
        seen = [[each.body for each in later[name].seen.messages] for name in "ab"]
        if seen != [[b"a1."], [b"a1."]]:
            raise Wrong(f"P1: {seen}")
        later.do("b", Actor.publish, "q")
        if later.witness.ids[b"b1."] <= max(stage.witness.ids.values()):
            raise Wrong("P3: an id is given again")
        later.do("a", Actor.see_all)
        if [each.body for each in later["a"].seen.messages] != [b"a1.", b"b1."]:
            raise Wrong(f"P1: {later['r'].seen}")
    finally:
        later.shut_down()


@on_stage()
def a_receipt_from_before_the_power_cut(stage: Stage) -> None:
    """9. It names no delivery, and settles none."""
    two_open(stage)
    stage.do("a", Actor.close)
    stage.do("a", Actor.open, "never")
    stage.do("a", Actor.publish, "q", 2)
    stage.do("a", Actor.take, "q", 3)
    taken = stage["a"].held
    later = Stage(stage.here, "ab", stage.kernel.disk.after_power(Fate(lambda n: 0, NONE, ALL, ALL)))
    try:
        for name in "ab":
            later.do(name, Actor.open)
            later.do(name, Actor.publish, "q", 2)
        later.do("b", Actor.take, "q", 5)
        for each in taken:
            later.do("a", Actor.ack_elsewhere, each)
        acks = [op.outcome for op in later.witness.of_kind("ack")]
        if acks != ["stale"] * 3 or len(later["b"].held) != 5:
            raise Wrong(f"P2: a receipt from before the cut settled something: {acks}")
        if min(later.witness.ids.values()) <= max(stage.witness.ids.values()):
            raise Wrong("P3: an id is given again")
    finally:
        later.shut_down()


@on_stage()
def a_cleaner_dies_before_its_directory_is_synced(stage: Stage) -> None:
    """10. Another unlinks the next segment; the power goes: there is no gap in the log."""
    stage.do("a", filled)
    stage.do("b", Actor.open)
    stage.begin("a", Actor.maintain)
    stage.until("a", "unlink", SEGMENT)
    stage.until("a", "sync_directory", "log")
    stage.kill("a")
    stage.look("a died")
    stage.begin("b", Actor.maintain)
    while stage["b"].process.go(lambda call: call.kind == "unlink" and SEGMENT in call.path):
        stage.look("before an unlink")
    stage.end()


@on_stage()
def an_ack_between_two_slices_of_the_cleaner(stage: Stage) -> None:
    """11, the first half."""
    stage.do("a", filled)
    stage.do("b", Actor.open)
    stage.do("b", Actor.take, "stuck")
    with mock.patch.object(cleaner, "SLICE_RECORDS", 1):
        stage.begin("a", Actor.maintain)
        stage.until("a", "pwrite", SEGMENT)
        stage.until("a", "lock", LOCK)
        stage.do("b", Actor.ack)
        stage.look("acked")
        stage.finish("a")
    stage.end()


@on_stage()
def an_ack_between_a_relocation_and_its_sync(stage: Stage) -> None:
    """11, the second half."""
    stage.do("a", filled)
    stage.do("b", Actor.open)
    stage.do("b", Actor.take, "stuck")
    stage.begin("a", Actor.maintain)
    stage.until("a", "sync", SEGMENT)
    stage.look("before the ack")
    stage.do("b", Actor.ack)
    stage.look("after the ack")
    stage.until("a", "unlink", SEGMENT)
    stage.look("before the segment goes")
    stage.finish("a")
    stage.end()


@on_stage()
def a_body_moves_and_its_segment_goes_before_it_is_read(stage: Stage) -> None:
    """12. Then the reader is behind the head."""
    stage.do("a", filled)
    with mock.patch.object(reader, "OPEN_SEGMENTS_MAX", 1):  # else it reads what it still has open
        stage.do("b", Actor.open)
        stage.begin("b", Actor.take, "stuck")
        stage.past("b", "unlock", LOCK)
        stage.do("a", Actor.maintain)
        stage.finish("b")
    if not stage["b"].held:
        raise Wrong("P1: a message that moved was not handed out")
    stage.do("b", Actor.publish, "stuck")
    stage.end()


@on_stage()
def whoever_was_woken_is_killed_before_it_takes(stage: Stage) -> None:
    """13. All sleeping processes are woken, because any of them may die."""
    two_open(stage)
    stage.do("c", Actor.open)
    stage.do("c", Actor.take, "q")
    with mock.patch(
        "mq.engine.background.threading.Thread"
    ):  # its thread: what it does, the director does here
        for name in "bc":
            stage.do(name, Actor.fall_asleep, "q")
        bells = {name: stage[name].bell() for name in "bc"}
        stage.do("a", Actor.publish, "q")
        if any(not stage.kernel.bells[bell] for bell in bells.values()) or len(set(bells.values())) < 2:
            raise Wrong(f"P12: not all were woken: {stage.kernel.bells}")
        stage.kill("c")
        stage.do("b", Actor.take, "q")
    if [each.body for each in stage["b"].held] != [b"a2."]:
        raise Wrong("P1: the process that was left did not get it")
    stage.end()


@on_stage()
def the_first_receipt_acks_after_another_delivery(stage: Stage) -> None:
    """15. With a step of the wall clock, and Ctrl-C between the end and what is applied."""
    two_open(stage)
    stage.do("a", Actor.take, "q", visibility_timeout=10.0)
    first = stage["a"].held[0]
    stage["a"].set_wall_clock(-3600.0)
    stage.do("a", Actor.publish, "r")  # the segment that begins because the clock was set is there before
    stage["a"].sleep(20.0)
    stage.do("b", Actor.publish, "r")  # the log goes on in a segment that says what the wall clock is
    stage.begin("b", Actor.take, "q", visibility_timeout=10.0)
    stage.until("b", "store", END)
    stage.until("b", "store", "2")  # dirty no more: the record counts
    stage["b"].process.interrupt()
    stage.finish("b")
    stage.do("a", Actor.ack, first)
    stage["a"].sleep(20.0)
    stage.do("b", Actor.take, "q")
    stage.do("b", Actor.ack)
    acks = [op.outcome for op in stage.witness.of_kind("ack")]
    if acks != ["stale", "returned"]:
        raise Wrong(f"P2: {acks}")
    stage.end()


@on_stage()
def a_process_in_another_time_namespace_comes(stage: Stage) -> None:
    """What is held here would be free there; and also when the store was closed here before."""
    stage["b"].process.enter_time_namespace(1000.0)
    stage.do("a", Actor.open)
    stage.do("a", Actor.publish, "q")
    stage.do("a", Actor.take, "q", visibility_timeout=600.0)
    stage.do("b", Actor.open, excuse=(Unsupported,))
    if stage["b"].opened:
        raise Wrong("P12: two processes with two monotonic clocks share a store")
    stage.do("a", Actor.close)
    stage.do("b", Actor.open)
    stage.do("b", Actor.take, "q")
    if stage["b"].held:
        raise Wrong("P12: what is held for ten minutes was taken at once")
    stage.end()


@on_stage()
def a_wall_clock_is_set_by_decades_between_two_openings(stage: Stage) -> None:
    """Another boot, so that only the wall clock could tell how long the store was closed; and it cannot."""
    for name, shift in (("a", 80 * YEAR), ("b", -80 * YEAR), ("c", 0.0)):
        stage.do(name, Actor.open)
        if name == "a":
            stage.do(name, Actor.publish, "q")
            stage.do(name, Actor.take, "q", visibility_timeout=600.0)
        else:
            stage.do(name, Actor.take, "q")
            if stage[name].held:
                raise Wrong("P12: what is held for ten minutes was taken at once")
        stage.do(name, Actor.close)
        stage.kernel.disk.boot += 1
        stage[name].set_wall_clock(shift)
    stage.end()


@on_stage()
def a_wall_clock_is_set_while_a_message_rests(stage: Stage) -> None:
    """A backoff of a second takes a second, and a delay that a caller named moves with the wall clock."""
    two_open(stage)
    stage.do("a", Actor.publish, "q")
    for shift in (-43_200.0, 43_200.0):
        stage.do("a", Actor.take, "q")
        stage.do("a", Actor.back_off)
        stage["a"].set_wall_clock(shift)
        stage.do("b", Actor.take, "q", 9)
        stage["b"].sleep(3.5)
        stage.do("b", Actor.take, "q", 9)
        if len(stage["b"].held) != 2:
            raise Wrong(f"P1: {stage['b'].held}")
        stage.do("b", Actor.release)
        stage.do("b", Actor.release)
    stage.end()


@on_stage()
def killed_inside_the_write_of_a_group(stage: Stage) -> None:
    """A part of it is there, some of its records whole: none counts, and the rest is void."""
    two_open(stage)
    stage.begin("a", Actor.publish, "q", 4, size=100)
    stage.until("a", "pwrite", SEGMENT)
    stage.kill("a", inside=SHORT)
    stage.look("torn")
    stage.do("b", Actor.take, "q", 9)
    if len(stage["b"].held) != 1:
        raise Wrong(f"P4: {stage['b'].held}")
    stage.end()


@on_stage("abcde")
def killed_before_in_and_behind_the_copy_of_a_record(stage: Stage) -> None:
    """Where the end of the log is mapped.  What is torn is void, and the next one goes on."""
    two_open(stage, "never", "never")
    for name, inside in (("a", None), ("c", SHORT), ("d", 0), ("e", SHORT)):
        stage.do(name, Actor.open, "never")
        stage.do(name, Actor.publish, "q")
        stage.begin(name, Actor.publish, "q", 3 if name == "e" else 1, size=70)
        stage.until(name, "copy", SEGMENT)
        stage.kill(name, inside=inside)
        stage.look(f"with {name}", cuts=4)
        stage.do("b", Actor.publish, "q")
    stage.end()


@on_stage("ab")
def another_goes_on_elsewhere_while_one_has_the_segment_mapped(stage: Stage) -> None:
    """It gives back what was reserved, and finds no room for another segment; or one just reads there."""

    def roll(actor: Actor) -> None:
        with suppress(DiskFull):
            actor._broker()._store.maintain(lambda log, now_ms, _: log.rotation.roll(now_ms))

    with (
        mock.patch.object(rotation, "ALLOCATE_BYTES", 8 * PAGE_BYTES),
        mock.patch.object(Reserve, "give", lambda *_: False),
    ):
        for name in "ab":
            stage.do(name, Actor.open, "never", segment_bytes=64 * PAGE_BYTES)
            stage.do(name, Actor.publish, "q")
        its_log = stage["b"]._broker()._store.replica.log
        stage.begin("a", roll)
        stage.until("a", "open", f"{its_log.segments[-1].limit}.seg")
        stage.kernel.disk.strike(errno.ENOSPC)
        stage.finish("a")
        for _ in range(3):
            stage.do("b", Actor.publish, "q", size=PAGE_BYTES - 200)
        for limit in (9, 0):
            stage.do("b", Actor.publish, "q")  # it knows where the log goes on
            stage.do("b", Actor.publish, "q", size=2 * PAGE_BYTES - 350 - its_log.end % PAGE_BYTES)
            stage.do("b", Actor.publish, "q")  # the last one in its page
            for _ in range(0 if limit else 2):
                stage.do("b", Actor.take, "q")
            stage.begin("b", Actor.take, "q", limit)
            stage.until("b", "fetch", SEGMENT)
            stage.do("a", roll)
            stage.finish("b")
        for name in "ab":
            stage.do(name, Actor.publish, "q")
    stage.end()


@on_stage()
def another_wants_to_clean_while_one_does(stage: Stage) -> None:
    """Each would drop the oldest segment, and what was the second is the oldest then."""
    stage.do("a", filled)
    stage.do("b", Actor.open)
    stage.begin("a", Actor.maintain)
    stage.past("a", "pwrite", SEGMENT)
    stage.until("a", "lock", LOCK)  # the first slice is moved
    stage.do("b", Actor.maintain)
    stage.finish("a")
    stage.end()


@on_stage()
def one_publishes_while_another_does(stage: Stage) -> None:
    """At each of its calls."""
    two_open(stage)
    for call in range(1, 12):
        stage.begin("a", Actor.publish, "q")
        for _ in range(call):
            stage["a"].process.go(lambda _: True)
        stage.begin("b", Actor.publish, "q")
        stage.finish("b", "a")
    stage.end()


# ── found since ────────────────────────────────────────────────────────────────────────


@on_stage()
def an_opener_comes_when_the_last_one_has_let_go_of_the_lock(stage: Stage) -> None:
    """It was still present, alone: a process that opened was refused."""
    two_open(stage)
    stage.do("a", Actor.close)
    stage.begin("b", Actor.close)
    while stage["b"].process.go(lambda call: call.kind == "unlock" and LOCK in call.path):
        stage["b"].process.go(lambda _: True)  # the unlock is done
        stage.do("c", Actor.open)
        stage.do("c", Actor.publish, "q")
        stage.do("c", Actor.close)
    stage.end()


def closed_and_open_again(stage: Stage) -> None:
    """By a and b; then a dies while it has it said on the disk that the log is open."""
    stage.do("a", Actor.open)
    stage.do("a", Actor.publish, "q")
    stage.do("a", Actor.close)
    stage.do("a", Actor.open, "never")
    stage.do("b", Actor.open, "never")
    stage.begin("a", Actor.publish, "q")
    stage.until("a", "sync", SEGMENT)
    stage.kill("a")


@on_stage()
def who_said_that_the_log_is_open_died_and_another_follows(stage: Stage) -> None:
    """It took that for said; a power cut left the closing record, and ids were given again."""
    closed_and_open_again(stage)
    stage.do("b", Actor.publish, "q")
    stage.end()


@on_stage()
def who_said_that_the_log_is_open_died_and_another_joins(stage: Stage) -> None:
    """The same."""
    closed_and_open_again(stage)
    stage.do("c", Actor.open, "never")
    stage.do("c", Actor.publish, "q")
    stage.end()


@on_stage("ab")
def another_appends_whenever_a_follower_lets_go_of_the_lock(stage: Stage) -> None:
    """It was behind each time it had followed, and went round for as long as the other appended."""
    two_open(stage, "never", "never")
    with mock.patch.multiple(replica, FOLLOW_BYTES=100, HOLD_BYTES=200, KEEP_UP_BYTES=100):
        stage.do("a", Actor.publish, "q", 8, size=60)
        stage.begin("b", Actor.take, "q")
        for _ in range(TURNS_MAX):
            if not stage["b"].process.go(lambda call: call.kind == "unlock" and LOCK in call.path):
                break
            stage["b"].process.go(lambda _: True)  # the unlock is done
            stage.do("a", Actor.publish, "q", 8, size=60)
        else:
            raise Wrong("P12: a follower never arrives")
        stage.finish("b")
    stage.end()


@on_stage("ab")
def a_process_that_never_rests_has_the_lock_whenever_another_tries(stage: Stage) -> None:
    """Also if what it does is only to look: it had the lock again before the other one woke."""
    stage["a"].process.has_barrier = False  # so that it takes the lock each time
    two_open(stage, "never", "never")
    stage.begin("a", Actor.look, "q")
    stage.past("a", "lock", LOCK)
    stage.begin("b", Actor.publish, "q")
    stage.until("b", "store", WAITING)
    for _ in range(TURNS_MAX):
        if stage["b"].process.idle:
            break
        stage["a"].process.go()
        stage.begin("a", Actor.look, "q")
        stage["a"].process.go(
            lambda call: call.kind == "pause" or (call.kind == "unlock" and LOCK in call.path)
        )
        stage["b"].process.go(lambda call: call.kind == "pause")
    else:
        raise Wrong("P12: a process that waits for the lock never gets it")
    stage.finish("a")
    stage.end()


@on_stage("ab")
def a_process_wants_the_store_for_itself_that_another_one_has_open(stage: Stage) -> None:
    """It is refused, and the other one goes on."""
    stage.do("a", Actor.open)
    stage.do("b", lambda actor: actor.open(exclusive=True, excuse=(StoreLocked,)))
    if stage["b"].broker:
        raise Wrong("P12: two processes have the store, and one of them believes that it is alone")
    stage.do("a", Actor.publish, "q")
    stage.end()
