"""Where log, state, clock and locks meet.  The way into every operation is in store.py."""
