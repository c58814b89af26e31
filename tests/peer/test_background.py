"""Tasks that nobody waits for are bounded, quiet and end with the peer."""

import asyncio

import pytest

from identity.errors import ShoalError
from peer import background as background_module
from peer.background import Background
from tests.dht.nodes import until


async def test_work_runs_and_its_expected_errors_are_quiet() -> None:
    background = Background()
    done: list[str] = []

    async def fail() -> None:
        done.append("failed")
        raise ShoalError("expected")

    background.start(fail())
    await until(lambda: done == ["failed"])
    await background.close()
    assert background.dropped == 0


async def test_what_still_runs_is_cancelled_at_the_end_and_nothing_begins_after_it() -> None:
    background = Background()
    ended: list[str] = []

    async def wait_forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    background.start(wait_forever())
    await asyncio.sleep(0)
    await background.close()
    assert ended == ["cancelled"]
    background.start(wait_forever())
    assert background.dropped == 1


async def test_too_much_work_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_module, "TASKS_MAX", 2)
    background = Background()
    for _ in range(5):
        background.start(asyncio.Event().wait())
    assert background.dropped == 3
    await background.close()
