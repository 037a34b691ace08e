"""Bugs that the laboratory must catch: an oracle that passes everything would find nothing.

A bug is a line of the library changed in the running function: its source is read,
the old text replaced, the result compiled, and put in the place of the function's code
for as long as the hunt takes.  So all who hold the function have the bug; and text that
is not there (any more) exactly once is an error, not a pass.

Those that only several processes show are in planted_processes.py.  Waiting for the laboratory, because the
cleaner brings positions together before they are 4 GiB apart: a lag that wraps around, a
saturated lag read as a claim, a seed that misses the base.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from types import CodeType, FunctionType
from typing import NamedTuple

import forking

from mq.storage.tail import Tail

from . import copied, damage, full
from .explorer import PER_CALL, Explorer


class Bug(NamedTuple):
    name: str
    where: str  # module:function
    old: str
    new: str
    hunt: str  # the workloads that show it; "damage" for a damaged store, "full" for a full disk,
    # "copied" for one that was copied file by file, "forked" for the child of a fork
    fault: str = ""  # the kind of call that has to fail
    rare: bool = False  # no glance shows it: the hunt comes first


RECOVERY, SEGMENT = "mq.storage.recovery:", "mq.storage.segment:"
TAIL, SYNCING, ROTATION = (
    "mq.storage.tail:Tail.",
    "mq.storage.syncing:Syncing.",
    "mq.storage.rotation:Rotation.",
)
CLOSING, FAILURE = "mq.storage.closing:Closing.", "mq.storage.failure:Failure."
FOLLOWING = "mq.storage.following:Following."

BUGS = (
    # ── syncing ────────────────────────────────────────────────────────────────────
    Bug("the fsync is skipped", SYNCING + "_sync_for_all", "self._sync(fd)", "pass", "publish_always"),
    Bug("only the newer segment is synced", SYNCING + "_sync_for_all", "self._sync_others(last, target)",
        "pass", "unsynced_rotation publish_never"),
    Bug("the watermark is off by one", SYNCING + "_sync_for_all",
        "tail.mark[SYNCED_TWIN] = target", "tail.mark[SYNCED_TWIN] = target + 1",
        "publish_always"),
    Bug("synced is said before the sync", SYNCING + "_sync_for_all",
        "tail.mark[SYNCING] = max(doubtful, target)",
        "tail.mark[SYNCED] = tail.mark[SYNCED_TWIN] = target",
        "publish_always publish_never"),
    Bug("synced is taken for the end", TAIL + "append", "lag = lsn - self.mark[SYNCED]", "lag = 0",
        "publish_never unsynced_rotation"),
    Bug("a failed fsync is tried again", SYNCING + "_sync_for_all", "self._sync(fd)",
        "_twice(self._sync, fd)",
        "publish_always", "sync"),
    Bug("a failed fsync is not told", SYNCING + "_sync_for_all",
        "raise failure.fail_to_sync(error, tail.reader.path(last), fd) from error",
        "theft = None", "publish_always", "sync"),
    Bug("a store that failed goes on", FAILURE + "check", "if self.error:",
        "return\n    if self.error:", "publish_always", "sync"),
    Bug("flush does not wait", "mq.engine.store:Store.flush", "self.replica.log.sync(end)", "pass",
        "publish_never"),
    Bug("a publish does not wait", "mq.engine.store:Store.finish_publish", "if self.sync_always:",
        "if False:", "batches publish_always"),
    Bug("closing does not wait", CLOSING + "say_closed",
        "self._syncing.sync(tail.end)\n        self._closed_at", "self._closed_at", "closing"),
    # ── writing ────────────────────────────────────────────────────────────────────
    Bug("a short write is taken for a whole one", TAIL + "append", "if done != len(data):", "if False:",
        "publish_always", "pwrite"),
    Bug("a failed write is not told", TAIL + "append",
        "raise self._refused(error, lsn, len(data)) from error",
        "self.end = self.mark[END] = end; return lsn", "publish_always", "pwrite"),
    Bug("a group is not atomic", TAIL + "append_columns", "record.CONTINUES if atomic else 0", "0",
        "unsynced_batches batches"),
    Bug("a group never ends", TAIL + "append_columns", "for each in flags[:-1]], flags[-1]]",
        "for each in flags]]", "batches"),
    Bug("a window is kept over a fork", TAIL + "close",
        "with self.using:\n        self.mapped.close()", "with self.using:\n        pass", "forked"),
    # ── segments ───────────────────────────────────────────────────────────────────
    Bug("a header is not synced", ROTATION + "_create", "disk.sync(fd)", "pass", "rotation publish_always"),
    Bug("a segment's name is not synced", ROTATION + "_create",
        "disk.sync_directory(self._tail.directory)", "pass", "publish_always rotation"),
    Bug("a fence voids nothing", ROTATION + "begin_segment", "record.Fence(void_from,",
        "record.Fence(base,", "publish_never unsynced_batches"),
    Bug("a fence claims all before it", ROTATION + "begin_segment",
        "fence.encode(new.seed, base, tail.synced)", "fence.encode(new.seed, base, base)",
        "unsynced_rotation publish_never"),
    Bug("there is no fence", ROTATION + "begin_segment", "tail.write(data, base)", "pass",
        "first_create"),
    Bug("fences are not honoured", RECOVERY + "_Reader.walk", "min(stop, void_from), max(found.head, head)",
        "stop, max(found.head, head)", "publish_never unsynced_batches batches"),
    # ── reading ────────────────────────────────────────────────────────────────────
    Bug("the checksum is not looked at", SEGMENT + "Scan._outline",
        "!= crc or", "!= crc and False or", "publish_never batches"),
    Bug("the checksum has no seed", "mq.storage.record:seed",
        'crc32c(key + base.to_bytes(8, "little"))', "0", "out_of_time publish_always"),
    Bug("half a group is adopted", SEGMENT + "Scan.parse", "labels[whole - 1] & record.CHAINED", "False",
        "unsynced_batches batches"),
    Bug("torn bytes pass for zeros", SEGMENT + "is_zero", "return False", "return True",
        "publish_never unsynced_batches"),
    # ── recovery ───────────────────────────────────────────────────────────────────
    Bug("appended in place behind a torn tail", RECOVERY + "recover",
        "if found.verdict is not Verdict.CLEAN or", "if not found.segments or", "unsynced_batches",
        rare=True),
    Bug("a log of an older mq is gone on with in its last segment", RECOVERY + "recover",
        "or log.segments[-1].features != segment.FEATURES or anew", "", "upgrading"),
    Bug("the page says its version before the log has the feature bit", "mq.storage.shared:renew",
        "mark[VERSION] = 0", "mark[VERSION] = PAGE_VERSION", "upgrading"),
    Bug("unconfirmed bytes are not rewritten", RECOVERY + "recover",
        "rewrite(disk, directory, found.segments, found.synced, found.end)", "pass", "publish_never"),
    Bug("rewritten bytes are not synced", "mq.storage.rewrite:rewrite", "disk.sync(fd)", "pass",
        "publish_never"),
    Bug("unconfirmed bytes are synced, not rewritten", "mq.storage.rewrite:rewrite",
        "list(_write_again(disk, fd, each.offset(first), each.offset(last)))", "[]", "publish_never", "sync"),
    Bug("pages that a failed sync left are written to, not dropped", "mq.storage.rewrite:_write_again",
        "if not _write_past_cache(disk, fd, data, first):\n            disk.sync(fd)",
        "write_all(disk, fd, data, first)\n        if False:\n            disk.sync(fd)",
        "publish_never", "sync"),
    Bug("unused segments stay as they are", RECOVERY + "_renew_unused", "for each in found.unused:",
        "for each in ():", "unsynced_rotation rotation long_gap"),
    Bug("a torn creation is damage", RECOVERY + "_Reader.headers", "if name != names[-1] or", "if True or",
        "rotation publish_always"),
    Bug("the page's claim is not heard", "mq.storage.shared:claimed",
        "min(once, again) if again else once", "0", "damage"),
    # ── meta ───────────────────────────────────────────────────────────────────────
    Bug("a declaration that is written again has no meta", "mq.delivery.state:declaration_of",
        "queue.options, name=queue.name", "queue.options, meta={}, name=queue.name", "keeping_meta"),
    Bug("a compare-and-set does not compare", "mq.engine.commands:_update_meta",
        "not meta.is_so(before, expect)", "False", "keeping_meta"),
    Bug("a compare-and-set does not wait for the disk", "mq.engine.commands:update_meta",
        "store.finish_publish(end)", "pass", "keeping_meta"),
    # ── copies ─────────────────────────────────────────────────────────────────────
    Bug("the page of a copy is believed", "mq.storage.shared:copied_key", "return None if is_own else",
        "return None if True else", "copied"),
    Bug("the epoch is not renewed", RECOVERY + "recover", "another_epoch(log.epoch)", "log.epoch", "copied"),
    Bug("a checkpoint that is newer than the log claims that log", "mq.engine.loading:Loader._load",
        "if not copied:", "if True:", "copied"),
    # ── the store's files ──────────────────────────────────────────────────────────
    Bug("FORMAT has its name before it is whole", "mq.storage.disk:write_file",
        "disk.sync(fd)", "pass", "first_create"),
    Bug("names above the store are not synced", "mq.storage.identity:create",
        "sync_names_above(disk, os.path.dirname(path))", "pass", "first_create"),
    Bug("the names in the store are synced by its creator only",
        "mq.engine.opening:Opening._recover_if_alone", "disk.sync_directory(self._path)", "pass",
        "first_create publish_always"),
    Bug("the page has its name before it is whole", "mq.storage.shared:make_mark", "disk.sync(fd)", "pass",
        "closing settling timeouts"),
    # ── giving space back, checkpoints ─────────────────────────────────────────────
    Bug("a segment goes before its messages are synced", "mq.storage.cleaner:clean", "log.sync(log.end)",
        "pass", "cleaning"),
    Bug("declarations do not move", "mq.engine.moving:Mover._written_again",
        "return records.declare(queue.number, declaration_of(queue))", "return None", "cleaning"),
    Bug("attempts do not move", "mq.delivery.records.messages:relocate",
        "pack(id, created_ms, *facts)", "pack(id, created_ms, 0, *facts[1:])", "moving"),
    Bug("what was tried does not move", "mq.delivery.state:State.look_within",
        "queue.tried_below(limit)", "[]", "moving"),
    Bug("what waits does not move", "mq.delivery.state:State.look_within",
        "for ids in lane.within(base, limit)", "for ids in ()", "cleaning unsynced_cleaning"),
    Bug("a checkpoint is ahead of the disk", "mq.storage.checkpoint:write", "sync_log()", "pass",
        "checkpoints"),
    Bug("a checkpoint forgets what is in flight", "mq.delivery.snapshot:freeze", "queue.flights.keep()", "[]",
        "checkpoints"),
    # ── full disks ─────────────────────────────────────────────────────────────────
    Bug("cleaning begins unasked, and takes what settling needs", "mq.engine.pressure:least_for_copies",
        "LEFT_BYTES + total * SETTLED_BYTES", "-(1 << 40)", "full"),
    Bug("what is kept back is not held again", "mq.storage.room:Room.make", "self._hold(whole)", "pass",
        "full"),
    Bug("what is kept back does not grow", "mq.engine.pressure:kept",
        "total * (SETTLED_BYTES + AGAIN_BYTES)", "0", "full"),
    Bug("a full disk's only segment is never cleaned", "mq.engine.cleaning:Cleaning._look_on_full_disk",
        "if len(log.segments) == 1:", "if False:", "full"),
    Bug("garbage below one segment stays on a full disk", "mq.engine.cleaning:Cleaning.is_due",
        "self._pays(live) if log.reserve.full else", "", "full"),
    Bug("a publisher on a full disk makes no way", "mq.engine.maintenance:Maintenance.make_way",
        "if ours:", "if False:", "full"),
    Bug("acks leave what they could take", "mq.engine.pressure:kept", "return whole, 0",
        "return whole, whole", "full"),
    # ── the fold ───────────────────────────────────────────────────────────────────
    Bug("an ack is not logged", "mq.engine.hot:ack", "log.append(", "(lambda *_: 0)(", "acks"),
    Bug("a delivery is not logged", "mq.engine.hot:receive", "receipt = log.append(",
        "receipt = (lambda *_: log.end)(", "acks"),
    Bug("a released delivery counts", "mq.delivery.queue:QueueState.release", "flight.attempts - 1",
        "flight.attempts", "settling"),
    Bug("what a run leaves in flight is forgotten", "mq.delivery.queue:QueueState.do_run",
        "if run.in_flight:", "if False:", "acks"),
    Bug("what a run acks stays", "mq.delivery.runs:gather", "in_flight.pop(id, None)", "in_flight.get(id)",
        "acks"),
    Bug("those delivered together have one receipt", "mq.delivery.queue:QueueState.deliver_run",
        "count(receipt)", "repeat(receipt)", "unsynced_batches"),
    Bug("of those acked together one is", "mq.delivery.queue:QueueState.ack_plain",
        "self.flights.remove_all(ids)", "self.flights.remove_all(ids[:1])", "batches"),
    Bug("of those acked together one is logged", "mq.delivery.plan:Plan.add_to_run",
        "payload + part", "payload", "settling"),
    # ── what queues do beyond first in, first out ──────────────────────────────────
    Bug("what is retained is dropped with what is over", "mq.delivery.due:drop_over", "min(over, SLICE)",
        "min(over + 1, SLICE)", "retaining"),
    Bug("a subscription brings all of the past but the last", "mq.engine.backfill:Found.without",
        "gone = bisect_left(self.ids, first)",
        "gone = bisect_left(self.ids, first); del self.ids[-1:], self.sizes[-1:]", "starting_in_the_past"),
    Bug("what is put aside is seen", "mq.delivery.state:State.names", "name[0] not in HIDDEN_KEYS",
        "name[0] != TOPIC_KEY", "starting_far_in_the_past"),
    Bug("between two slices of the past one is left out", "mq.engine.backfill:Found.are_aside",
        "del self.ids[begin:]", "del self.ids[max(0, begin - 1):]", "starting_far_in_the_past"),
    Bug("a rename is several groups", "mq.engine.commit:Committer.commit",
        "append_group(plan.now.store, plan.drafts)",
        "append_group(plan.now.store, plan.drafts, atomic=False)", "renaming"),
    Bug("dead letters keep the name of where they died", "mq.delivery.fold:_declare", "if event[0].was:",
        "if False:", "renaming"),
    Bug("a queue leaves its dead letters behind", "mq.delivery.renaming:_that_go", "if state.named(name):",
        "if False:", "renaming"),
    Bug("the cleaner renames a queue again", "mq.delivery.state:declaration_of", 'was=""',
        "was=queue.options.was", "renamed_and_cleaned"),
    Bug("a transaction is several groups", "mq.engine.commit:Committer.commit",
        "append_group(plan.now.store, plan.drafts)",
        "append_group(plan.now.store, plan.drafts, atomic=False)", "transforming"),
    Bug("a dedup hit does not wait for the disk", "mq.engine.commands:_publish", "if messages:",
        "if positions:", "asking_again"),
    Bug("dedup ids do not move", "mq.delivery.state:State.look_within",
        "queue.dedup.within(base, limit)", "[]",
        "remembering"),
    Bug("a fan-out is applied in part", "mq.delivery.fold:_fan_out", "zip(queues, times or alike",
        "zip(queues[:1], times or alike", "fanning_out"),
    Bug("the cleaner forgets subscriptions", "mq.delivery.state:State.look_within",
        "several = queue.subscriptions.values()", "several = ()", "moving_shares"),
    Bug("a share is let go twice", "mq.delivery.shares:Shares.let_go",
        "len(holders) > 2", "False", "fanning_out unsynced_fanning_out"),
    Bug("a fan-out moves without one holder", "mq.engine.moving:Mover._message", "for number in several]",
        "for number in several[1:]]", "moving_shares"),
    Bug("a schedule fires twice", "mq.delivery.calendar:Calendar.move_on", "next=next, last=last",
        "last=last", "scheduling"),
    Bug("a schedule skips after a crash", "mq.delivery.snapshot:restore", "content.schedules", "[]",
        "unsynced_scheduling"),
    Bug("the cleaner forgets a schedule", "mq.delivery.state:State.look_within",
        "self.calendar.within(base, limit)", "[]", "moving_shares"),
    Bug("the cleaner writes a schedule again as it was declared", "mq.engine.moving:Mover._written_again",
        "records.schedule(what.schedule,", "records.schedule(records.schedules._decode_schedule(stored.flags,"
        " stored.payload, 0, len(stored.payload))[0],", "moving_shares"),
    Bug("a queue that sleeps is not cleaned", "mq.delivery.state:State._load_below",
        "image.lowest < limit", "False", "sleeping"),
    Bug("a checkpoint forgets those that sleep", "mq.delivery.snapshot:freeze",
        "for image in state.unloaded if", "for image in () if", "sleeping"),
    Bug("a checkpoint forgets dedup ids", "mq.delivery.snapshot:freeze", "dict(queue.dedup.items())", "{}",
        "remembering_without_reading"),
    Bug("dedup ids are forgotten at once", "mq.delivery.dedup:Remembered.forget", "end[0] <= now_ms",
        "end[0]", "remembering_without_reading"),
    Bug("at most once is handed over before the sync", "mq.engine.receiving:hand_over",
        "if not store.sync_never:", "if False:", "arriving_settled"),
    Bug("a dead-lettering takes nothing out", "mq.delivery.fold:_move_to", "queue.take(move.id)",
        "Delayed(0, 0, queue.position(move.id), queue.traits(move.id))", "dying"),
    Bug("a last attempt without time left tells nobody", "mq.delivery.timers:Timers._time_out",
        "self.alarm.at_store(flight.deadline)", "pass", "out_of_time"),
    Bug("an idle queue goes with what it holds", "mq.delivery.idle:Idle.is_over", "and not count", "",
        "idling"),
    Bug("a replay keeps the attempts", "mq.delivery.fold:_move_to",
        "Delayed(0, 0, taken.position", "Delayed(0, taken.attempts, taken.position", "dying"),
    Bug("where it died does not move", "mq.delivery.traits:changes_in",
        "return Changes(traits.expires, traits.origin, traits.failures, received)", "return None", "moving"),
    Bug("a group forgets who is in flight", "mq.delivery.timers:Timers.reindex",
        "ready.join(traits.group, id, traits.expires).occupy(id)", "pass",
        "grouped"),
    Bug("the next of a group comes before all of a batch are settled", "mq.delivery.groups:Group.come_back",
        "del self.in_flight[at]", "self.in_flight.clear()", "batched_groups", rare=True),
    Bug("what is behind one that goes back stays in flight", "mq.delivery.settle:release_behind",
        "plan.add(*records.release(queue.number, other))", "pass", "batched_groups"),
    Bug("what sets a message apart does not move", "mq.delivery.records.messages:_decode_relocate",
        "when, attributes, changes", "when, None, changes", "moving"),
    Bug("a checkpoint forgets what expires", "mq.delivery.snapshot:_split", "id not in plain", "0",
        "expiring"),
    Bug("the size of a message is that of its record", "mq.delivery.records.stored:published_size",
        "return length", "return length + 24", "ordering"),
    Bug("a drop drops nothing", "mq.delivery.queue:QueueState.drop",
        "if self.take(id):", "if False:", "expiring"),
)  # fmt: skip

STATES_MAX = 12_000  # for each workload of a hunt
FAULTED_MAX = 500  # for each fault of it
FAULTS_MAX = 40
GLANCED_MAX = 100  # the same, at a glance
GLANCES, HUNTS = 8, 3  # seeds


class Outdated(AssertionError):
    """The library's text has changed: say the bug anew."""


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The library with the bug in it."""
    module_name, _, path = bug.where.partition(":")
    module = importlib.import_module(module_name)
    function = module
    for name in path.split("."):
        function = getattr(function, name, None)  # type: ignore[assignment]
    if not isinstance(function, FunctionType):
        raise Outdated(f"{bug.name}: there is no function {bug.where}")
    function = inspect.unwrap(function)  # what a decorator wraps, and not the wrapper
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(bug.old) != 1:
        raise Outdated(f"{bug.name}: {bug.old!r} is {source.count(bug.old)} times in {bug.where}")
    space = {**vars(module)}
    exec(compile(source.replace(bug.old, bug.new), bug.name, "exec", dont_inherit=False), space)
    code: CodeType = inspect.unwrap(space[function.__name__]).__code__
    function.__globals__.update(_twice=_twice, _unlock=_unlock)
    original, function.__code__ = function.__code__, code
    try:
        yield
    finally:
        function.__code__ = original


def _twice(sync: object, fd: int) -> None:
    try:
        sync(fd)  # type: ignore[operator]
    except OSError:
        sync(fd)  # type: ignore[operator]


def _unlock(tail: Tail) -> None:
    """Let go of the store's lock, whoever holds it."""
    disk = getattr(tail.disk, "_disk", tail.disk)
    for fd, (path, _) in list(disk._files.items()):
        if path.endswith("LOCK"):
            disk._locks.pop(fd, None)


def caught(bug: Bug) -> str:
    """What the laboratory says about the library with the bug; "" if nothing."""
    with planted(bug):
        if bug.hunt == "full":
            return full.hunt(full.SOME)
        if bug.hunt == "copied":
            return next((wrong for each in copied.COPIED if (wrong := copied.explore(each))), "")
        if bug.hunt == "forked":
            return forking.explore()
        if bug.hunt == "damage":
            return next(iter(damage.explore("settled", first=True)[1]), "")
        looks = [*((glance, seed) for seed in range(GLANCES)), *((hunt, seed) for seed in range(HUNTS))]
        for look, seed in looks[GLANCES:] if bug.rare else looks:
            for workload in bug.hunt.split():
                if found := look(workload, bug.fault, seed):
                    return found
    return ""


def glance(workload: str, fault: str, seed: int) -> str:
    """What one quick look at each call of a workload shows, or at all that follows each fault."""
    explorer = Explorer(seed, per_call=1, glance=True)
    for faults in _faults(explorer, workload, fault, GLANCED_MAX):
        if found := explorer.run(workload, faults=faults):
            return found.text
    return ""


def hunt(workload: str, fault: str, seed: int, *, share: int = 1) -> str:
    """What the laboratory finds in one workload, with one *share*th of the budget; "" if nothing."""
    explorer = Explorer(seed, per_call=2 if fault else PER_CALL, states_max=STATES_MAX // share)
    for faults in _faults(explorer, workload, fault, FAULTED_MAX // share):
        if found := explorer.run(workload, faults=faults):
            return found.text
    return ""


def _faults(explorer: Explorer, workload: str, kind: str, states: int) -> Iterator[dict[int, int] | None]:
    if not kind:
        yield None
        return
    for fault in islice(explorer.fault_runs(workload, kind), FAULTS_MAX):
        explorer.grant(states)
        yield fault
