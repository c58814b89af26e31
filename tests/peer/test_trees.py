"""Shared folders: one share each, their files served while unchanged, nothing left behind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peer.background import Background
from peer.core import Core
from peer.fetching import Fetching
from peer.serving import Offered
from peer.sharing import Sharing
from tests.dht.nodes import until
from tests.peer.cores import address_of, cores_of
from transfer.manifest import decode_manifest
from transfer.packs import read_pack_blocking
from transfer.tree_walk import hash_tree
from transfer.wire import FrameStatus


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[list[Core]]:
    async with cores_of(tmp_path / "homes", "ada", "bob") as cores:
        yield cores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "blue whales"
    (root / "songs").mkdir(parents=True)
    for number in range(9):
        (root / "songs" / f"{number}.txt").write_bytes(b"song %d" % number)
    (root / "large.bin").write_bytes(bytes(1_200_000))
    return root


def sharing_of(core: Core) -> Sharing:
    sharing = Sharing(core)
    sharing.advertise([address_of(core)])
    return sharing


def rows(core: Core) -> tuple[int, int, list[str]]:
    """Trees, their files and the listings that the home holds."""
    trees, files = (
        core.database.rows(f"SELECT count(*) FROM {table}")[0][0] for table in ("tree", "tree_file")
    )
    return trees, files, sorted(path.name for path in (core.home.path / "trees").iterdir())


async def test_folder_publishes_its_own_records_and_serves_each_file(
    pair: list[Core], folder: Path
) -> None:
    ada, bob = pair
    sharing, background = sharing_of(ada), Background()
    published = await sharing.put(folder, None)
    share = published.share
    assert (share.name, share.size_bytes) == ("blue whales", 9 * 6 + 1_200_000)
    assert published.stored_on == 1
    assert [hit.filename for hit in await bob.dht.search(["whales"], 10)] == ["blue whales"]
    assert await bob.dht.search(["songs"], 10) == []
    assert {type(payload).__name__ for payload in sharing.payloads(share)} == {
        *("NamePayload", "ContentPayload", "WordPayload")
    }

    offered = Offered(ada.catalog, Fetching(ada), sharing, background)
    hashed = await hash_tree(folder)
    listing = offered.open_source(share.content_id)
    assert listing is not None
    assert listing.path.read_bytes() == hashed.tree.listing
    small = [file for file in hashed.files if file.manifest is None]
    [large] = [file for file in hashed.files if file.manifest is not None]
    read = read_pack_blocking(offered.pack_sources([f.content_id for f in small]), [False] * 9)
    assert read.data == b"".join((folder / file.path).read_bytes() for file in small)
    for file in (large, small[0]):
        source = offered.open_source(file.content_id)
        assert source is not None
        assert source.path == folder / file.path
        assert source.manifest.content_id == file.content_id
    assert large.manifest is not None
    assert decode_manifest(large.manifest).size_bytes == 1_200_000
    await background.close()


async def test_changed_file_ends_the_share_and_leaves_nothing(
    pair: list[Core], folder: Path
) -> None:
    ada, bob = pair
    sharing, background = sharing_of(ada), Background()
    share = (await sharing.put(folder, None)).share
    offered = Offered(ada.catalog, Fetching(ada), sharing, background)
    changed = next(f for f in (await hash_tree(folder)).files if f.path == "songs/3.txt")
    (folder / "songs" / "3.txt").write_bytes(b"a cover")
    sources = offered.pack_sources([changed.content_id])
    read = read_pack_blocking(sources, [False])
    assert (read.status, read.failed) == (FrameStatus.CHANGED, 0)
    offered.source_changed(changed.content_id, folder / "songs" / "3.txt")
    await until(lambda: ada.catalog.shares() == [] and rows(ada) == (0, 0, []))
    assert offered.pack_sources([changed.content_id]) == [None]
    assert offered.open_source(share.content_id) is None
    assert await bob.dht.find_name("blue whales") == []
    await background.close()


async def test_folder_put_anew_takes_the_place_of_the_former(
    pair: list[Core], folder: Path
) -> None:
    ada = pair[0]
    sharing = sharing_of(ada)
    first = (await sharing.put(folder, None)).share
    again = (await sharing.put(folder, None)).share
    assert again.content_id == first.content_id
    assert rows(ada) == (1, 10, [f"{first.content_id.hex()}.listing"])
    (folder / "songs" / "new.txt").write_bytes(b"new")
    second = (await sharing.put(folder, None)).share
    assert second.content_id != first.content_id
    assert rows(ada) == (1, 11, [f"{second.content_id.hex()}.listing"])
    await sharing.put(folder, "another name")
    await sharing.unshare("blue whales")
    assert [share.name for share in ada.catalog.shares()] == ["another name"]
    assert rows(ada)[:2] == (1, 11)
    await sharing.unshare("another name")
    assert rows(ada) == (0, 0, [])


async def test_restart_keeps_a_folder_and_drops_one_that_changed(
    pair: list[Core], folder: Path
) -> None:
    ada = pair[0]
    await sharing_of(ada).put(folder, None)
    after = sharing_of(ada)
    assert await after.resume() == []
    assert [share.name for share in ada.catalog.shares()] == ["blue whales"]
    (folder / "songs" / "5.txt").write_bytes(b"a cover")
    [line] = await after.resume()
    assert "5.txt changed" in line
    assert ada.catalog.shares() == []
    assert rows(ada) == (0, 0, [])
