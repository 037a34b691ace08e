"""Bugs that only several processes show: each must be caught by an interleaving, or by schedules.

Not here, because nothing shows it: cleaning without the cleaner's lock.  Two cleaners at
once write the same records twice and drop the same segment; the lock saves the work.
"""

from __future__ import annotations

from . import displaced as displaced  # its interleavings are among the others
from . import midway as midway  # and its
from . import owners as owners  # and its
from .driver import Wrong
from .explorer import CRASHES
from .interleavings import INTERLEAVINGS, visit
from .kernel import Here
from .planted import CLOSING, FAILURE, FOLLOWING, ROTATION, SYNCING, TAIL, Bug, planted
from .processes import Schedule, Violation, explore, explore_deaths

OPENING, TURN, REPLICA = "mq.engine.opening:Opening.", "mq.engine.turn:Turn.", "mq.engine.replica:Replica."
LOCKS, BIAS = "mq.storage.locks:Locks.", "mq.storage.bias:"
ANNOUNCED = "if not self.biased:\n        self.mark[DIRTY] = 1"  # before a record is written

BUGS = (
    # ── the lock, and following ────────────────────────────────────────────────────
    Bug("the lock is not waited for", TURN + "come_in_with_lock", "locks.take(mark, follower.keep_up)",
        "pass", "one_publishes_while_another_does"),
    Bug("the lock is let go before the end is published", TAIL + "append",
        "self.end = self.mark[END] = end", "_unlock(self); self.end = self.mark[END] = end",
        "two publish and take"),
    Bug("the end is published before the write", TAIL + "append", ANNOUNCED,
        ANNOUNCED.replace("[DIRTY] = 1", "[END] = end"),
        "killed_between_the_write_of_a_group_and_its_end, two publish and take"),
    Bug("the end is published before the copy", TAIL + "append", ANNOUNCED,
        ANNOUNCED.replace("[DIRTY] = 1", "[END] = end"), "killed_before_in_and_behind_the_copy_of_a_record"),
    Bug("the end is published before the copy of a group", TAIL + "append_columns",
        "self.mark[DIRTY] = 1", "self.mark[END] = end",
        "killed_before_in_and_behind_the_copy_of_a_record"),
    Bug("a tail is cut before the log goes on elsewhere", ROTATION + "roll",
        "self.fence(now_ms, last.limit)", "self.cut(last, end); self.fence(now_ms, last.limit)",
        "another_goes_on_elsewhere_while_one_has_the_segment_mapped"),
    Bug("what is mapped is read behind the log's end", "mq.storage.reader:Reader._read_mapped",
        "min(self._ahead(lsn), most)", "self._ahead(lsn)",
        "another_goes_on_elsewhere_while_one_has_the_segment_mapped"),
    Bug("a batch is read behind the log's end where that is mapped", "mq.storage.reader:Reader._block",
        "min(lsn + size, self._log.end)", "lsn + size",
        "another_goes_on_elsewhere_while_one_has_the_segment_mapped"),
    Bug("a window is kept over a rotation", TAIL + "enter", "self.mapped.close()",
        "self.reserved(last, size); self.mapped.first = last.base - segment.HEADER_BYTES"
        "; self.mapped.limit = self.allocated",
        "unsynced rotation"),
    Bug("a write is not announced", TAIL + "append", ANNOUNCED, "",
        "three compete"),
    Bug("appended without following", TURN + "come_in_with_lock",
        "if follower.applied != mark[END] or mark[DIRTY]", "if mark[DIRTY]",
        "two publish and take"),
    Bug("followed, and not applied", REPLICA + "_apply", "fold.apply(self.state, log.follow(upto, enough))",
        "list(log.follow(upto, enough))", "three compete"),
    Bug("followed without the lock for as long as it takes", REPLICA + "catch_up",
        "HOLD_BYTES < behind <= before // 2", "True",
        "another_appends_whenever_a_follower_lets_go_of_the_lock"),
    Bug("nobody steps aside", TURN + "come_in_with_lock", "if mark[WAITING] and mark[HOLDER] == self.pid:",
        "if False:", "a_process_that_never_rests_has_the_lock_whenever_another_tries"),
    Bug("new queues of others are not seen", REPLICA + "_apply", "if self.state.renamed:",
        "if False:", "a_queue_is_declared_that_another_process_has_looked_at"),
    Bug("deadlines by a clock of one's own", "mq.engine.clock:Clock.join",
        "self._offset_ms = _signed(page[OFFSET])", "self.start(last_ms, 0, [0] * 18)", "settling"),
    Bug("a process with another monotonic clock is admitted", "mq.engine.clock:Clock.check",
        "elif space and page[TIMESPACE]", "elif False and page[TIMESPACE]",
        "a_process_in_another_time_namespace_comes"),
    Bug("the offset of another monotonic clock is believed", "mq.engine.clock:Clock._is_of_page",
        "return boot != 0", "return True or boot != 0", "a_process_in_another_time_namespace_comes"),
    Bug("a wall clock that was set passes for downtime", "mq.engine.clock:Clock._resumed",
        "before >= SET_MS and 0 <= wall - before <= DOWNTIME_MS_MAX", "True",
        "a_wall_clock_is_set_by_decades_between_two_openings"),
    Bug("a backoff follows the wall clock", "mq.delivery.settle:nack",
        "due, backoff = plan.now.store + rest, True", "due = plan.now.wall + rest",
        "a_wall_clock_is_set_while_a_message_rests"),
    # ── a turn without the lock ────────────────────────────────────────────────────
    Bug("one word says for all owners that they are inside", BIAS + "inside", "return INSIDE + slot",
        "return INSIDE", "a_former_owner_comes_in_while_another_one_owns"),
    Bug("nobody owns before the owner is seen outside", BIAS + "Bias._have_out",
        "self._mark[BIAS] = slot + 1 | ASKED", "self._mark[BIAS] = 0",
        "a_process_dies_while_it_waits_for_the_owner"),
    Bug("no barrier between asking and looking", BIAS + "Bias._have_out",
        "self._pass_barrier()\n    patience", "patience",
        "the_owner_is_inside_and_its_processor_has_not_told_anyone"),
    Bug("a dead owner is outside before it is dirty", BIAS + "Bias._have_out",
        "self._mark[DIRTY] = 1  # first: this process may die, too\n            self._mark[word] = 0",
        "self._mark[word] = 0\n            self._mark[DIRTY] = 1",
        "the_process_that_revokes_a_dead_owner_is_killed_at_each_step"),
    Bug("what a dead owner began is not looked for", BIAS + "Bias._have_out",
        "self._mark[DIRTY] = 1", "pass", "killed_inside_the_write_of_a_turn_without_lock"),
    Bug("an owner that is inside passes for dead", BIAS + "Bias._have_out",
        "if not self._disk.byte_is_locked(self._fd, slot):", "if True:",
        "a_process_dies_while_it_waits_for_the_owner"),
    Bug("a process with the lock does not look for an owner", TURN + "come_in_with_lock",
        "if mark[BIAS]:", "if False:", "another_comes_at_each_step_of_the_owner"),
    Bug("a process that had let go of the lock does not look for an owner", TURN + "without_lock",
        "if self.mark[BIAS]:", "if False:",
        "another_one_owns_while_a_process_follows_without_lock"),
    Bug("a process that gives up asks no more", BIAS + "Bias._have_out",
        "raise StoreLocked(", "self._mark[BIAS] = 0; raise StoreLocked(", "the_owner_is_stopped_inside"),
    Bug("the owner does not look whether it is asked", TURN + "come_in",
        "mark[BIAS] == bias.token and", "True and", "another_comes_at_each_step_of_the_owner"),
    Bug("the owner does not look whether the store has failed", TURN + "come_in",
        "(mark[DIRTY] or mark[FAILED])", "mark[DIRTY]", "a_sync_fails_while_the_owner_is_inside"),
    Bug("an owner's interrupted write is not announced", TAIL + "append",
        "self.mark[DIRTY] = 1\n        raise", "pass\n        raise",
        "the_owner_is_interrupted_between_the_write_and_its_end"),
    Bug("an owner closes without the lock", TURN + "take_with_lock", "self.enter_with_lock()", "self.enter()",
        "the_owner_closes_while_another_one_comes"),
    Bug("beside a process without a barrier there is an owner", BIAS + "Bias.begin",
        "self._mark[BARRED] = 1", "pass", "a_process_without_a_barrier_comes_before_there_is_an_owner"),
    Bug("a process without a barrier does not wait before it looks", BIAS + "Bias._pass_barrier",
        "self._disk.pause(BARRIER_SECONDS)", "pass",
        "a_process_without_a_barrier_comes_while_the_owner_is_inside"),
    # ── presence and recovery ──────────────────────────────────────────────────────
    Bug("presence is not taken", LOCKS + "arrive", "if not self.crowded:", "if True:",
        "stay while others go"),
    Bug("the lock is not taken to recover", OPENING + "open", "turn.locks.take(None)", "pass",
        "first creation, come and go"),
    Bug("the last to close is present when it lets go of the lock", "mq.engine.closing:Closing._say_closed",
        "self._turn.locks.depart()", "pass",
        "an_opener_comes_when_the_last_one_has_let_go_of_the_lock"),
    Bug("the closing record by one who is not the last", "mq.engine.closing:Closing._say_closed",
        "if self._store.exclusive or self._turn.locks.arrive(exclusive=False):", "if True:",
        "stay while others go, come and go"),
    Bug("who joins believes that the log is said to be open", CLOSING + "share",
        "not closed and tail.synced >= tail.end", "not closed",
        "who_said_that_the_log_is_open_died_and_another_joins"),
    Bug("who follows believes that the log is said to be open", CLOSING + "followed",
        "(self.said_open or self._tail.synced > self._open_behind)", "True",
        "who_said_that_the_log_is_open_died_and_another_follows"),
    Bug("exclusive, and others are let in", LOCKS + "arrive",
        "if exclusive or not self._be_present(shared=True):", "if not self._be_present(shared=True):",
        "a_process_wants_the_store_for_itself_that_another_one_has_open"),
    # ── what is taken away under a process ─────────────────────────────────────────
    Bug("names are looked up from the root", LOCKS + "__init__", "disk.anchor(path)",
        "disk.open_directory(path)", "the_store_is_moved_while_one_publishes"),
    Bug("no second look at the files", "mq.storage.watch:Watch.stand_again",
        "if now_ms > self._stood_ms + CHECK_MS:", "if False:", "LOCK_is_deleted_while_one_publishes"),
    Bug("a process that joins does not compare its files", OPENING + "_recover_if_alone",
        "elif turn.mark[shared.FILES] != files:", "elif False:", "LOCK_is_deleted_while_one_publishes"),
    Bug("presence is only a lock of FORMAT", LOCKS + "_be_present",
        "for fd in (self.directory, self._presence) if fd >= 0", "for fd in (self._presence,) if fd >= 0",
        "a_repair_comes_when_format_is_gone"),
    # ── adopting ───────────────────────────────────────────────────────────────────
    Bug("nothing is adopted", REPLICA + "catch_up", "elif mark[DIRTY]:", "elif False:",
        "three compete, rotation"),
    Bug("what is torn is not fenced", FOLLOWING + "adopt",
        "if not is_zero(self._disk, tail.fd, last.offset(tail.end)):", "if False:",
        "killed_inside_the_write_of_a_group"),
    Bug("half a group is adopted", FOLLOWING + "adopt",
        "if scan.end != tail.end:\n        tail.mark[END] = scan.end",
        "if scan.bad != tail.end:\n        tail.mark[END] = scan.bad",
        "killed_inside_the_write_of_a_group"),
    Bug("the new segment's fence is forgotten", FOLLOWING + "adopt", "if self._disk.exists(next_path):",
        "if False:", "killed_when_the_fence_is_there_and_the_end_in_the_old_segment, rotation"),
    # ── syncing ────────────────────────────────────────────────────────────────────
    Bug("the target is sampled after the fdatasync", SYNCING + "_sync_for_all",
        "tail.mark[SYNCED] = tail.mark[SYNCED_TWIN] = target",
        "tail.mark[SYNCED] = tail.mark[SYNCED_TWIN] = tail.mark[END]",
        "a_publisher_appends_while_the_leader_syncs"),
    Bug("of a rotation only the newer segment is synced", SYNCING + "_sync_for_all",
        "self._sync_others(last, target)", "pass", "one syncs for another, unsynced rotation"),
    Bug("a leader that died inside is not heeded", SYNCING + "_sync_for_all",
        "doubtful = tail.mark[SYNCING]", "doubtful = 0",
        "the_leader_is_killed_inside_an_fdatasync_that_failed, one syncs for another"),
    Bug("two sync at once", SYNCING + "_wait_to_sync",
        "while not self._may_sync():", "while False:",
        "another_would_sync_while_the_leaders_fdatasync_fails"),
    Bug("what is to be written again is forgotten, not written past the cache",
        "mq.storage.rewrite:_write_again", "if not _write_past_cache(disk, fd, data, first):", "if True:",
        "killed_in_the_rewrite_after_a_death_inside_a_failed_fdatasync"),
    Bug("what nobody confirmed is written again without the lock", OPENING + "_take_log",
        "turn=store.turn_of_sync,", "",
        "a_death_inside_a_failed_fdatasync_while_another_process_appends_to_the_page"),
    Bug("what is being written again is called damaged", SYNCING + "wait_for_rewrite", "self._wait_to_sync()",
        "pass", "another_reads_in_the_rewrite_after_a_death_inside_a_failed_fdatasync"),
    Bug("what is being written again is missing to who only reads", "mq.engine.reading:Reader.attach",
        "if view.held and found.end < view.end and not again:", "if False:",
        "a_reader_comes_in_the_rewrite_after_a_death_inside_a_failed_fdatasync"),
    Bug("what others failed at is not looked at", FAILURE + "check", "if self._log.mark[FAILED]:",
        "if False:",
        "rotation, one syncs for another"),
    Bug("a failed fsync is not told to others", FAILURE + "_say_to_all",
        "self._log.mark[FAILED] = self._log.mark[DIRTY] = 1", "pass",
        "definitions, two publish and take"),
    # ── cleaning ───────────────────────────────────────────────────────────────────
    Bug("the cleaner does not look again", "mq.storage.cleaner:clean",
        "log.append_head(now_ms, limit)", "log.append_head(now_ms, log.end)", "two clean, cleaning"),
    Bug("a follower does not read anew when a segment is gone", REPLICA + "_apply",
        "except (FileNotFoundError, recovery.StaleCheckpoint):", "except recovery.StaleCheckpoint:",
        "far behind"),
    Bug("a body that has moved is not looked for", TURN + "look", "self.enter_to_look()", "pass",
        "a_body_moves_and_its_segment_goes_before_it_is_read"),
    # ── topics ─────────────────────────────────────────────────────────────────────
    Bug("a fan-out of another process is applied in part", "mq.delivery.fold:_fan_out",
        "zip(queues, times or alike", "zip(queues[:1], times or alike", "fan-outs"),
    Bug("a subscription of another process is not routed by", "mq.delivery.fold:_subscribe",
        "state.generation = lsn", "pass", "another_subscribes_between_two_fan_outs"),
    Bug("a pattern that another process took back is followed on", "mq.delivery.fold:_unsubscribe",
        "state.routes.unbind(queue.number, event[0])", "pass", "fan-outs"),
    Bug("the cleaner puts a subscription back that was taken back meanwhile",
        "mq.delivery.state:stands_at", "return known.position if known else None",
        "return what.position", "a_subscription_is_taken_back_at_each_step_of_the_cleaner"),
    Bug("a binding is forgotten by the cleaner", "mq.delivery.state:State.look_within",
        "several = queue.subscriptions.values()", "several = ()", "subscriptions and the cleaner"),
    Bug("history is copied twice, for another process subscribes while it is gathered",
        "mq.engine.backfill:Backfill.finish", "Known.of(state.named(self._name)) != self._known", "False",
        "another_subscribes_takes_and_acks_at_each_step_of_a_subscription_from_the_past"),
    Bug("history is copied twice, by two patterns", "mq.engine.backfill:Found.add",
        "if id > each.bound_at and", "if False and", "starting in the past"),
    Bug("what is published while history is gathered is left out", "mq.engine.backfill:Backfill._finish",
        "begin = max(first, waiting.rank(found.upto + 1))", "begin = len(waiting)",
        "starting in the past"),
    Bug("history is trimmed too far", "mq.delivery.retention:Retention.first",
        "count - self.messages", "count - self.messages + 1", "history"),
    # ── schedules ──────────────────────────────────────────────────────────────────
    Bug("a schedule that another process declares again begins anew", "mq.delivery.ticks:declared",
        "if known and (", "if False and (", "schedules"),
    Bug("a tick and its message are two records", "mq.engine.commit:Committer.commit",
        "append_group(plan.now.store, plan.drafts)",
        "append_group(plan.now.store, plan.drafts, atomic=False)", "schedules"),
    Bug("the cleaner sets a schedule back", "mq.engine.moving:Mover._written_again",
        "records.schedule(what.schedule,", "records.schedule(records.schedules._decode_schedule(stored.flags,"
        " stored.payload, 0, len(stored.payload))[0],", "schedules"),
    # ── compare-and-set, groups ────────────────────────────────────────────────────
    Bug("a compare-and-set compares before its turn", "mq.engine.commands:update_meta",
        "end = store.turn.take(partial(_update_meta, store, channel, changes, expect, makes))",
        "known = channel.state.options.meta if channel.state else {}\n"
        "    end = store.turn.take(partial(_update_meta, store, channel, changes, {}, makes))"
        " if meta.is_so(known, expect) else None", "compare and set"),
    Bug("of a group the next comes while another process has one", "mq.delivery.ready:Ready.promote",
        "if group.in_flight:", "if (first := group.first(self._delayed, self._moment.wall)) is not None:\n"
        "        self.push(first, self._delayed[first].traits)\n        return\n    if group.in_flight:",
        "groups"),
    Bug("a batch does not know what goes back with one of it", "mq.delivery.groups:Group.occupy",
        "self.in_flight = [id]", "return", "groups"),
    Bug("what goes back leaves those behind it in flight", "mq.delivery.settle:release_behind",
        "plan.add(*records.release(queue.number, other))", "pass", "groups"),
    Bug("the next of a group comes before all of a batch are settled", "mq.delivery.groups:Group.come_back",
        "del self.in_flight[at]", "self.in_flight.clear()", "groups"),
    Bug("a joiner may read on beyond the end", REPLICA + "_read_now",
        "self._loader.load(synced, upto)", "self._loader.load(synced)", "unsynced rotation"),
)  # fmt: skip

RANDOM_MAX = 120  # schedules for each workload of a hunt
DEATHS_EVERY = 3


def caught(here: Here, bug: Bug) -> Violation | None:
    """What the laboratory says about the library with the bug."""
    with planted(bug):
        return hunt(here, bug)


def hunt(here: Here, bug: Bug) -> Violation | None:
    names = bug.hunt.split(", ")
    for name in INTERLEAVINGS.keys() & names:
        names.remove(name)
        try:
            visit(here, name)
        except (Wrong, *CRASHES) as wrong:
            return Violation(str(wrong), name, Schedule(), [])
    for name in names:
        if found := explore(here, name, range(RANDOM_MAX // 2))[1]:
            return found
    for seed in range(3):
        for name in names:
            if found := explore_deaths(here, name, seed, every=DEATHS_EVERY)[1]:
                return found
    for name in names:
        if found := explore(here, name, range(RANDOM_MAX // 2, RANDOM_MAX))[1]:
            return found
    return None
