"""What happens to messages.  Pure: no I/O, clock, thread or lock; time is an argument.

events.py    what a record means here: publish, deliver, ack, …
backlog.py   ids that wait, eight bytes each
queue.py     one queue: waiting, delayed, in flight
retry.py     how long to wait after a failure
state.py     the fold: records in, queues out
snapshot.py  the state as something to keep, and back
"""
