"""A crash, or a failing disk, between any two steps of a delivery: nothing lost, nothing twice.

Every fourth step here, killed at one and failed at another; each step of both by `make torture`.
"""

from pathlib import Path

import pytest

from tests.support.crashes import crash_a_delivery


@pytest.mark.parametrize(("mode", "first"), [("kill", 1), ("fail", 3)])
def test_a_delivery_survives_a_stop_before_every_fourth_step(
    tmp_path: Path, mode: str, first: int
) -> None:
    result = crash_a_delivery(tmp_path, mode, first=first, every=4)
    assert result.wrong == []
    assert result.steps > 60, "the delivery is stopped where it writes"
