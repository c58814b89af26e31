"""A crash, or a failing disk, between any two steps of a delivery: nothing lost, nothing twice.

Some steps here, killed at one and failed at another; each step of both by `make torture`.
"""

from pathlib import Path

import pytest

from tests.support.crashes import crash_a_delivery


@pytest.mark.parametrize(
    ("kind", "mode", "first", "every"),
    [
        ("file", "kill", 1, 4),
        ("file", "fail", 3, 4),
        ("folder", "kill", 5, 21),
        ("folder", "fail", 9, 21),
    ],
)
def test_a_delivery_survives_a_stop_before_one_of_its_steps(
    tmp_path: Path, kind: str, mode: str, first: int, every: int
) -> None:
    result = crash_a_delivery(tmp_path, mode, kind, first=first, every=every)
    assert result.wrong == []
    assert result.steps > 60, "the delivery is stopped where it writes"
