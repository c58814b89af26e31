import asyncio
import os
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peer import bell as module
from peer.bell import Bell

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
async def bell(folder: Path) -> AsyncIterator[Bell]:
    bell = Bell()
    assert bell.listen({str(folder): folder.stat().st_ino})
    yield bell
    bell.close()
    bell.close()


async def rings(bell: Bell) -> bool:
    await bell.wait(0.2)
    rung = bell._rung.is_set()
    bell.hush()
    return rung


async def test_what_happens_to_files_rings(bell: Bell, folder: Path) -> None:
    assert not await rings(bell)
    for happen in (
        lambda: (folder / "a").write_text("x"),
        lambda: (folder / "a").chmod(0o600),
        lambda: (folder / "a").rename(folder / "b"),
        lambda: (folder / "b").unlink(),
        lambda: (folder / "below").mkdir(),
    ):
        happen()
        assert await rings(bell)
    (folder / ".hidden").write_text("x")
    list(folder.iterdir())
    assert not await rings(bell)


async def test_folder_of_the_same_name_is_another_one(bell: Bell, folder: Path) -> None:
    below = folder / "below"
    below.mkdir()
    folders = {str(folder): folder.stat().st_ino, str(below): below.stat().st_ino}
    assert bell.listen(folders)
    assert not bell.listen(folders)
    kept = os.open(below, os.O_RDONLY)  # keeps its inode from being taken again
    below.rmdir()
    below.mkdir()
    assert bell.listen({str(folder): folder.stat().st_ino, str(below): below.stat().st_ino})
    os.close(kept)
    await rings(bell)
    (below / "a").write_text("x")
    assert await rings(bell)


async def test_end_of_the_watched_folder_rings(bell: Bell, folder: Path) -> None:
    folder.rmdir()
    assert await rings(bell)


async def test_overflow_of_the_kernels_queue_rings(bell: Bell) -> None:
    reader, writer = os.pipe()
    loop = asyncio.get_running_loop()
    loop.remove_reader(bell._descriptor)
    os.dup2(reader, bell._descriptor)
    os.close(reader)
    hidden = struct.pack("iIII16s", 1, 0x100, 0, 16, b".hidden")
    os.write(writer, hidden + struct.pack("iIII", -1, 0x4000, 0, 0))
    bell._heard()
    assert bell._rung.is_set()
    os.close(writer)
    loop.add_reader(bell._descriptor, bell._heard)


async def test_more_folders_than_can_be_heard_are_told_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLDERS_MAX", 1)
    (folder / "below").mkdir()
    bell = Bell()
    folders = {str(path): path.stat().st_ino for path in (folder, folder / "below")}
    bell.listen(folders)
    assert "more than 1" in bell.trouble
    del folders[str(folder / "below")]
    bell.listen(folders)
    assert bell.trouble == ""
    bell.close()
