"""Receiving processes killed at random moments; a hundred of them by `make torture`."""

from pathlib import Path

from tests.torture.kills import kill_receivers


async def test_ten_receivers_killed_at_random_moments_leave_nothing_damaged(tmp_path: Path) -> None:
    tally = await kill_receivers(tmp_path, kills=10, seed=4)
    assert tally.passed, str(tally)
    assert tally.runs == 10
