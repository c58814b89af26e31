"""The quota of the inbox: exact after restarts and removals, without counting for each arrival."""

import os
from pathlib import Path

import pytest

from transfer import inbox_room
from transfer.errors import QuotaFull
from transfer.inbox_room import RECOUNT_S, InboxRoom

FILES = 40


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def room(folder: Path, quota: int, clock: Clock | None = None) -> InboxRoom:
    folder.mkdir(exist_ok=True)
    return InboxRoom(folder, quota, 0, clock=clock or Clock())


def receive(inbox: InboxRoom, folder: Path, name: str, size: int) -> None:
    part, final = folder / f".{name}", folder / name
    inbox.promise(part, size)
    part.write_bytes(bytes(size))
    part.rename(final)
    inbox.end(part, final)


def test_quota_is_exact_after_a_restart_and_after_files_were_removed(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    inbox = room(folder, 100)
    for number in range(9):
        receive(inbox, folder, str(number), 10)
    inbox = room(folder, 100)  # started again
    with pytest.raises(QuotaFull):
        inbox.promise(folder / "part", 11)
    receive(inbox, folder, "9", 10)
    with pytest.raises(QuotaFull):
        inbox.promise(folder / "part", 1)
    (folder / "4").unlink()
    with pytest.raises(QuotaFull):
        inbox.promise(folder / "part", 11)
    receive(inbox, folder, "10", 10)  # exactly the room that was made
    assert inbox.usage().used_bytes == 100


def test_what_a_person_puts_in_counts_within_a_minute(tmp_path: Path) -> None:
    folder, clock = tmp_path / "inbox", Clock()
    inbox = room(folder, 100, clock)
    receive(inbox, folder, "a", 10)
    (folder / "mine").mkdir()
    (folder / "mine" / "large").write_bytes(bytes(80))
    clock.now += RECOUNT_S + 1
    with pytest.raises(QuotaFull):
        inbox.promise(folder / "part", 11)


def test_arrivals_are_counted_once_in_whatever_state_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    inbox = room(folder, 100)
    part = folder / "part"
    inbox.promise(part, 60)
    part.write_bytes(bytes(20))
    assert inbox.usage().used_bytes == 60
    inbox.promise(part, 70)  # it turned out to be larger
    with pytest.raises(QuotaFull):
        inbox.promise(folder / "other", 31)
    with pytest.raises(QuotaFull):
        inbox.promise(part, 101)
    assert inbox.usage().used_bytes == 70
    inbox.end(part, None)
    inbox.promise(folder / "other", 80)  # the partial file's 20 bytes are still there
    inbox.end(folder / "other", None)
    inbox.promise(part, 100)  # resumed: its own bytes do not count twice
    assert inbox.usage().used_bytes == 100


def test_hundreds_of_arrivals_do_not_count_the_inbox_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "inbox"
    inbox = room(folder, 10_000)
    looked = 0
    lstat = os.lstat

    def counted(path: str) -> os.stat_result:
        nonlocal looked
        looked += 1
        return lstat(path)

    monkeypatch.setattr(inbox_room.os, "lstat", counted)
    for number in range(FILES):
        receive(inbox, folder, str(number), 10)
    assert looked < FILES  # one by one it would be 780
    assert inbox.usage().used_bytes == 10 * FILES
