"""The laboratory: the library on a disk that forgets, tears and fails, checked against its promises.

disk.py      a disk in memory, with the face of mq.storage.disk.Disk
fate.py      what of the un-synced a power cut leaves behind
history.py   what was asked, what returned, and so what must and what may be there
driver.py    one process that uses a store, and writes the history
workloads.py small functions over a driver
explorer.py  cuts at every call, opens what is left, and looks
damage.py    every bit flipped, every file cut short
planted.py   bugs that the laboratory must catch
"""
