"""mq beside what else Python programs use as a queue, on the same work.

    scripts/bench --quick          three minutes, to see where things stand
    scripts/bench --help           the rest

How the figures are kept comparable:

- Each measurement is a process of its own, with a directory of its own on the same disk.  Its helpers
  (other processes, threads) are there and have the store open before the clock starts.
- The rounds are interleaved: each round measures every peer at every workload, and the order of the peers
  turns from round to round.  A ratio is taken within a round; shown are the median and the range.
- The bodies are the same bytes for all, cannot be compressed, and are made before the clock starts.
- Each message has a number.  After each workload every number must have come out once, with its bytes,
  or still be there once; otherwise the table says "wrong" in place of a figure.
- "Durable" waits for the disk in each publish; acks may be lost to a power cut, which only delivers again.
  Each peer is set up for that, or for more if it cannot do less; its line in the table of promises says so.
- A library that is loaded into every process (`shim.c`) counts what waits for the disk, and can make each
  such call as slow as on a slower disk.  The garbage collector is left as it is.

The files: `peer.py` and `peers/` are what is measured, `workload.py` and `workloads/` on what; `rounds.py`
runs it, `child.py` is the process in which one measurement takes place; `results.py`, `tables.py`, `plots.py`
and `document.py` are what becomes of the figures.
"""
