"""Run `tests.queueing.crashing` in a fresh process, which forks: this one has threads."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 600.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Crashes:
    """What stopping a delivery at many steps came to."""

    steps: int
    """Steps of the whole delivery after the first that was tried."""
    wrong: list[str]
    """What was lost, doubled or left behind, and after which step."""


def crash_a_delivery(
    folder: Path, mode: str, kind: str = "file", *, first: int = 1, every: int = 1
) -> Crashes:
    """Stop one delivery before each of its steps, by `kill` or by a disk that `fail`s once."""
    module = (sys.executable, "-m", "tests.queueing.crashing")
    done = subprocess.run(
        [*module, folder, mode, str(first), str(every), kind],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    *wrong, last = done.stdout.splitlines() or [""]
    word, _, steps = last.partition(" ")
    assert word == "STEPS", f"it ended early, with {done.returncode}"
    return Crashes(int(steps), wrong)
