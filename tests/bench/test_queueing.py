"""bench/queueing.py measures what it says: real uploads, and a verdict that can be `MISSED`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import plain_grpc, queueing
from bench.queueing import MIB, Figures, Plan, show


def test_plain_uploads_reach_a_process_with_and_without_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "HOSTS", 1)
    source = tmp_path / "source"
    queueing.write_source(source, 3 * MIB + 1)
    with (
        queueing.uploads(tmp_path, with_tls=True) as tls,
        queueing.uploads(tmp_path) as bare,
    ):
        for given in (tls, bare):
            assert queueing.plain("bench.plain_grpc", "send", str(source), *given) > 0


async def test_upload_to_nobody_is_no_figure(tmp_path: Path) -> None:
    source = tmp_path / "source"
    queueing.write_source(source, 10)
    with pytest.raises(Exception, match="UNAVAILABLE"):
        await plain_grpc.send(source, [1], None)


def test_source_has_the_digest_that_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "source"
    digest = queueing.write_source(path, MIB + 5)
    assert path.stat().st_size == MIB + 5
    assert queueing.digest_of(path) == digest
    path.write_bytes(path.read_bytes()[:-1])
    assert queueing.digest_of(path) != digest


def test_ratios_and_memory_are_judged_by_their_bounds() -> None:
    speeds = dict.fromkeys([name for _, *pair, _ in queueing.RATIOS for name in pair], 100.0) | {
        "queue deposit": 59.0
    }
    good = show(Plan(), Figures([speeds], {"mailbox: ada": 200}))
    assert "RabbitMQ deposit to pika publish                 0.59x  wanted 0.6: MISSED" in good
    assert good.count("MISSED") == 1
    assert good.count(": ok") == 4
    assert "highest 201, wanted 200: MISSED" in show(
        Plan(), Figures([speeds], {"mailbox: ada": 200, "queue: bob": 201})
    )
