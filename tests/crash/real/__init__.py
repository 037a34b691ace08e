"""The library on a real operating system: killed, cut off, filled up, failed.

machine.py    what this machine allows: mounted images, power cuts, disks that are full or have bad blocks
processes.py  processes to kill: forks of one that has imported mq, so that a kill costs milliseconds
traffic.py    what they do, and how they note what the store told them
scripts.py    what some do step by step
company.py    four that share a store, killed and replaced while the others go on; and their accounts
audience.py   five that share a topic, a schedule and a counter; and their books
ledger.py     those notes against what the store holds afterwards
faults.py     faults.c before the C library: a chosen call fails, is short, or is the process's last
rounds.py     one round of each kind; the tests run a few, the soak as many as there is time for
soak.py       soak(minutes, seed, report)

What a machine does not allow is skipped, and named in one line at the end.

How real is a power cut here?  The mounted file system is shut down in mid-traffic
(FS_IOC_SHUTDOWN), the process killed, the image mounted again, which replays the
journal.  What that covers, and what not:

    how               written back  dirty data  journal transaction  compared with a power cut
    ────────────────  ────────────  ──────────  ───────────────────  ──────────────────────────────────
    NOTHING_FLUSHED   kept          lost        lost                 as one
    LOG_FLUSHED       kept          lost        committed            as one, right after a commit
    ALL_FLUSHED       kept          kept        committed            weaker: loses nothing, so nothing
                                                                     that returned may be missing

Dirty data would nearly always be lost as a whole; so before the cut some pages, picked
at random, are written back (sync_file_range), which no journal orders: new pages beside
old ones, later ones without earlier ones.  What no shutdown can show is a disk whose own
cache forgets what was written but not flushed: the image keeps all that reached it.  A
file system that forgot the flush would not be found out here; a missing fdatasync is.
The simulated disk beside this package covers that part.
"""
