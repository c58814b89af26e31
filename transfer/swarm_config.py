"""The bounds of a swarm download: how much is asked of whom, and when twice.

Owns the numbers that scheduler.py works with. Pure.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SwarmConfig:
    """Bounds of a swarm; checked when built."""

    holders_max: int = 64
    """More holders than these are not added."""
    window_min: int = 2
    """Chunks in flight at a holder whose rate is not known yet."""
    window_max: int = 16
    """Chunks in flight at the fastest holder."""
    window_bytes_max: int = 8 * 1024 * 1024
    """Bytes in flight at one holder, but for one chunk, which may be larger."""
    in_flight_bytes_max: int = 64 * 1024 * 1024
    """Bytes in flight at all holders, but for one chunk."""
    window_target_s: float = 0.25
    """A window holds what the holder sends in this time,"""
    run_target_s: float = 0.03
    """and a run what it sends in this."""
    copies_max: int = 2
    """Holders asked for one chunk at the same time."""
    late_factor: float = 2.0
    """A second holder is asked when it should be this many times faster."""
    late_slack_s: float = 0.25
    """And sooner by at least this."""
    late_check_s: float = 0.1
    """How often late chunks are looked for."""
    in_order: bool = False
    """The first missing chunk first, for whoever reads while the download runs."""
    vain_min: int = 1
    """So many chunks may come twice, and"""
    vain_share: float = 0.01
    """this part of those that are there; then a second holder is asked only when"""
    late_silent_s: float = 1.0
    """the first one has sent nothing for so long, and for four times what the slowest needs for a
    chunk; four times as long with each chunk that comes twice all the same: that one is slow."""
    late_silent_max_s: float = 60.0
    busy_max_s: float = 30.0
    """No hint makes a holder wait longer."""

    def __post_init__(self) -> None:
        assert 1 <= self.window_min <= self.window_max
        assert self.holders_max >= 1
        assert self.copies_max >= 1
