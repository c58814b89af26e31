"""The torture of one delivery: stopped before each of its steps, in turn. Nothing is random."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.crashes import crash_a_delivery
from tests.torture.tally import Tally


def torture(runs: int | None, seed: int) -> Iterator[Tally]:
    """Yield a tally for killed processes, and one for a disk that fails."""
    for mode in ("kill", "fail"):
        with tempfile.TemporaryDirectory() as folder:
            result = crash_a_delivery(Path(folder), mode)
        yield Tally(
            f"a delivery stopped before each step ({mode})", seed, runs=result.steps,
            lost=len(result.wrong), notes=result.wrong,
        )  # fmt: skip
