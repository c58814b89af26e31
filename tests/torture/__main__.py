"""`python -m tests.torture [SUITE...] [--runs N] [--seed S]`: long fault runs outside `make test`.

Owns the command line and the verdict. A suite is a module here with `torture(runs, seed)`, which
returns its tallies; `runs` is None where nothing was asked for. Each is bounded in count and time,
talks to loopback only, and repeats from its seed. The exit code is 1 when anything was lost or
damaged.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import random
import signal
import sys
import time

SUITES = ("transfers", "deliveries", "rejoins", "crashes", "cluster")


def available() -> list[str]:
    """Return the suites that are there."""
    return [name for name in SUITES if importlib.util.find_spec(f"tests.torture.{name}")]


def main() -> int:
    """Run suites and print their tallies."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(available())}")
    parser.add_argument("--runs", type=int, help="runs of each torture; each has its own default")
    parser.add_argument("--seed", type=int, help="repeats a run; chosen and printed otherwise")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended first
    unknown = set(asked.suites) - set(available())
    if unknown or (asked.runs is not None and asked.runs < 1):
        parser.error(f"no such suite: {sorted(unknown)}" if unknown else "--runs is at least 1")
    seed = random.SystemRandom().randrange(1 << 32) if asked.seed is None else asked.seed
    passed = True
    for name in asked.suites or available():
        print(f"== {name}, seed {seed}", flush=True)
        began = time.monotonic()
        for tally in importlib.import_module(f"tests.torture.{name}").torture(asked.runs, seed):
            print(tally, flush=True)
            passed = passed and tally.passed
        print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
    print("nothing lost, nothing damaged" if passed else f"FAILED, repeat with --seed {seed}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
