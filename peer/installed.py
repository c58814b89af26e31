"""Where the command that runs lies: how to start it again, and what stands beside it.

Standard library only.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True)
class Installed:
    """The program of the command: cli.py in a checkout, or where it was installed."""

    program: Path

    def command(self) -> list[str]:
        """The words that start it again."""
        return [sys.executable, str(self.program)]

    def network_file(self) -> Path | None:
        """The bootstrap.json of a checkout; an installed command has none beside it."""
        path = self.program.parent / "bootstrap.json"
        return path if path.is_file() else None
