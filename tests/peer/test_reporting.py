import asyncio
from typing import Any

import pytest

from peer import reporting
from peer.reporting import Reporter
from peer.views import InviteView, Progress
from tests.dht.nodes import until
from tests.peer.cores import Heard


def progress(done_bytes: int) -> Progress:
    return Progress("a.txt", "hashing", done_bytes, 100)


async def test_events_carry_views_as_json() -> None:
    heard = Heard()
    reporter = Reporter(heard.emit)
    await reporter.item(InviteView("one"))
    await reporter.result(InviteView("two"))
    await reporter.note("careful", hint="look")
    assert heard.events == [
        {"event": "item", "item": {"invite": "one"}},
        {"event": "result", "result": {"invite": "two"}},
        {"event": "note", "text": "careful", "hint": "look"},
    ]


async def test_only_the_latest_progress_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "PROGRESS_INTERVAL_S", 0.01)
    heard = Heard()
    async with Reporter(heard.emit).progressing() as tell:
        for done_bytes in range(50):
            tell(progress(done_bytes))
        await until(lambda: bool(heard.events))
        tell(progress(100))
        await until(lambda: len(heard.events) == 2)
    assert [event["done_bytes"] for event in heard.events] == [49, 100]


async def test_progress_ends_with_its_block_and_does_not_hide_its_error() -> None:
    heard = Heard()
    before = asyncio.all_tasks()

    async def fail() -> None:
        async with Reporter(heard.emit).progressing() as tell:
            tell(progress(1))
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await fail()
    assert asyncio.all_tasks() == before


async def test_listener_that_went_away_does_not_end_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "PROGRESS_INTERVAL_S", 0.0)
    tried: list[dict[str, Any]] = []

    async def gone(event: dict[str, Any]) -> None:
        tried.append(event)
        raise ConnectionResetError

    async with Reporter(gone).progressing() as tell:
        tell(progress(1))
        await until(lambda: bool(tried))
    assert len(tried) == 1
