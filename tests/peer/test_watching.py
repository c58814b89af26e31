"""Watched folders: real files, real records, seen from another peer."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bench.lag import loop_lag
from dht.errors import ScheduleFull
from peer import watching
from peer.catalog import Share
from peer.core import Core
from peer.errors import BadInput
from peer.home import Home
from peer.offering import Offering, check_shares, outermost
from peer.sharing import Sharing
from peer.watching import FolderWatch
from tests.dht.nodes import until
from tests.peer.cores import address_of, cores_of

QUIET_S = 0.05
LAG_MAX_S = 0.05


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "DEBOUNCE_S", 0.01)


class Watcher:
    """Ada, who watches a folder, and what others see of it."""

    def __init__(self, ada: Core, bob: Core, folder: Path) -> None:
        self.ada, self.bob, self.folder = ada, bob, folder
        self.sharing = Sharing(ada)
        self.sharing.advertise([address_of(ada)])
        self.notes: list[str] = []
        self.hashed: list[str] = []
        hash_one = self.sharing.hash

        async def counted(path: Path, *further: Any) -> Share:
            self.hashed.append(path.name)
            return await hash_one(path, *further)

        self.sharing.hash = counted  # type: ignore[method-assign]

    def put(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[FolderWatch]:
        watch = FolderWatch(
            self.ada,
            self.sharing,
            self.folder,
            lambda text, _: self.notes.append(text),
            quiet_s=QUIET_S,
        )
        task = asyncio.create_task(watch.run())
        try:
            yield watch
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def names(self) -> list[str]:
        return [share.name for share in self.ada.catalog.shares()]

    async def settled(self, watch: FolderWatch, *names: str) -> None:
        """Wait until just these are shared and nothing is waiting."""
        count = self.ada.catalog.share_count
        await until(lambda: count() == len(names) and not watch.waiting and watch.turns > 0, 30.0)
        await until(lambda: self.names == sorted(names) and not watch.waiting)

    async def another_look(self, watch: FolderWatch) -> None:
        """Wait until a look has begun and ended from now on."""
        for _ in range(2):  # the first may be under way already
            turns = watch.turns
            self.folder.chmod(0o700)  # rings
            await until(lambda: watch.turns > turns)  # noqa: B023 - waited for here

    async def others_see(self, name: str) -> list[bytes]:
        return [found.payload.content_id for found in await self.bob.dht.find_name(name)]


@pytest.fixture
async def watcher(tmp_path: Path) -> AsyncIterator[Watcher]:
    (tmp_path / "shared").mkdir()
    async with cores_of(tmp_path / "homes", "ada", "bob") as (ada, bob):
        yield Watcher(ada, bob, tmp_path / "shared")


async def test_files_that_come_change_and_go_do_so_for_others(watcher: Watcher) -> None:
    watcher.put("first.txt", "1")
    async with watcher.watching() as watch:
        await watcher.settled(watch, "first.txt")
        path = watcher.put("below/second.txt", "2")
        await watcher.settled(watch, "first.txt", "second.txt")
        [before] = await watcher.others_see("second.txt")
        path.write_text("another 2")
        await until(lambda: before not in _contents(watcher) and not watch.waiting)
        [after] = await watcher.others_see("second.txt")
        assert after != before
        path.unlink()
        await watcher.settled(watch, "first.txt")
        assert await watcher.others_see("second.txt") == []
        assert await watcher.bob.holders_of_content(after) == ()
        assert len(await watcher.others_see("first.txt")) == 1


async def test_restart_hashes_what_changed_and_nothing_else(watcher: Watcher) -> None:
    names = [f"{number}.txt" for number in range(100)]
    for name in names:
        watcher.put(name, name)
    async with watcher.watching() as watch:
        await watcher.settled(watch, *names)
    assert sorted(watcher.hashed) == sorted(names)
    watcher.hashed.clear()
    (watcher.folder / "0.txt").unlink()
    watcher.put("1.txt", "other")
    mtime_ns = (watcher.folder / "2.txt").stat().st_mtime_ns
    watcher.put("2.txt", "2!txt")  # as long as before, and its time is set back
    os.utime(watcher.folder / "2.txt", ns=(mtime_ns, mtime_ns))
    watcher.put("new.txt", "new")
    async with watcher.watching() as watch:
        await watcher.settled(watch, *names[1:], "new.txt")
        await until(lambda: len(watcher.hashed) >= 3)
        await until(lambda: not watch.waiting)
    assert sorted(watcher.hashed) == ["1.txt", "2.txt", "new.txt"]
    watcher.hashed.clear()
    async with watcher.watching() as watch:
        await until(lambda: watch.turns >= 2)
    assert watcher.hashed == []


async def test_what_was_shared_before_a_kill_is_not_hashed_again(watcher: Watcher) -> None:
    watcher.put("a.txt", "a")
    async with watcher.watching() as watch:
        await watcher.settled(watch, "a.txt")
    watcher.ada.database.run("DELETE FROM watched")  # killed before it was noted
    watcher.hashed.clear()
    async with watcher.watching() as watch:
        await until(lambda: watch.turns >= 2 and not watch.waiting)
    assert watcher.hashed == []
    assert watcher.names == ["a.txt"]


async def test_unshared_file_stays_unshared_until_it_is_put_by_hand(watcher: Watcher) -> None:
    path = watcher.put("a.txt", "a")
    watcher.put("b.txt", "b")
    async with watcher.watching() as watch:
        await watcher.settled(watch, "a.txt", "b.txt")
        await watcher.sharing.unshare("a.txt")
        path.write_text("changed")
        await watcher.another_look(watch)
        assert watcher.names == ["b.txt"]
    async with watcher.watching() as watch:  # and after a restart
        await watcher.another_look(watch)
        assert watcher.names == ["b.txt"]
        await watcher.sharing.put(path, None)
        watcher.put("c.txt", "c")  # rings
        await watcher.settled(watch, "a.txt", "b.txt", "c.txt")
        path.unlink()
        await watcher.settled(watch, "b.txt", "c.txt")


async def test_of_two_files_of_one_name_the_other_follows_when_the_first_goes(
    watcher: Watcher,
) -> None:
    first, second = watcher.put("1/a.txt", "first"), watcher.put("2/a.txt", "second")
    async with watcher.watching() as watch:
        await watcher.settled(watch, "a.txt")
        assert [share.path for share in watcher.ada.catalog.shares()] == [first]
        assert any("1 files whose name another has" in note for note in watcher.notes)
        first.unlink()
        await until(lambda: [s.path for s in watcher.ada.catalog.shares()] == [second])


async def test_renamed_folder_keeps_its_files_shared_all_the_time(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher.put("old/a.txt", "a")
    async with watcher.watching() as watch:
        await watcher.settled(watch, "a.txt")
        withdrawn: list[object] = []
        withdraw = watcher.ada.dht.withdraw

        async def noted(payloads: list[object]) -> None:
            withdrawn.extend(payloads)
            await withdraw(payloads)  # type: ignore[arg-type]

        monkeypatch.setattr(watcher.ada.dht, "withdraw", noted)
        (watcher.folder / "old").rename(watcher.folder / "new")
        new = watcher.folder / "new/a.txt"
        await until(lambda: [s.path for s in watcher.ada.catalog.shares()] == [new])
        await until(lambda: not watch.waiting)
    assert withdrawn == []


async def test_share_that_was_dropped_elsewhere_comes_back(watcher: Watcher) -> None:
    path = watcher.put("a.txt", "a")
    async with watcher.watching() as watch:
        await watcher.settled(watch, "a.txt")
        [share] = watcher.ada.catalog.shares()
        watcher.hashed.clear()
        await watcher.sharing.drop_changed(share.content_id, path)
        await watcher.another_look(watch)
        await watcher.settled(watch, "a.txt")
        assert watcher.hashed == ["a.txt"]


async def test_folder_that_cannot_be_heard_is_looked_through_all_the_same(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.bell.FOLDERS_MAX", 0)
    monkeypatch.setattr(watching, "POLL_S", 0.05)
    async with watcher.watching() as watch:
        watcher.put("a.txt", "a")
        await watcher.settled(watch, "a.txt")
    assert any("not every change" in note for note in watcher.notes)


async def test_folder_that_goes_and_comes_back_is_heard_again(watcher: Watcher) -> None:
    path = watcher.put("a.txt", "a")
    async with watcher.watching() as watch:
        await watcher.settled(watch, "a.txt")
        path.unlink()
        watcher.folder.rmdir()
        await watcher.settled(watch)
        watcher.folder.mkdir()
        watcher.put("b.txt", "b")
        await watcher.settled(watch, "b.txt")


async def test_schedule_that_is_full_is_told_and_ends_nothing(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = watcher.ada.dht.publish

    async def full(payloads: object) -> None:
        raise ScheduleFull

    monkeypatch.setattr(watcher.ada.dht, "publish", full)
    watcher.put("a.txt", "a")
    async with watcher.watching() as watch:
        await until(lambda: any("not all of" in note for note in watcher.notes))
        monkeypatch.setattr(watcher.ada.dht, "publish", publish)
        watcher.put("b.txt", "b")
        await watcher.settled(watch, "b.txt")


async def test_many_new_files_leave_the_event_loop_free(watcher: Watcher) -> None:
    names = [f"{number:04}.txt" for number in range(300)]
    for name in names:
        watcher.put(name, name)
    async with loop_lag() as lag, watcher.watching() as watch:
        await watcher.settled(watch, *names)
    assert lag.longest_s < LAG_MAX_S


def test_folders_within_others_are_watched_once() -> None:
    a, below, b = Path("/a"), Path("/a/x/y"), Path("/ab")
    assert outermost([below, a, b, a]) == [a, b]


def test_home_cannot_be_shared_and_what_is_missing_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.ensure()
    (tmp_path / "link").symlink_to(home.path)
    check_shares([tmp_path], home)
    for wrong in (home.path, tmp_path / "link", tmp_path / "missing"):
        with pytest.raises(BadInput):
            check_shares([wrong], home)


async def test_start_takes_files_and_folders_and_leaves_watched_files_to_the_watch(
    watcher: Watcher, tmp_path: Path
) -> None:
    single = tmp_path / "single.txt"
    single.write_text("single")
    changed = watcher.put("a.txt", "a")
    await _start_once(watcher, [single, watcher.folder])
    changed.write_text("changed")
    await _start_once(watcher, [single, watcher.folder])


async def _start_once(watcher: Watcher, paths: list[Path]) -> None:
    notes: list[str] = []
    offering = Offering(watcher.ada, watcher.sharing, paths, lambda text, _: notes.append(text))
    [watch] = offering.watches
    task = asyncio.create_task(offering.run())
    await until(lambda: watcher.names == ["a.txt", "single.txt"])
    await until(lambda: watch.turns > 0 and not watch.waiting)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert notes == []  # a watched file that changes is no news


def _contents(watcher: Watcher) -> list[bytes]:
    return [share.content_id for share in watcher.ada.catalog.shares()]
