"""The torture of one delivery: stopped before each of its steps, in turn. Nothing is random."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.crashes import crash_a_delivery
from tests.torture.tally import Tally


def torture(runs: int | None, seed: int) -> Iterator[Tally]:
    """Yield a tally for killed processes, and one for a disk that fails."""
    for mode, kind in itertools.product(("kill", "fail"), ("file", "folder")):
        with tempfile.TemporaryDirectory() as folder:
            result = crash_a_delivery(Path(folder), mode, kind)
        yield Tally(
            f"a delivery of a {kind} stopped before each step ({mode})", seed, runs=result.steps,
            lost=len(result.wrong), notes=result.wrong,
        )  # fmt: skip
