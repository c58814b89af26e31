"""What a torture came to: how many runs, what was lost, what was damaged. Knows no suite."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class Tally:
    """The counts of one torture; it passed when nothing was lost, damaged or doubled."""

    name: str
    seed: int
    runs: int = 0
    lost: int = 0
    """Runs that did not come to their end."""
    damaged: int = 0
    """Runs that ended with something else than what was sent, or at a cost beyond the bound."""
    doubled: int = 0
    """What arrived more than once."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """Figures, and what went wrong where."""

    @property
    def passed(self) -> bool:
        return self.runs > 0 and not (self.lost or self.damaged or self.doubled)

    def __str__(self) -> str:
        counts = (
            f"{self.runs} runs, {self.lost} lost, {self.damaged} damaged, {self.doubled} doubled"
        )
        return "\n  ".join([f"{self.name}: {counts} (seed {self.seed})", *self.notes])
