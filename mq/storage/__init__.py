"""The log on disk.  Knows records, segments and files; knows no queue, topic or consumer.

disk.py      the only module that touches files, locks and the shared page
identity.py  FORMAT: which store this is
record.py    bytes ⇄ record
segment.py   one file of the log, and how it is read
log.py       append, group commit, rotate, read, fail-stop
recovery.py  what is on disk → where the log ends, and a verdict
walk.py      the log as it lies there, damaged places included, for those who look
shared.py    the lock, and the page that all processes see
"""
