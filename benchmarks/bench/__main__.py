"""scripts/bench, once its venv is there."""

from benchmarks.bench.app import main

main(prog_name="scripts/bench")
