"""Figures of a swarm of real processes: who sent how much, and whether all files are whole.

Owns starting and ending swarm_process.py, and what its members wrote.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import waiting
from tests.torture.tally import Tally
from tests.transfer.peers import CHUNK

ROOT = Path(__file__).parents[2]
END_TIMEOUT_S = 15.0


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """What a swarm cost, in sizes of its file."""

    moved: float
    """What readers fetched, by what they needed."""
    sent: list[float]
    """By each seed."""
    damaged: int
    lost: int
    seconds: float

    @property
    def unevenness(self) -> float:
        """The most that a seed sent, by the mean of all."""
        return max(self.sent) / (sum(self.sent) / len(self.sent))


def run_swarm(
    folder: Path, *, seeds: int, readers: int, chunks: int, seed: int, timeout_s: float
) -> Figures:
    """Let that many processes fetch a file at once from seeds and each other."""
    data = random.Random(seed).randbytes(chunks * CHUNK - 5)
    (folder / "source").write_bytes(data)
    numbers = [str(each) for each in (seeds, readers, seed)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.swarm_process", str(folder), *numbers],
        cwd=ROOT,
        # grpc tells of each connection that its peer ends.
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    )
    began = time.monotonic()
    try:
        _wait(lambda: len(list(folder.glob("done-*.json"))) == readers, process, timeout_s)
        seconds = time.monotonic() - began
        (folder / "stop").touch()
        process.wait(END_TIMEOUT_S)
    finally:
        (folder / "stop").touch()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    results = [_read(folder / f"result-{number}.json") for number in range(seeds + readers)]
    copies = [folder / f"copy-{number}" for number in range(seeds, seeds + readers)]
    return Figures(
        moved=sum(result["fetched"] for result in results) / (readers * len(data)),
        sent=[result["sent"] / len(data) for result in results[:seeds]],
        damaged=sum(copy.exists() and copy.read_bytes() != data for copy in copies),
        lost=sum(not copy.exists() for copy in copies),
        seconds=seconds,
    )


def one_seed(folder: Path, *, readers: int, chunks: int, seed: int, timeout_s: float) -> Tally:
    """One seed and many readers: nearly nothing twice, and the seed sends a few times the file."""
    figures = run_swarm(
        folder, seeds=1, readers=readers, chunks=chunks, seed=seed, timeout_s=timeout_s
    )
    tally = Tally(f"one seed, {readers} readers", seed, runs=readers, lost=figures.lost)
    tally.damaged = figures.damaged + (figures.moved > 1.05) + (figures.sent[0] > 4)
    tally.notes.append(
        f"{chunks} chunks: {figures.moved:.3f} of what was needed came over the network (1.05"
        f" allowed), the seed sent {figures.sent[0]:.2f} files (4 allowed), {figures.seconds:.1f} s"
    )
    return tally


def equal_holders(folder: Path, *, count: int, chunks: int, seed: int, timeout_s: float) -> Tally:
    """As many readers as equal holders: none of these sends much more than the mean."""
    figures = run_swarm(
        folder, seeds=count, readers=count, chunks=chunks, seed=seed, timeout_s=timeout_s
    )
    tally = Tally(f"{count} equal holders, {count} readers", seed, runs=count, lost=figures.lost)
    tally.damaged = figures.damaged + (figures.unevenness > 1.5)
    tally.notes.append(
        f"{chunks} chunks: the busiest holder sent {figures.unevenness:.2f} times the mean"
        f" (1.5 allowed), {figures.moved:.3f} of what was needed, {figures.seconds:.1f} s"
    )
    return tally


def _wait(holds: Callable[[], bool], process: subprocess.Popen[bytes], timeout_s: float) -> None:
    waiting.until(lambda: holds() or process.poll() is not None, timeout_s, "a finished swarm")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"sent": 0, "fetched": 0}
    told: dict[str, Any] = json.loads(path.read_text())
    return told
