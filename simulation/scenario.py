"""What a scenario is: its name, its sizes, and the coroutine that runs it.

Owns the options that all scenarios share. Must not know any one of them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from simulation.report import Report


@dataclass(frozen=True, slots=True)
class Options:
    """How one run is wanted."""

    peers: int
    seed: int
    is_small: bool = False
    """Fewer readings too, for a first look and for the tests."""
    hours: float | None = None
    """Virtual hours of a scenario that lasts; None: its own."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question to a simulated network."""

    name: str
    summary: str
    peers: int
    """Size of the full run."""
    small_peers: int
    """Size of the short run."""
    run: Callable[[Options], Awaitable[Report]]
    has_real_signatures: bool = False
