"""The short form of `python -m tests.torture deliveries`: five deliveries, a fault in each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.broker import PrivateBroker
from tests.torture.deliveries import Fault, torture_deliveries

SEED = 7
FAULTS = (
    Fault.SENDER_KILLED,
    Fault.HOST_KILLED,
    Fault.RECIPIENT_KILLED,
    Fault.BROKER_ALARMED,
    Fault.DISK_FULL,
)


@pytest.mark.timeout(300)
def test_no_fault_loses_damages_or_doubles_a_delivery(
    broker_control: PrivateBroker, tmp_path: Path
) -> None:
    tally = torture_deliveries(tmp_path, broker_control, runs=len(FAULTS), seed=SEED, faults=FAULTS)
    assert (tally.lost, tally.damaged, tally.doubled) == (0, 0, 0), tally
    assert tally.runs == len(FAULTS)
