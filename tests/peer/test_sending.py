"""Sending several files to one peer by one command."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peer.sending import AWAY_S, Sending, Terms


class Told(Sending):
    """Notes which files it was to dial the recipient for."""

    def __init__(self, *, is_there: bool) -> None:
        self.is_there = is_there
        self.dialled: list[bool] = []

    async def put_to(self, *_: Any, dials: bool = True, **__: Any) -> bool:
        self.dialled.append(dials)
        return dials and self.is_there


async def put_three(sending: Sending) -> None:
    files = [Path("one"), Path("two"), Path("three")]
    await sending.put_all_to(files, None, bytes(20), Any, Terms())  # type: ignore[arg-type]


async def test_recipient_that_is_away_is_dialled_once_for_all_files_of_a_command() -> None:
    away = Told(is_there=False)
    await put_three(away)
    assert away.dialled == [True, False, False]


async def test_recipient_that_is_there_is_dialled_for_each_file() -> None:
    there = Told(is_there=True)
    await put_three(there)
    assert there.dialled == [True, True, True]


async def test_recipient_that_was_away_is_dialled_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter([10.0, 10.0, 10.0 + AWAY_S / 2, 10.0 + AWAY_S, 10.0 + AWAY_S])
    monkeypatch.setattr("peer.sending.time", SimpleNamespace(monotonic=lambda: next(now)))
    away = Told(is_there=False)
    await put_three(away)
    assert away.dialled == [True, False, True]
