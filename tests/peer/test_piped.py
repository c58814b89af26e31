import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peer.config import Config, DiskConfig, ShareConfig
from peer.core import Core
from peer.errors import HomeFull
from peer.failures import ExitCode
from peer.home import Home
from peer.piped import BLOCK_BYTES, PipedFull, piped, sweep
from peer.sharing import Sharing
from tests.peer.cores import address_of, cores_of


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.ensure()
    return home


def left(home: Home) -> list[Path]:
    return list(home.piped.iterdir())


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 1])
def test_stream_becomes_a_private_file_that_stays(home: Home, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with piped(home, Config(), io.BytesIO(data), keep=True) as path:
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o600
    assert left(home) == [path]


@pytest.mark.parametrize("keep", [True, False])
def test_what_failed_or_was_only_sent_is_deleted(home: Home, keep: bool) -> None:
    with piped(home, Config(), io.BytesIO(b"x"), keep=False):
        assert len(left(home)) == 1
    assert left(home) == []
    with (
        pytest.raises(KeyboardInterrupt),
        piped(home, Config(), io.BytesIO(b"x"), keep=keep),
    ):
        raise KeyboardInterrupt
    assert left(home) == []


class Endless(io.RawIOBase):
    """A stream without an end; says how much was read of it."""

    taken = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.taken += size
        return bytes(size)


def test_quota_counts_all_that_was_piped_and_ends_an_endless_stream(home: Home) -> None:
    config = Config(share=ShareConfig(piped_quota_bytes=3 * BLOCK_BYTES))
    with piped(home, config, io.BytesIO(bytes(BLOCK_BYTES)), keep=True) as kept:
        pass
    stream = Endless()
    with pytest.raises(PipedFull) as caught, piped(home, config, stream, keep=True):  # type: ignore[arg-type]
        pass
    assert caught.value.exit_code is ExitCode.FULL
    assert stream.taken == 3 * BLOCK_BYTES
    assert left(home) == [kept]


def test_disk_keeps_the_room_that_is_to_stay_free(home: Home) -> None:
    config = Config(disk=DiskConfig(free_bytes_min=1 << 62))
    stream = Endless()
    with pytest.raises(HomeFull), piped(home, config, stream, keep=True):  # type: ignore[arg-type]
        pass
    assert (stream.taken, left(home)) == (BLOCK_BYTES, [])


def test_sweep_takes_what_no_share_uses_and_nobody_writes(home: Home) -> None:
    with piped(home, Config(), io.BytesIO(b"1"), keep=True) as shared:
        pass
    with piped(home, Config(), io.BytesIO(b"2"), keep=True) as orphan:
        pass
    with piped(home, Config(), io.BytesIO(b"3"), keep=True) as written:
        assert sweep(home, {shared}) == 1
        assert set(left(home)) == {shared, written}
    assert orphan not in left(home)


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncIterator[Core]:
    async with cores_of(tmp_path / "homes", "ada") as [core]:
        yield core


async def put(core: Core, sharing: Sharing, data: bytes, name: str) -> Path:
    with piped(core.home, Config(), io.BytesIO(data), keep=True) as path:
        await sharing.put(path, name)
    return path


async def test_piped_file_goes_when_its_last_share_goes(ada: Core) -> None:
    sharing = Sharing(ada)
    sharing.advertise([address_of(ada)])
    path = await put(ada, sharing, b"log", "a.log")
    await sharing.put(path, "b.log")
    await sharing.unshare("a.log")
    assert left(ada.home) == [path]
    await sharing.resume()  # sweeps, and must leave what is shared
    assert left(ada.home) == [path]
    await sharing.unshare("b.log")
    assert left(ada.home) == []


@pytest.mark.parametrize("again", [b"log", b"another log"])
async def test_piped_file_goes_when_its_name_is_put_anew(ada: Core, again: bytes) -> None:
    sharing = Sharing(ada)
    sharing.advertise([address_of(ada)])
    await put(ada, sharing, b"log", "a.log")
    newer = await put(ada, sharing, again, "a.log")
    assert left(ada.home) == [newer]


async def test_other_files_are_never_deleted(ada: Core, tmp_path: Path) -> None:
    sharing = Sharing(ada)
    sharing.advertise([address_of(ada)])
    path = tmp_path / "mine.txt"
    path.write_bytes(b"mine")
    await sharing.put(path, None)
    await sharing.unshare("mine.txt")
    assert path.read_bytes() == b"mine"
