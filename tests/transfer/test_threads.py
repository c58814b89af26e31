"""Blocking work under callers that are cancelled."""

import asyncio
import threading
from pathlib import Path

import pytest

from tests.transfer.peers import poll
from transfer.inbox import InboxFolder
from transfer.inbox_room import InboxRoom
from transfer.threads import run_to_end


class Work:
    """Blocks until it is let go, then returns its result or raises."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.ended = False
        self._failure = failure

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(10)
        self.ended = True
        if self._failure is not None:
            raise self._failure
        return "result"


async def test_result_and_error_come_back() -> None:
    assert await run_to_end(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await run_to_end(lambda: 1 // 0)


async def test_cancelled_caller_waits_for_the_end_and_the_result_is_undone() -> None:
    work, undone = Work(), list[str]()
    caller = asyncio.create_task(run_to_end(work, undo=undone.append))
    assert await poll(work.begun.is_set)
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.ended
    assert undone == ["result"]


async def test_failure_behind_a_cancelled_caller_is_not_undone() -> None:
    work, undone = Work(OSError()), list[str]()
    caller = asyncio.create_task(run_to_end(work, undo=undone.append))
    assert await poll(work.begun.is_set)
    caller.cancel()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert undone == []


async def test_time_that_runs_out_meanwhile_is_a_timeout() -> None:
    work = Work()

    async def limited() -> None:
        async with asyncio.timeout(0.01):
            asyncio.get_running_loop().call_later(0.05, work.go.set)
            await run_to_end(work)

    with pytest.raises(TimeoutError):
        await limited()
    assert work.ended


async def test_arrival_whose_opening_was_cancelled_can_be_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, real = Work(), InboxRoom.promise

    def slow(room: InboxRoom, part: Path, size_bytes: int) -> None:
        work()
        real(room, part, size_bytes)

    inbox = InboxFolder(tmp_path, 100, free_floor_bytes=0)
    with monkeypatch.context() as patched:
        patched.setattr(InboxRoom, "promise", slow)
        opening = asyncio.create_task(inbox.open(b"key", "name", 10))
        assert await poll(work.begun.is_set)
        opening.cancel()
        work.go.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
    file = await inbox.open(b"key", "name", 10)
    await file.close()
