"""A home on a disk with no byte free: each file says that the disk is full, in plain words."""

import asyncio
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peer.database import Database
from peer.failures import ExitCode, failure_of
from peer.home import Home
from queueing.journal import Journal
from queueing.spool import Spool
from tests.support.disks import fill, small_disk
from tests.support.processes import run_shoal

DISK_BYTES = 2 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
        yield folder


def use_database(folder: Path) -> None:
    Database(folder / "shoal.db").close()


def use_spool(folder: Path) -> None:
    async def run() -> None:
        spool = await Spool.open(folder / "spool", bytes(32), wall_ms=lambda: 0)
        await spool.close()

    asyncio.run(run())


def use_journal(folder: Path) -> None:
    async def run() -> None:
        await (await Journal.open(folder / "journal.db")).close()

    asyncio.run(run())


def use_lock(folder: Path) -> None:
    Home(folder / "home").lock().release()


@pytest.mark.parametrize("use", [use_database, use_spool, use_journal, use_lock])
@pytest.mark.parametrize("is_new", [False, True], ids=["used before", "new"])
def test_file_of_a_home_on_a_full_disk_says_so(
    disk: Path, use: Callable[[Path], None], is_new: bool
) -> None:
    if not is_new:
        use(disk)
    fill(disk)
    with pytest.raises(Exception) as caught:
        use(disk)
    failure = failure_of(caught.value)
    assert failure.exit_code is ExitCode.FULL
    assert failure.message.startswith("the disk is full: ")
    assert str(disk) in failure.message
    assert failure.hint.startswith("make room on it")
    for filler in disk.glob("filler*"):
        filler.unlink()
    use(disk)


def test_join_on_a_full_disk_is_exit_7_with_the_cause(tmp_path: Path) -> None:
    with small_disk(tmp_path / "home", DISK_BYTES) as home:
        fill(home)
        done = run_shoal(tmp_path, "join", "--no-table", "--listen", "127.0.0.1:0", timeout_s=30)
        assert (done.code, done.stdout) == (ExitCode.FULL, "")
        first, second = done.stderr.strip().splitlines()
        assert first.startswith("shoal: the disk is full: ")
        assert second.startswith("hint: make room on it")


def test_full_stdout_is_not_called_a_full_disk() -> None:
    assert failure_of(OSError(errno.ENOSPC, "No space left on device")).message == (
        "No space left on device"
    )
