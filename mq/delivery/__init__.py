"""What happens to messages.  Pure: no I/O, clock, thread or lock; time is an argument.

What a record says:

records/       each kind of record: how it is made, decoded, described
attributes.py  what a message is beside its body
options.py     what is known of a queue: its options and totals
meta.py        texts that a program keeps with a queue
decode.py      which records are refused, and why
fold.py        what each kind does to the state: the one dispatcher
runs.py        plain records in a row, done at once

What is true then:

state.py       all queues
listing.py     their names, in order
queue.py       one queue: waiting, delayed, in flight
backlog.py     ids that wait, eight bytes each
traits.py      what is kept of the others
table.py       the dict that holds it, of which no part is long
dedup.py       dedup ids that are remembered
shares.py      messages that several queues hold
subscription.py  what a queue gets of what is published to topics
snapshot.py    the state as something to keep, and back
unloaded.py    queues as a checkpoint holds them, until they are needed

What is next, and when; indexes over that:

ready.py       which message of a queue is next
heaps.py       ids that came back, by priority
batches.py     what came due at once, until it is looked at
blocks.py      those of them that expire
groups.py      of each group one at a time
timers.py      what comes due in a queue, and the alarms that it sets
agenda.py      what happens when
expiries.py    which messages expire, and how many have
tally.py       the counting of those
moment.py      the time as one queue has seen it
now.py         the time, as the caller gives it
retry.py       how long to wait after a failure
board.py       when a queue has something to do, and which has changed

What is decided, as records to be appended:

plan.py        together, or not at all
intake.py      what a publish becomes
settle.py      what becomes of a delivery
dead.py        the dead letters, and back
purge.py       dropping all that a queue holds
transfer.py    moving it as it is, and taking in what another store had
under_way.py   what is on its way to another store: not to be touched
due.py         what falls due
idle.py        which queues go when no process receives from them
"""
