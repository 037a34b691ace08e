"""The laboratory: the library on a disk that forgets, tears and fails, checked against its promises.

disk.py      a disk in memory, with the face of mq.storage.disk.Disk
fate.py      what of the un-synced a power cut leaves behind
history.py   what was asked, what returned, and so what must and what may be there
driver.py    one process that uses a store, and writes the history
workloads.py small functions over a driver
explorer.py  cuts at every call, opens what is left, and looks

kernel.py    one machine with several processes: at every call one of them goes on, or dies
actor.py     what one of them does;  scripts.py  in which order;  op.py, view.py  and what it sees
witness.py   what all did, and whether that may be;  routed.py, ticked.py, compared.py  the same of topics, …
processes.py schedules from seeds, the shortest that fails
stage.py, interleavings.py   interleavings known by name: a director says which process goes how far
owners.py, midway.py         the same: another process comes at each call of a turn, a tick, a subscription
displaced.py                 the same: what a process has open is moved or deleted, at each of its calls

damage.py    every bit flipped, every file cut short
planted.py, planted_processes.py   bugs that the laboratory must catch
"""
