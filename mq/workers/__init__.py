"""Workers: functions of a program that are called with what comes into its queues.

    handler     a function, and what it wants to be given
    raised      what a handler raises
    outcome     what becomes of a message when its handler returns, or raises
    slot        one call at a time: in a thread, or as a task of the event loop
    strategy    which slot is given the next message
    feed        what is taken from one queue, for all its slots
    counts      what is held, done, failed
    run         takes, gives, waits; stops when it is told to, and gives back what is left

They stand on what every program has: receive, settle, keep, watch.
"""
