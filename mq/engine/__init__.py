"""Where log, state, clock and locks meet.

hot.py         publish, receive, ack and their batches, written flat
commands.py    the other operations: each is a plan;  settling.py, several.py, looking.py
turn.py        the way into every operation: locks, catching up, leaving
replica.py     the state, and how far it has applied the log
commit.py      plan → append → apply → wake
store.py       what all operations need, and the phases of a store
opening.py     recovery, or joining the processes that have it open;  closing.py;  child.py, of a fork
log.py         what all of this asks of a log
"""
