"""Where this Shoal lies on the machine: how to start it again, and what stands beside it.

Standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path

# cli.py stands beside the packages, in a checkout as where it was installed.
_ROOT = Path(__file__).resolve().parent.parent


def this_command() -> list[str]:
    """The words that start the command which is running now."""
    return [sys.executable, str(_ROOT / "cli.py")]


def checkout_network() -> Path | None:
    """The bootstrap.json of a checkout; an installed command has none beside it."""
    path = _ROOT / "bootstrap.json"
    return path if path.is_file() else None
