"""The log on disk.  Knows records, segments and files; knows no queue, topic or consumer.

disk.py        what storage asks of a disk
real_disk.py   the system's files, locks and the shared page, with:
  descriptors.py one number for each file, closed once
  ownership.py   owner, group and mode of new files
  proc.py        what /proc says
private_disk.py what a disk answers that no other process has
memory_disk.py one of these, ":memory:"
explain.py     an error of the system, and what to do
paths.py       the names of the files
shared.py      the page that all processes see
locks.py       the locks of processes: the files that are locked
standing.py    whether the files that a process has open are still the store's
network.py     file systems of other computers, where a lock excludes no process
identity.py    FORMAT: which store this is
record.py      bytes ⇄ record
segment.py     one file of the log, and how it is scanned
search.py      the next intact record behind a bad place
log.py         the log, made of:
  tail.py        append
  room.py        room for that
  rotation.py    segments begun
  trimming.py    segments given back
  syncing.py     sync, after commit.py: one fdatasync for all that wait
  closing.py     the record that says that nothing follows
  following.py   what other processes appended
  failure.py     it stops for good
  watch.py       while its files are not its own, too
  owner.py       what it asks of the store that has it
mapped.py      the log's end, mapped: a copy is a write
rewrite.py     again what an fsync may have lost, before the next one
reader.py      records by their position
reserve.py     room kept back, so that a full disk can be drained
recovery.py    what is on disk → where the log ends, and a verdict
checkpoint.py  the state at one position, so that opening reads the tail
cleaner.py     re-append what lives in the oldest segment, drop it
walk.py        the log as it lies there, damaged places included: for the tools
look.py        what they see of it
repair.py      LOST over what is damaged, which is copied first (quarantine.py)
suspects.py    the messages that may be gone with it
overlay.py     a disk that keeps every change to itself: for dry runs
"""
